"""Limits that a person sets: what they do to the known parts, and when they look like a mistake."""

from __future__ import annotations

import pytest

from mapl_edge.bundle import Bundle
from mapl_edge.calibrate import Wish, decide, known_verdicts, limits_from_text, set_limits, warning_of, way_back
from mapl_edge.calibration import Calibration, Limits, PixelLimit
from mapl_edge.errors import OptionError

GOOD, BAD = tuple(float(i) for i in range(20)), (15.0, 30.0, 40.0)


def calibration(limits: Limits, bad: tuple[float, ...] = BAD, levels: tuple[float, ...] = ()) -> Calibration:
    """Of twenty good parts with scores from 0 to 19."""
    return Calibration(
        created_at="2026-01-01T00:00:00Z",
        created_by="tester",
        model_digest="a" * 64,
        limits=limits,
        promise=decide(GOOD, (), Wish()).promise,
        pictures={f"{i}.png": f"{i:064x}" for i in range(20)},
        defects={f"bad-{i}.png": f"{i:064x}" for i in range(len(bad))},
        scores=GOOD,
        levels=levels,
        defect_scores=bad,
    )


@pytest.mark.parametrize(
    ("fail", "bad", "expected"),
    [
        (-0.5, BAD, "every good part of the calibration is rejected, 20 of 20 (their scores are 0 to 19)"),
        (40.0, BAD, "every known defect passes, 3 of 3"),
        (39.0, (), "all 20 good parts of the calibration lie farther below the limit 39 than they are apart"),
        (38.0, (), None),
        (39.5, BAD, None),
        (0.0, BAD, None),
    ],
)
def test_limits_that_reject_all_or_nothing_are_told(fail: float, bad: tuple[float, ...], expected: str | None) -> None:
    """With the numbers."""
    found = warning_of(calibration(Limits(fail=fail), bad))

    assert found == expected or (found and expected and found.startswith(expected))


def test_a_limit_out_of_reach_is_told_with_a_pixel_limit_too() -> None:
    """Regions alone decide then."""
    found = warning_of(calibration(Limits(fail=1e9, pixel=PixelLimit(limit=0.5)), (), levels=(0.4,) * 20))

    assert found
    assert found.endswith("only a region may stop a defect")


def test_the_way_back_leads_past_versions_with_the_same_fault() -> None:
    """Version 3 rejects all too, 2 is another bundle's, and 1 stops no defect in the second case."""
    fails = {1: 20.0, 2: 20.0, 3: -1.0, 4: -2.0}
    history = [calibration(Limits(fail=fail)).model_copy(update={"version": n}) for n, fail in fails.items()]
    history[1] = history[1].model_copy(update={"model_digest": "b" * 64})

    assert way_back(history[-1], history) == 1
    history[0] = history[0].model_copy(update={"limits": Limits(fail=50)})
    assert way_back(history[-1], history) is None


def test_limits_in_force_make_no_version(bundle: Bundle) -> None:
    """Nothing is written where nothing changes."""
    before = bundle.calibration_path.read_bytes()

    now = set_limits(bundle, limits_from_text("review=none", bundle.calibration.limits, "--set"))

    assert now == bundle.calibration
    assert bundle.calibration_path.read_bytes() == before


def test_known_parts_are_counted() -> None:
    """Of both kinds."""
    told = known_verdicts(calibration(Limits(fail=16.5)))

    assert told == "3 of 20 good parts of the calibration are rejected, 1 of 3 known defects pass"


def test_a_region_rejects_too() -> None:
    """The pixel limit stays in force when the score's limits are set by hand."""
    limits = Limits(fail=100, pixel=PixelLimit(limit=0.5))

    told = known_verdicts(calibration(limits, (), levels=(0.4,) * 13 + (0.6,) * 7))

    assert told == "7 of 20 good parts of the calibration are rejected, no scores of defects are known"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fail=nan", "fail is 'nan', expected a finite number"),
        ("review=-inf", "review is '-inf', expected a finite number"),
        ("fail=2,fail=3", "found fail twice in 'fail=2,fail=3', expected it once"),
        ("fail=1,review=2", r"review \(2.0\) must not lie above fail \(1.0\)"),
    ],
)
def test_limits_that_are_no_limits_are_refused(text: str, says: str) -> None:
    """In one line that names which."""
    with pytest.raises(OptionError, match=says):
        limits_from_text(text, Limits(fail=3), "--set")
