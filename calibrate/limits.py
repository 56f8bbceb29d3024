"""Limits from good parts alone, with a promise that holds for any distribution of scores.

The limit is an order statistic of n held-out good scores with r of them above it. Whatever the distribution, the
share of good parts above it is at most p with confidence 1 - δ, where p solves P(Binomial(n, p) <= r) = δ (Clopper
and Pearson, 1934; with r = 0 it is 1 - δ^(1/n)). We take the largest r whose bound keeps the wish, hence the tightest
limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mapl_edge.arrays import Float64Array
from mapl_edge.calibration import Promise, percent
from mapl_edge.errors import DataError, OptionError

MIN_NORMALS = 10
LEAST_SHARE = 1e-9  # nobody has the three billion pictures that less would need


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
        n_next: the fewest good scores that would buy something: the wish kept, or one more above a lower limit.
    """

    limit: float
    achieved: float
    max_false_reject: float
    confidence: float
    n_good: int
    n_above: int
    n_needed: int
    n_next: int

    @property
    def more(self) -> str:
        """What more pictures would buy, one line."""
        what = (
            "keep" if self.achieved > self.max_false_reject else "let one more lie above a lower limit and still keep"
        )
        return f"{self.n_next - self.n_good} more good parts would {what} {percent(self.max_false_reject)}"

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
        DataError: fewer than ten scores, one that is no number, or all of them equal.
        OptionError: an impossible promise.
    """
    if not LEAST_SHARE <= max_false_reject < 1 or not 0 < confidence < 1:
        percents = [share / 100 if 1 < share < 100 else share for share in (max_false_reject, confidence)]
        meant = [
            f"{share:g} for {100 * share:g} %" for share in percents if share not in (max_false_reject, confidence)
        ]
        raise OptionError(
            f"promise of at most {max_false_reject:g} with confidence {confidence:g} is impossible; "
            f"expected both between 0 and 1{', such as ' if meant else ''}{' and '.join(meant)}"
        )
    ordered = checked_scores(scores, "good parts")
    n = len(ordered)
    n_above = max(0, most_above(n, max_false_reject, confidence))
    achieved = upper_bound(n_above, n, confidence)
    return NormalLimit(
        limit=float(ordered[n - 1 - n_above]),
        achieved=achieved,
        max_false_reject=max_false_reject,
        confidence=confidence,
        n_good=n,
        n_above=n_above,
        n_needed=fewest_for(0, max_false_reject, confidence),
        n_next=fewest_for(n_above + 1 if achieved <= max_false_reject else 0, max_false_reject, confidence),
    )


def promise_of_any_limit(scores: Sequence[float], limit: float, confidence: float) -> Promise:
    """What a limit promises that somebody chose with a look at these scores (Dvoretzky, Kiefer, Wolfowitz, Massart)."""
    n, n_above = len(scores), sum(score > limit for score in scores)
    bound = bound_of_any_limit(n_above, n, confidence)
    return Promise(max_false_reject=bound, confidence=confidence, achieved=bound, n_good=n, n_above=n_above, n_needed=n)


def bound_of_any_limit(events: int, n: int, confidence: float) -> float:
    """Upper bound on a share of which `events` in `n` were seen, beyond a limit that was chosen with a look at them."""
    return min(1.0, events / n + math.sqrt(-math.log(min(0.5, 1 - confidence)) / (2 * n)))


def checked_scores(scores: npt.ArrayLike, what: str) -> Float64Array:
    """The scores of `what`, ascending.

    Raises:
        DataError: fewer than ten, one that is no number, or all of them equal.
    """
    try:
        ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    except (TypeError, ValueError) as exc:
        raise DataError(f"the scores of {what} are not all numbers ({exc}); expected one number a part") from exc
    n = len(ordered)
    if n < MIN_NORMALS:
        raise DataError(f"found {n} {what} to calibrate with, expected at least {MIN_NORMALS}; add pictures")
    if not np.isfinite(ordered).all():
        raise DataError(f"{int((~np.isfinite(ordered)).sum())} of {n} scores are not numbers; the model is broken")
    if ordered[0] == ordered[-1]:
        raise DataError(f"all {n} scores of {what} are {ordered[0]:g}; the model sees no difference between parts")
    return ordered


@lru_cache(maxsize=1024)
def most_above(n: int, share: float, confidence: float) -> int:
    """The most of n scores that may lie above a limit whose bound is still at most `share`; -1: not even none."""
    # upper_bound(r) <= share exactly when P(Binomial(n, share) <= r) <= 1 - confidence, so one sum finds r
    total, r = 0.0, -1
    while r + 1 < n:
        total += math.exp(_log_choose(n, r + 1) + (r + 1) * math.log(share) + (n - r - 1) * math.log1p(-share))
        if total > 1 - confidence:
            break
        r += 1
    while r >= 0 and upper_bound(r, n, confidence) > share:  # the last bit of the sum
        r -= 1
    return r


@lru_cache(maxsize=1024)
def fewest_for(events: int, share: float, confidence: float) -> int:
    """The fewest trials with which `events` in them still bound a share by `share`."""
    if events == 0:
        return math.ceil(math.log(1 - confidence) / math.log1p(-share))
    low, high = events, 2 * events + 2
    while upper_bound(events, high, confidence) > share:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_bound(events, middle, confidence) > share else (low, middle)
    return high


@lru_cache(maxsize=1024)
def upper_bound(events: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound on a share of which `events` in `n` trials were seen."""
    if events >= n:
        return 1.0
    if events == 0:
        return -math.expm1(math.log(1 - confidence) / n)
    k = np.arange(events + 1)
    log_choose = np.array([_log_choose(n, i) for i in range(events + 1)])
    low, high = events / n, 1.0
    while True:  # bisection to the last bit: P(Binomial(n, p) <= events) falls as p grows
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if np.exp(log_choose + k * math.log(middle) + (n - k) * math.log1p(-middle)).sum() > 1 - confidence:
            low = middle
        else:
            high = middle


def lower_bound(events: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson lower bound."""
    return 1 - upper_bound(n - events, n, confidence)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
