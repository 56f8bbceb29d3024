"""Limits from good parts alone, with a promise that holds for any distribution of scores.

The limit is an order statistic of n held-out good scores with r of them above it. Whatever the distribution, the
share of good parts above it is at most p with confidence 1 - δ, where p solves P(Binomial(n, p) <= r) = δ (Clopper
and Pearson, 1934; with r = 0 it is 1 - δ^(1/n)). We take the largest r whose bound keeps the wish, hence the tightest
limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapl_edge.calibration import Promise
from mapl_edge.errors import DataError

MIN_NORMALS = 10


@dataclass(frozen=True, slots=True)
class NormalLimit:
    """A limit and what it promises.

    Attributes:
        limit: parts with a score above it are rejected.
        achieved: with `confidence`, at most this share of good parts is rejected.
        max_false_reject, confidence: what was asked for.
        n_good: how many good scores it rests on.
        n_above: how many of them lie above the limit.
        n_needed: the fewest good scores that could keep the wish at all (none above).
    """

    limit: float
    achieved: float
    max_false_reject: float
    confidence: float
    n_good: int
    n_above: int
    n_needed: int

    @property
    def promise(self) -> Promise:
        """All but the limit, as calibration.yaml keeps it."""
        return Promise(**{name: getattr(self, name) for name in Promise.model_fields})

    def __str__(self) -> str:
        return str(self.promise)


def limit_from_normals(scores: npt.ArrayLike, max_false_reject: float = 0.05, confidence: float = 0.95) -> NormalLimit:
    """The lowest limit that rejects at most `max_false_reject` of good parts with `confidence`.

    With too few scores for the wish the limit is the highest score, and `achieved` says what that promises.

    Args:
        scores: raw scores of at least ten good parts that training never saw.
        max_false_reject: wished bound on the share of good parts rejected, between 0 and 1.
        confidence: between 0 and 1.

    Raises:
        DataError: fewer than ten scores, one that is no number, or an impossible promise.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    n = len(ordered)
    if not 0 < max_false_reject < 1 or not 0 < confidence < 1:
        raise DataError(
            f"promise of at most {max_false_reject:g} with confidence {confidence:g} is impossible; "
            "expected both between 0 and 1"
        )
    if n < MIN_NORMALS:
        raise DataError(f"found {n} good parts to calibrate with, expected at least {MIN_NORMALS}; add pictures")
    if not np.isfinite(ordered).all():
        raise DataError(f"{int((~np.isfinite(ordered)).sum())} of {n} scores are not numbers; the model is broken")
    n_above = 0
    while n_above + 1 < n and upper_bound(n_above + 1, n, confidence) <= max_false_reject:
        n_above += 1
    return NormalLimit(
        limit=float(ordered[n - 1 - n_above]),
        achieved=upper_bound(n_above, n, confidence),
        max_false_reject=max_false_reject,
        confidence=confidence,
        n_good=n,
        n_above=n_above,
        n_needed=math.ceil(math.log(1 - confidence) / math.log1p(-max_false_reject)),
    )


def upper_bound(events: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound on a share of which `events` in `n` trials were seen."""
    if events >= n:
        return 1.0
    low, high = events / n, 1.0
    while True:  # bisection to the last bit: P(Binomial(n, p) <= events) falls as p grows
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if _binomial_cdf(events, n, middle) > 1 - confidence:
            low = middle
        else:
            high = middle


def _binomial_cdf(events: int, n: int, p: float) -> float:
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    return math.fsum(
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        for k in range(events + 1)
    )
