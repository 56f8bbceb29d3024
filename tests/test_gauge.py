"""What limits look at in a reading: the judge is the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Limits, PixelLimit, RegionFilter
from mapl_edge.contract import InputContract
from mapl_edge.engine import Reading
from mapl_edge.gauge import Gauge, Mark
from mapl_edge.judge import Judge
from mapl_edge.masks import InspectedArea
from mapl_edge.verdict import Outcome

CONTRACT, PICTURE_HW = InputContract(size_hw=(32, 32)), (64, 96)


def reading(seed: int) -> Reading:
    """A map with a few bright places."""
    rng = np.random.default_rng(seed)
    plane = rng.random((32, 32), np.float32) ** 8
    return Reading(float(rng.normal()), plane, 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_regions", [False, True])
@settings(deadline=None)
@given(seed=st.integers(0, 1000), pixel=st.floats(0.05, 0.95), fail=st.floats(-2, 2), least_px=st.sampled_from([0, 30]))
def test_a_mark_gives_the_verdict_that_the_judge_gives(
    masked: bool, with_regions: bool, seed: int, pixel: float, fail: float, least_px: float
) -> None:
    """A mark has no limits in it, so teaching can judge it by those that are set afterwards."""
    ignored = np.zeros((32, 32), np.bool_)
    ignored[:20] = True
    area = InspectedArea(PICTURE_HW, ignored) if masked else None
    shape = RegionFilter(min_area_px=least_px) if with_regions else None
    limits = Limits(
        fail=fail,
        review=fail - 0.5,
        pixel=None if shape is None else PixelLimit(limit=pixel, **shape.model_dump()),
    )
    one = reading(seed)

    mark = Gauge(CONTRACT, area, shape)(one, PICTURE_HW)

    judged = Judge(limits, CONTRACT, area)(one, PICTURE_HW)
    assert (mark.verdict(limits), mark.score) == (judged.outcome, judged.score)
    assert (mark.level is None) is (shape is None)


def test_a_score_that_is_no_number_is_an_error() -> None:
    """Nobody takes it for a good part."""
    assert Mark(float("nan"), 0.1).verdict(Limits(fail=1)) is Outcome.ERROR
