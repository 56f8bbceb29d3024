"""The trade-off between rejecting good parts and missing defects, and four ways to choose a limit on it.

A limit from the good parts alone (`limit_from_normals`) does not depend on the defects, so its miss rate has an exact
Clopper-Pearson bound; a limit for a recall comes from the defects alone, so its false rejects have one. F1-max and
least cost look at both: their shares still show Clopper-Pearson intervals, but those are of a limit that was chosen on
the same parts. F1 and cost have bootstrap intervals, in which F1-max and least cost choose anew on each resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mapl_edge.arrays import Float64Array
from mapl_edge.bootstrap import RESAMPLES, Interval, resampled
from mapl_edge.calibrate.limits import lower_bound, most_above, upper_bound
from mapl_edge.calibration import Costs
from mapl_edge.errors import DataError, OptionError

Rule = Literal["promise", "f1", "recall", "cost"]
_AT_ONCE = 50  # resamples; keeps ten thousand parts at a few MB


@dataclass(frozen=True, slots=True)
class Share:
    """`events` of `n` parts.

    Attributes:
        interval: Clopper-Pearson, both sides.
        bound: Clopper-Pearson upper bound, one side, at the same confidence.
    """

    events: int
    n: int
    interval: Interval
    bound: float

    @property
    def value(self) -> float:
        """The share that was seen."""
        return self.events / self.n


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one limit does on labelled parts.

    Attributes:
        rule: how the limit was chosen.
        limit: parts with a score above it are rejected.
        f1, f1_interval: with the defects as positives.
        cost, cost_interval: per part; None where no costs were given.
    """

    rule: Rule
    limit: float
    false_rejects: Share
    misses: Share
    f1: float
    f1_interval: Interval
    cost: float | None
    cost_interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = asdict(self)
        for name in ("false_rejects", "misses"):
            plain[name]["value"] = getattr(self, name).value
        return plain


