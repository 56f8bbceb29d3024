"""The one place that decides: at a limit, on either side of it, and without a score."""

import math

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.engine import Reading
from mapl_edge.judge import judge
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
