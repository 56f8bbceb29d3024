"""Run length: how many parts a control chart sees on average until it alarms, and the limit for a wished one (ARL).

The charts see independent standard normal values while nothing drifts; the average run length solves a Fredholm
integral equation of the second kind, here on Gauss-Legendre nodes (Crowder 1987 for the EWMA; Page 1954 and Goel and
Wu 1971 for the CUSUM). numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import erf, log, pi, sqrt

import numpy as np

from mapl_edge.arrays import Float64Array

NODES = 240  # the charts' slowest EWMA moves by 1/16 of its limit; fewer nodes miss such kernels


def cusum_run_length(k: float, h: float, shift: float = 0.0) -> float:
    """ARL of the two-sided CUSUM that starts at zero.

    Args:
        k: reference value: what is taken off each value, in standard deviations.
        h: limit.
        shift: true mean of the values in standard deviations.
    """
    up, down = _cusum_one_sided(k - shift, h), _cusum_one_sided(k + shift, h)
    return 1 / (1 / up + 1 / down)


def ewma_run_length(weight: float, limit: float, shift: float = 0.0) -> float:
    """ARL of the two-sided EWMA that starts at zero.

    Args:
        weight: of the newest value, 0 to 1.
        limit: in standard deviations that the EWMA has after many values, sqrt(weight / (2 - weight)).
        shift: as above.
    """
    c = limit * sqrt(weight / (2 - weight))
    y, w = _nodes(-c, c)
    kernel = w * _normal((y[None, :] - (1 - weight) * y[:, None]) / weight - shift) / weight
    at_nodes = np.linalg.solve(np.eye(NODES) - kernel, np.ones(NODES))
    return float(1 + w * _normal(y / weight - shift) / weight @ at_nodes)


@lru_cache(maxsize=64)
def cusum_limit(k: float, run_length: float) -> float:
    """The limit h whose ARL without drift is `run_length` (2 or more)."""
    return _limit(lambda h: cusum_run_length(k, h), run_length)


@lru_cache(maxsize=64)
def ewma_limit(weight: float, run_length: float) -> float:
    """The limit whose ARL without drift is `run_length` (2 or more), in standard deviations of the EWMA."""
    return _limit(lambda limit: ewma_run_length(weight, limit), run_length)


def _cusum_one_sided(k: float, h: float) -> float:
    # L(s) = 1 + L(0) Phi(k - s) + integral over 0..h of L(y) phi(y + k - s); L(0) is the first unknown.
    y, w = _nodes(0.0, h)
    s = np.concatenate([[0.0], y])
    kernel = np.column_stack([_below(k - s), w * _normal(y[None, :] + k - s[:, None])])
    return float(np.linalg.solve(np.eye(NODES + 1) - kernel, np.ones(NODES + 1))[0])


def _limit(run_length_of: Callable[[float], float], wished: float) -> float:
    """Small steps up (the nodes resolve no limit that is far too wide), then secants.

    The logarithm of the run length bends little, so three or four do; at a station's start each costs a moment.
    """
    aim = log(wished)
    low, below, high = 0.0, 0.0, 1.0  # with no limit each part is an alarm
    while (above := log(run_length_of(high))) < aim:
        low, below, high = high, above, high + 1.0
    while high - low > 1e-6:
        between = low + (high - low) * (aim - below) / (above - below)
        found = log(run_length_of(between))
        if abs(found - aim) < 1e-6:
            return between
        low, below, high, above = (between, found, high, above) if found < aim else (low, below, between, found)
    return high


def _nodes(low: float, high: float) -> tuple[Float64Array, Float64Array]:
    x, w = _legendre()
    return low + (high - low) * (x + 1) / 2, w * (high - low) / 2


@lru_cache(maxsize=1)
def _legendre() -> tuple[Float64Array, Float64Array]:
    x, w = np.polynomial.legendre.leggauss(NODES)
    return x, w


def _normal(z: Float64Array) -> Float64Array:
    return np.exp(-z * z / 2) / sqrt(2 * pi)


def _below(z: Float64Array) -> Float64Array:
    return np.array([(1 + erf(each / sqrt(2))) / 2 for each in z])
