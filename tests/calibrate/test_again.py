"""Limits are set again by the rule that they were set by, from new scores of the same parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mapl_edge.calibrate.again import calibration_again
from mapl_edge.calibrate.decision import Wish, decide
from mapl_edge.calibrate.limits import promise_of_any_limit
from mapl_edge.calibration import Calibration, Costs, RegionFilter
from mapl_edge.errors import DataError
from mapl_edge.gauge import Mark, MarkedPart

WISHES = {
    "promise": Wish(max_false_reject=0.1, review_false_reject=0.3),
    "f1": Wish(rule="f1", review_false_reject=0.6),
    "recall": Wish(rule="recall", target_recall=0.7, confidence=0.9),
    "cost": Wish(rule="cost", costs=Costs(50, 1, 0.01)),
    "regions": Wish(max_false_reject=0.1, regions=RegionFilter(min_area_px=30)),
    "cost and regions": Wish(0.2, rule="cost", costs=Costs(5, 1), regions=RegionFilter(min_width_px=3)),
}


def marked(seed: int, n: int, mean: float, with_levels: bool) -> dict[str, MarkedPart]:
    """Parts by name."""
    rng = np.random.default_rng(seed)
    levels = rng.random(n)
    return {
        f"{mean}-{i}": MarkedPart(f"{i:064x}", Mark(score, float(levels[i]) if with_levels else None))
        for i, score in enumerate(rng.normal(mean, 1, n).tolist())
    }


def decided(wish: Wish, good: dict[str, MarkedPart], bad: dict[str, MarkedPart]) -> Any:
    """What calibrate decides of these parts."""
    levels = [part.mark.level for part in good.values() if part.mark.level is not None]
    return decide([p.mark.score for p in good.values()], [p.mark.score for p in bad.values()], wish, levels or None)


def calibrated(wish: Wish, good: dict[str, MarkedPart], bad: dict[str, MarkedPart]) -> Calibration:
    """What calibrate writes of it."""
    decision = decided(wish, good, bad)
    return Calibration(
        created_at="2026-01-01T00:00:00Z",
        created_by="tester",
        model_digest="a" * 64,
        limits=decision.limits,
        promise=decision.promise,
        rule=decision.rule,
        target_recall=wish.target_recall,
        costs=wish.costs,
        review_promise=decision.review and decision.review.promise,
        pixel_promise=decision.pixel and decision.pixel.promise,
        misses=decision.misses,
        pictures={name: part.digest for name, part in good.items()},
        scores=tuple(part.mark.score for part in good.values()),
    )


def again(old: Calibration, good: dict[str, MarkedPart], bad: dict[str, MarkedPart]) -> Calibration:
    """As teaching asks for it."""
    return calibration_again(old, 7, "somebody", "b" * 64, good, bad, "onnxruntime-fp32-fused", "taught")


@pytest.mark.parametrize("name", WISHES)
@pytest.mark.parametrize("seed", range(3))
def test_limits_are_those_that_calibrate_would_set(name: str, seed: int) -> None:
    """Nothing of the wish is lost on the way through calibration.yaml."""
    wish, with_levels = WISHES[name], WISHES[name].regions is not None
    old = calibrated(wish, marked(0, 60, 0, with_levels), marked(1, 12, 3, with_levels))
    good, bad = marked(seed + 2, 60, -0.2, with_levels), marked(seed + 3, 14, 3.2, with_levels)
    expected = decided(wish, good, bad)

    now = again(Calibration.model_validate(old.model_dump(mode="json")), good, bad)

    assert now.limits == expected.limits
    assert now.promise == expected.promise
    assert now.misses == expected.misses
    assert now.pixel_promise == (expected.pixel and expected.pixel.promise)
    assert now.defect_scores == tuple(part.mark.score for part in bad.values())
    assert len(now.levels) == (60 if with_levels else 0)
    assert (now.version, now.model_digest, now.rule) == (7, "b" * 64, wish.rule)


def test_a_wish_goes_through_a_second_lesson() -> None:
    """The calibration that teaching writes can be set again itself."""
    wish, good, bad = WISHES["cost and regions"], marked(4, 60, 0, True), marked(5, 9, 3, True)
    once = again(calibrated(wish, marked(0, 60, 0, True), marked(1, 9, 3, True)), good, bad)

    twice = again(once, good, bad)

    assert twice.limits == once.limits == decided(wish, good, bad).limits


def test_limits_of_ones_own_stay_and_their_promise_is_new() -> None:
    """Nobody moves what a person set."""
    old = calibrated(Wish(), marked(0, 60, 0, False), {}).model_copy(update={"rule": "own"})
    good, bad = marked(5, 60, 5, False), marked(6, 8, 0, False)

    now = again(old, good, bad)

    assert now.limits == old.limits
    assert now.promise == promise_of_any_limit(now.scores, old.limits.fail, 0.95)
    assert now.promise.n_above > 0
    assert now.misses is not None
    assert now.misses.n_missed == sum(part.mark.score <= old.limits.fail for part in bad.values()) > 0


@pytest.mark.parametrize("rule", ["recall", "cost"])
def test_older_files_do_not_hold_the_aim(rule: str) -> None:
    """One line that says what to do."""
    old = calibrated(WISHES[rule], marked(0, 60, 0, False), marked(1, 12, 3, False))
    old = old.model_copy(update={"target_recall": None, "costs": None})

    with pytest.raises(DataError, match=f"set by {rule} before .* run mapl-edge calibrate once more first, or keep"):
        again(old, marked(2, 60, 0, False), marked(3, 12, 3, False))


def test_without_a_defect_the_rules_that_need_one_say_so() -> None:
    """As calibrate does."""
    old = calibrated(WISHES["recall"], marked(0, 60, 0, False), marked(1, 12, 3, False))

    with pytest.raises(DataError, match="needs defective parts"):
        again(old, marked(2, 60, 0, False), {})
