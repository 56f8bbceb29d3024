"""Decision: from scores and a wish to limits and what they promise. No file is touched here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mapl_edge.calibrate.limits import NormalLimit, bound_of_any_limit, fewest_for, limit_from_normals, upper_bound
from mapl_edge.calibrate.tradeoff import OperatingPoint, Rule, Tradeoff
from mapl_edge.calibration import Costs, Limits, Misses, PixelLimit, Promise, RegionFilter, at_most, percent
from mapl_edge.errors import DataError, OptionError


@dataclass(frozen=True, slots=True)
class Wish:
    """What the limits shall keep.

    Attributes:
        max_false_reject, confidence: the promise, see `limit_from_normals`; it sets the fail limit by rule "promise".
        review_false_reject: share of good parts that may get REVIEW or FAIL; None: no review limit.
        rule: what sets the fail limit; all but "promise" need defects.
        target_recall: for rule "recall": share of defects to find.
        costs: for rule "cost"; with another rule, the cost is only told.
        regions: what a region must have to fail a part; it gets a pixel limit, at most `max_false_reject` of good parts
            have such a region. None: no pixel limit.
    """

    max_false_reject: float = 0.05
    confidence: float = 0.95
    review_false_reject: float | None = None
    rule: Rule = "promise"
    target_recall: float | None = None
    costs: Costs | None = None
    regions: RegionFilter | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Limits and what they are worth.

    Attributes:
        promise: of the fail limit; where the rule looked at the good parts too, its bound holds for any limit.
        normal: the limit that the good parts alone give.
        points: what the fail limit (first) and the limits of the other rules do; empty without defects.
        tradeoff: None without defects.
        pixel: limit of the map's values; None without regions.
        target_recall: what rule "recall" aimed at; None with another rule.
    """

    limits: Limits
    rule: Rule
    promise: Promise
    review: NormalLimit | None
    normal: NormalLimit
    points: tuple[OperatingPoint, ...]
    tradeoff: Tradeoff | None
    pixel: NormalLimit | None = None
    target_recall: float | None = None

    @property
    def misses(self) -> Misses | None:
        """As calibration.yaml keeps it."""
        if self.tradeoff is None:
            return None
        share, confidence = self.points[0].misses, self.tradeoff.confidence
        looked = self.rule in ("f1", "cost")  # at these defects, for a limit of which no order statistic is known
        bound = bound_of_any_limit(share.events, share.n, confidence) if looked else share.bound
        return Misses(n_bad=share.n, n_missed=share.events, bound=bound, confidence=confidence)

    def lines(self) -> list[str]:
        """For people."""
        found = [f"limit {self.limits.fail:.6g} ({self.rule}): {self.promise}"]
        if self.review is not None:
            found.append(
                f"review limit {self.review.limit:.6g}: with {self.review.n_above} good parts above it, at most "
                f"{100 * self.review.achieved:.3g}% of good parts "
                + ("do not PASS" if self.pixel is None else "have a score above it, those with a region beside")
            )
            if self.limits.review == self.limits.fail:
                found.append(f"review and fail limit are the same with so few good parts; {self.review.more}")
        if self.pixel is not None:
            found.append(
                f"pixel limit {self.pixel.limit:.6g}: {self.pixel.n_above} good parts have a region above it, at most "
                f"{100 * self.pixel.achieved:.3g}% of good parts have one; score and regions together reject at most "
                f"{100 * min(1.0, self.promise.achieved + self.pixel.achieved):.1f}%"
            )
        if self.misses is not None:
            found.append(str(self.misses))
            found += [] if self.target_recall is None else [_recall_text(self.target_recall, self.misses)]
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "limit": self.limits.fail,
            "rule": self.rule,
            **self.promise.model_dump(),
            "n_next": self.normal.n_next,
            "review": None if self.review is None else asdict(self.review),
            "pixel": None if self.pixel is None else asdict(self.pixel),
            "misses": None if self.misses is None else self.misses.model_dump(),
            "points": [point.as_json() for point in self.points],
        }


