"""The one place that decides: at a limit, on either side of it, and without a score."""

import math

import numpy as np
import pytest

from mapl_edge.calibration import Limits, PixelLimit
from mapl_edge.contract import InputContract
from mapl_edge.engine import Reading
from mapl_edge.judge import Judge, judge
from mapl_edge.masks import InspectedArea
from mapl_edge.verdict import Outcome

MAP = np.zeros((32, 32), np.float32)
WITH_REVIEW = Limits(fail=2.0, review=1.0)
FAIL_ONLY = Limits(fail=2.0)


@pytest.mark.parametrize(
    ("score", "limits", "expected"),
    [
        pytest.param(0.0, WITH_REVIEW, Outcome.PASS, id="far-below"),
        pytest.param(-5.0, WITH_REVIEW, Outcome.PASS, id="negative"),
        pytest.param(1.0, WITH_REVIEW, Outcome.PASS, id="at-review"),
        pytest.param(math.nextafter(1.0, 2), WITH_REVIEW, Outcome.REVIEW, id="just-above-review"),
        pytest.param(2.0, WITH_REVIEW, Outcome.REVIEW, id="at-fail"),
        pytest.param(math.nextafter(2.0, 3), WITH_REVIEW, Outcome.FAIL, id="just-above-fail"),
        pytest.param(1e30, WITH_REVIEW, Outcome.FAIL, id="far-above"),
        pytest.param(1.5, FAIL_ONLY, Outcome.PASS, id="no-review-between"),
        pytest.param(2.0, FAIL_ONLY, Outcome.PASS, id="no-review-at-fail"),
        pytest.param(2.1, FAIL_ONLY, Outcome.FAIL, id="no-review-above-fail"),
        pytest.param(2.0, Limits(fail=2.0, review=2.0), Outcome.PASS, id="review-equals-fail"),
        pytest.param(2.1, Limits(fail=2.0, review=2.0), Outcome.FAIL, id="review-equals-fail-above"),
    ],
)
def test_score_is_judged_by_the_limits(score: float, limits: Limits, expected: Outcome) -> None:
    """Above is above: the limit itself is a score that a good part had."""
    assert judge(Reading(score, MAP, 0), limits) is expected


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, np.float32("nan")], ids=repr)
def test_score_that_is_no_number_is_an_error(score: float) -> None:
    """A model that overflowed knows nothing about the part: it must neither pass (-inf) nor be blamed on it (inf)."""
    assert judge(Reading(score, MAP, 0), WITH_REVIEW) is Outcome.ERROR


CONTRACT = InputContract(size_hw=(32, 32))
SPOT = MAP.copy()
SPOT[10:14, 20:26] = 0.8


def limits_with(pixel: float, **wanted: float) -> Limits:
    """FAIL_ONLY's and WITH_REVIEW's scores, and a pixel limit."""
    return Limits(fail=2.0, review=1.0, pixel=PixelLimit(limit=pixel, **wanted))


@pytest.mark.parametrize(
    ("score", "limits", "expected", "n_regions"),
    [
        pytest.param(0.5, limits_with(0.7), Outcome.FAIL, 1, id="region-alone"),
        pytest.param(1.5, limits_with(0.7), Outcome.FAIL, 1, id="region-beats-review"),
        pytest.param(0.5, limits_with(0.9), Outcome.PASS, 0, id="neither"),
        pytest.param(1.5, limits_with(0.9), Outcome.REVIEW, 0, id="review"),
        pytest.param(2.5, limits_with(0.9), Outcome.FAIL, 0, id="score-alone"),
        pytest.param(0.5, limits_with(0.7, min_area_px=4 * 25), Outcome.PASS, 0, id="too-small"),
        pytest.param(0.5, limits_with(0.7, min_area_px=4 * 24), Outcome.FAIL, 1, id="large-enough"),
        pytest.param(0.5, limits_with(float(np.float32(0.8))), Outcome.PASS, 0, id="at-the-limit"),
        pytest.param(math.nan, limits_with(0.7), Outcome.ERROR, 0, id="no-score"),
    ],
)
def test_score_or_region_fails_a_part(score: float, limits: Limits, expected: Outcome, n_regions: int) -> None:
    """Either is enough; areas are the camera's, twice as many pixels a side here."""
    judged = Judge(limits, CONTRACT)(Reading(score, SPOT, 0), (64, 64))

    assert (judged.outcome, len(judged.regions)) == (expected, n_regions)
    assert judged.score == score or math.isnan(score)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_no_number_is_an_error(value: float) -> None:
    """It says nothing about where the part is right."""
    broken = MAP.copy()
    broken[3, 3] = value
    ignored = InspectedArea((64, 64), np.zeros((32, 32), bool))

    assert Judge(limits_with(0.7), CONTRACT)(Reading(0.5, broken, 0), (64, 64)).outcome is Outcome.ERROR
    assert Judge(FAIL_ONLY, CONTRACT, ignored)(Reading(0.5, broken, 0), (64, 64)).outcome is Outcome.ERROR


def test_a_defect_in_an_ignored_area_does_not_fail_the_part() -> None:
    """Neither by score nor by region, although the graph's own score is high."""
    ignored = np.zeros((32, 32), bool)
    ignored[8:16, 18:28] = True
    limits = Limits(fail=0.2, pixel=PixelLimit(limit=0.3))

    open_, masked = (Judge(limits, CONTRACT, area) for area in (None, InspectedArea((64, 64), ignored)))

    assert open_(Reading(9.0, SPOT, 0), (64, 64)).outcome is Outcome.FAIL
    judged = masked(Reading(9.0, SPOT, 0), (64, 64))
    assert (judged.outcome, judged.score, judged.regions) == (Outcome.PASS, 0.0, ())
    elsewhere = masked(Reading(9.0, np.roll(SPOT, -15, 1), 0), (64, 64))
    assert elsewhere.outcome is Outcome.FAIL
    assert [region.box_xywh for region in elsewhere.regions] == [(10, 20, 12, 8)]


def test_without_masks_and_regions_the_map_is_not_touched() -> None:
    """It is the graph's score that decides, as before; a map that cannot even be read proves it."""
    judged = Judge(WITH_REVIEW, CONTRACT)(Reading(1.5, None, 0), (64, 64))  # type: ignore[arg-type]

    assert (judged.outcome, judged.score, judged.regions) == (Outcome.REVIEW, 1.5, ())
