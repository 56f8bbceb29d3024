"""ARLs and limits are the published ones, those of a Markov chain, and those of a simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from mapl_edge.run_length import cusum_limit, cusum_run_length, ewma_limit, ewma_run_length


@pytest.mark.parametrize(
    ("k", "h", "shift", "published"),
    [
        (0.5, 4, 0.0, 168),
        (0.5, 4, 0.5, 26.6),
        (0.5, 4, 1.0, 8.38),
        (0.5, 4, 2.0, 3.34),
        (0.5, 5, 0.0, 465),
        (0.5, 5, 1.0, 10.4),
        (0.25, 8.01, 0.0, 370),
    ],
)
def test_cusum_is_the_published_one(k: float, h: float, shift: float, published: float) -> None:
    """Montgomery, Introduction to Statistical Quality Control, tables 9.3 and 9.4; Lucas and Crosier 1982."""
    assert cusum_run_length(k, h, shift) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("weight", "limit", "published"),
    [
        (0.4, 3.054, 500),
        (0.25, 2.998, 500),
        (0.2, 2.962, 500),
        (0.1, 2.814, 500),
        (0.05, 2.615, 500),
        (0.1, 2.703, 370),
    ],
)
def test_ewma_is_the_published_one(weight: float, limit: float, published: float) -> None:
    """Lucas and Saccucci 1990, table 3; Crowder 1989."""
    assert ewma_run_length(weight, limit) == pytest.approx(published, rel=0.006)


def test_ewma_off_target_is_the_published_one() -> None:
    """Lucas and Saccucci 1990, weight 0.1, limit 2.814."""
    assert ewma_run_length(0.1, 2.814, 1.0) == pytest.approx(10.3, abs=0.1)


def chain(cells: np.ndarray, moved: np.ndarray, start: int, to_zero: bool) -> float:
    """Brook and Evans 1972: states are cells (edges), `moved` their means after one part, unit deviation."""
    edges = cells.copy()
    if to_zero:
        edges[0] = -np.inf
    moves = norm.cdf(edges[None, 1:] - moved[:, None]) - norm.cdf(edges[None, :-1] - moved[:, None])
    return float(np.linalg.solve(np.eye(len(moves)) - moves, np.ones(len(moves)))[start])


@pytest.mark.parametrize(("k", "h", "shift"), [(0.5, 4.0, 0.0), (0.25, 9.0, 0.3), (1.0, 2.0, -0.5)])
def test_cusum_is_that_of_a_markov_chain(k: float, h: float, shift: float) -> None:
    """Written out with midpoints of cells."""
    n = 800
    width = 2 * h / (2 * n - 1)
    edges = np.concatenate([[0.0], (np.arange(1, n + 1) - 0.5) * width])
    both = [chain(edges, np.arange(n) * width - k + sign * shift, 0, True) for sign in (1, -1)]

    assert cusum_run_length(k, h, shift) == pytest.approx(1 / (1 / both[0] + 1 / both[1]), rel=1e-3)


def test_ewma_is_that_of_a_markov_chain() -> None:
    """In units of the weight, so that the noise has unit deviation."""
    weight, limit, n = 0.05, 3.5, 801
    c = limit * np.sqrt(weight / (2 - weight)) / weight
    edges = np.linspace(-c, c, n + 1)
    middles = (edges[1:] + edges[:-1]) / 2

    assert ewma_run_length(weight, limit) == pytest.approx(
        chain(edges, (1 - weight) * middles, n // 2, False), rel=1e-3
    )


@pytest.mark.parametrize("wished", [50.0, 2100.0, 210_000.0, 2.1e8])
def test_limits_give_the_run_length_that_was_wished(wished: float) -> None:
    """From the shortest to the longest that a station can ask for; EWMAs as slow as the charts' too."""
    assert cusum_run_length(0.5, cusum_limit(0.5, wished)) == pytest.approx(wished, rel=1e-4)
    for weight in (0.02, 0.005):
        assert ewma_run_length(weight, ewma_limit(weight, wished)) == pytest.approx(wished, rel=1e-4)


def test_simulation_agrees() -> None:
    """4,000 runs of both charts on normal values."""
    rng, n, k, h, weight, limit = np.random.default_rng(1), 4000, 0.5, 4.0, 0.1, 2.2
    up, down, mean = np.zeros(n), np.zeros(n), np.zeros(n)
    cusum, ewma = np.zeros(n), np.zeros(n)
    for part in range(1, 3000):
        z = rng.standard_normal(n)
        up, down, mean = np.maximum(0, up + z - k), np.maximum(0, down - z - k), mean + weight * (z - mean)
        cusum[(cusum == 0) & (np.maximum(up, down) > h)] = part
        ewma[(ewma == 0) & (np.abs(mean) > limit * np.sqrt(weight / (2 - weight)))] = part

    assert cusum.mean() == pytest.approx(cusum_run_length(k, h), rel=0.06)
    assert ewma.mean() == pytest.approx(ewma_run_length(weight, limit), rel=0.06)