def decide(good: Sequence[float], bad: Sequence[float], wish: Wish, levels: Sequence[float] | None = None) -> Decision:
    """Choose limits; `levels` of the good parts (`mapl_edge.regions.region_level`) give the pixel limit.

    Raises:
        DataError: the scores cannot carry the wish.
        OptionError: the wish is impossible, incomplete, or contradicts itself.
    """
    normal = limit_from_normals(good, wish.max_false_reject, wish.confidence)
    if wish.rule != "promise" and not bad:
        raise OptionError(f"a limit by {wish.rule} needs defective parts; give --bad FOLDER, or labels in the CSV")
    trade = Tradeoff(good, bad, wish.confidence, wish.costs) if bad else None
    points: tuple[OperatingPoint, ...] = ()
    limit, promise = normal.limit, normal.promise
    if trade is not None:
        by_rule = {"promise": trade.at(normal.limit), "f1": trade.f1_max()}
        if wish.target_recall is not None:
            by_rule["recall"] = trade.for_recall(wish.target_recall)
        if wish.costs is not None:
            by_rule["cost"] = trade.cheapest()
        if wish.rule not in by_rule:
            raise OptionError(f"a limit by {wish.rule} needs to know which; give --target-recall, or both costs")
        chosen = by_rule.pop(wish.rule)
        points = chosen, *by_rule.values()
        limit = chosen.limit
        promise = promise if wish.rule == "promise" else _promise(trade, chosen)
    review = _review(good, wish, limit)
    pixel = None
    if wish.regions is not None and levels is not None:
        pixel = limit_from_normals(levels, wish.max_false_reject, wish.confidence)
    limits = Limits(
        fail=limit,
        review=None if review is None else review.limit,
        pixel=None
        if pixel is None or wish.regions is None
        else PixelLimit(limit=pixel.limit, **wish.regions.model_dump()),
    )
    return Decision(
        limits,
        wish.rule,
        promise,
        review,
        normal,
        points,
        trade,
        pixel,
        wish.target_recall if wish.rule == "recall" else None,
    )


def _recall_text(target: float, misses: Misses) -> str:
    found = f"{100 - float(at_most(misses.bound)[:-1]):.1f}%"
    proved = f"recall: {percent(target)} wished, {found} proved ({100 * misses.confidence:g}% confidence)"
    if misses.bound <= 1 - target:
        return proved
    needed = fewest_for(misses.n_missed, 1 - target, misses.confidence)
    return f"{proved}; for {percent(target)} you need {needed} defects ({needed - misses.n_bad} more)"


def _promise(trade: Tradeoff, point: OperatingPoint) -> Promise:
    """What a limit that was not chosen by a share of false rejects promises; nothing more was wished."""
    rejected = point.false_rejects
    own = point.rule == "recall"  # from the defects alone, so the good parts are independent of it
    bound = upper_bound(rejected.events, rejected.n, trade.confidence) if own else trade.bound_for_any_limit(point)
    return Promise(
        max_false_reject=bound,
        confidence=trade.confidence,
        achieved=bound,
        n_good=rejected.n,
        n_above=rejected.events,
        n_needed=rejected.n,
    )


def _review(good: Sequence[float], wish: Wish, fail: float) -> NormalLimit | None:
    if wish.review_false_reject is None:
        return None
    review = limit_from_normals(good, wish.review_false_reject, wish.confidence)
    if wish.rule == "promise" and wish.review_false_reject <= wish.max_false_reject:
        raise OptionError(
            f"--review-false-reject {wish.review_false_reject:g} leaves no room for REVIEW; expected more than "
            f"--max-false-reject {wish.max_false_reject:g}"
        )
    if review.limit > fail:
        raise DataError(
            f"the review limit {review.limit:.6g} would lie above the fail limit {fail:.6g}; "
            "raise --review-false-reject"
        )
    return review