class Tradeoff:
    """Scores of good and defective parts, and every limit that tells them apart differently.

    Attributes:
        limits: from the highest score (nothing is rejected) down to below the lowest; between two scores in the middle.
        rejected, found: good parts rejected and defects found at each limit.
    """

    def __init__(
        self, good: npt.ArrayLike, bad: npt.ArrayLike, confidence: float = 0.95, costs: Costs | None = None
    ) -> None:
        """Take finite scores of at least one part of each kind.

        Raises:
            DataError: there are none of a kind, or one is no number.
            OptionError: the costs make no sense.
        """
        self.good, self.bad = (np.sort(np.asarray(s, np.float64).ravel()) for s in (good, bad))
        if not len(self.good) or not len(self.bad):
            raise DataError(f"found {len(self.good)} good and {len(self.bad)} defective parts, expected both")
        if not np.isfinite(self.good).all() or not np.isfinite(self.bad).all():
            raise DataError("a score is not a number; the model is broken")
        self.confidence, self.costs = confidence, costs
        if costs is not None:
            _check_costs(costs)
        levels = np.unique(np.concatenate([self.good, self.bad]))[::-1]
        middle = levels[:-1] / 2 + levels[1:] / 2
        # neighbours without a number between them: the lower one, which passes
        middle = np.where(middle < levels[:-1], np.maximum(middle, levels[1:]), levels[1:])
        self.limits: Float64Array = np.concatenate([levels[:1], middle, [np.nextafter(levels[-1], -np.inf)]])
        self.rejected = len(self.good) - np.searchsorted(self.good, self.limits, side="right")
        self.found = len(self.bad) - np.searchsorted(self.bad, self.limits, side="right")

    def at(self, limit: float, rule: Rule = "promise") -> OperatingPoint:
        """What this limit does."""
        fp, tp = int((self.good > limit).sum()), int((self.bad > limit).sum())
        n, p = len(self.good), len(self.bad)
        rng = np.random.default_rng(0)  # a bootstrap at a fixed limit is two binomials
        fps, tps = rng.binomial(n, fp / n, RESAMPLES), rng.binomial(p, tp / p, RESAMPLES)
        cost = self._cost(np.array([tp]), np.array([fp]))
        return OperatingPoint(
            rule=rule,
            limit=float(limit),
            false_rejects=self._share(fp, n),
            misses=self._share(p - tp, p),
            f1=_f1(np.array([tp]), np.array([fp]), p).item(),
            f1_interval=self._interval(_f1(tps, fps, p)),
            cost=None if cost is None else cost.item(),
            cost_interval=None if cost is None else self._interval(self._cost(tps, fps)),
        )

    def f1_max(self) -> OperatingPoint:
        """The limit with the largest F1; of equal ones the highest."""
        return self._best("f1", lambda tp, fp: _f1(tp, fp, len(self.bad)))

    def cheapest(self) -> OperatingPoint:
        """The limit with the least cost; of equal ones the highest."""
        return self._best("cost", lambda tp, fp: -self._costs(tp, fp))

    def for_recall(self, target: float) -> OperatingPoint:
        """The highest limit that finds at least `target` of defects with `confidence`; the best one if none does."""
        if not 0 < target < 1:
            raise OptionError(f"recall of {target:g} is impossible to promise; expected a number between 0 and 1")
        n_missed = max(0, most_above(len(self.bad), 1 - target, self.confidence))
        return self.at(float(np.nextafter(self.bad[n_missed], -np.inf)), "recall")

    def bound_for_any_limit(self, point: OperatingPoint) -> float:
        """Upper bound on false rejects that holds however the limit was chosen (Dvoretzky, Kiefer, Wolfowitz, Massart).

        A limit chosen on the same good parts may have been lucky with them; this bound covers all limits at once.
        """
        delta = min(0.5, 1 - self.confidence)
        return min(1.0, point.false_rejects.value + math.sqrt(-math.log(delta) / (2 * point.false_rejects.n)))

    def _best(self, rule: Rule, merit: Callable[[npt.NDArray[Any], npt.NDArray[Any]], Float64Array]) -> OperatingPoint:
        best = self.at(self.limits[int(np.argmax(merit(self.found, self.rejected)))], rule)
        values = self._interval(np.concatenate([merit(*counts).max(axis=1) for counts in self._resamples()]))
        if rule == "f1":
            return _replaced(best, f1_interval=values)
        return _replaced(best, cost_interval=(0.0 - values[1], 0.0 - values[0]))  # no -0.0

    def _resamples(self) -> Iterator[tuple[Float64Array, Float64Array]]:
        """Defects found and good parts rejected at every limit, (R, limits), for each bunch of resamples."""
        scores = np.concatenate([self.good, self.bad])
        positive = np.arange(len(scores)) >= len(self.good)
        place = (
            len(self.limits) - 1 - np.searchsorted(self.limits[::-1], scores, side="left")
        )  # rejected after this one
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(len(self.limits)), side="left")
        for seed in range(RESAMPLES // _AT_ONCE):
            weights = resampled(positive, _AT_ONCE, seed)[:, order]
            hits, misses = (
                np.pad(np.cumsum(weights * of, axis=1), ((0, 0), (1, 0)))[:, ends]
                for of in (positive[order], ~positive[order])
            )
            yield hits, misses

    def _costs(self, tp: npt.NDArray[Any], fp: npt.NDArray[Any]) -> Float64Array:
        cost = self._cost(tp, fp)
        if cost is None:
            raise OptionError("the cheapest limit needs both costs; give --cost-miss and --cost-false-reject")
        return cost

    def _cost(self, tp: npt.NDArray[Any], fp: npt.NDArray[Any]) -> Float64Array | None:
        """Per part."""
        if self.costs is None:
            return None
        n, p = len(self.good), len(self.bad)
        rate = p / (n + p) if self.costs.defect_rate is None else self.costs.defect_rate
        missed, rejected = (p - tp) / p, fp / n
        return np.asarray(rate * self.costs.miss * missed + (1 - rate) * self.costs.false_reject * rejected, np.float64)

    def _share(self, events: int, n: int) -> Share:
        side = (1 + self.confidence) / 2
        interval = (lower_bound(events, n, side), upper_bound(events, n, side))
        return Share(events, n, interval, upper_bound(events, n, self.confidence))

    def _interval(self, values: Float64Array | None) -> Interval:
        assert values is not None
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)


def _f1(tp: npt.NDArray[Any], fp: npt.NDArray[Any], positives: int) -> Float64Array:
    return np.asarray(2 * tp / (tp + fp + positives), np.float64)


def _replaced(point: OperatingPoint, **changes: Any) -> OperatingPoint:
    return OperatingPoint(**{name: getattr(point, name) for name in point.__slots__} | changes)


def _check_costs(costs: Costs) -> None:
    for name, value in (("--cost-miss", costs.miss), ("--cost-false-reject", costs.false_reject)):
        if not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name} is {value:g}, expected a number above 0")
    if costs.defect_rate is not None and not 0 < costs.defect_rate < 1:
        raise OptionError(f"--defect-rate is {costs.defect_rate:g}, expected a share between 0 and 1")
