"""Regions: connected places above the limit, in the camera's pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mapl_edge.arrays import FloatArray
from mapl_edge.calibration import PixelLimit, RegionFilter
from mapl_edge.contract import InputContract
from mapl_edge.placement import Placement, placement
from mapl_edge.regions import MOST_POINTS, MOST_REGIONS, region_level, regions_above

SAME = Placement(0, 0, 1, 1)


@st.composite
def maps(draw: st.DrawFn) -> FloatArray:
    """Blotches of few levels, so that regions merge as the limit falls."""
    seed = draw(st.integers(0, 2**32 - 1))
    noise = np.random.default_rng(seed).random((32, 32))
    return np.round(ndimage.gaussian_filter(noise, draw(st.sampled_from([0.5, 1.0, 2.0]))) * 20).astype(np.float32) / 20


filters = st.builds(
    RegionFilter,
    min_area_px=st.sampled_from([0, 3, 20, 100]),
    min_length_px=st.sampled_from([0, 4, 12]),
    min_width_px=st.sampled_from([0, 2, 5]),
)
places = st.builds(
    Placement, st.floats(0, 50), st.floats(0, 50), st.sampled_from([0.5, 1.0, 2.5]), st.sampled_from([0.5, 1.0, 3.0])
)


def with_limit(wanted: RegionFilter, limit: float) -> PixelLimit:
    """The same filter at a limit."""
    return PixelLimit(limit=limit, **wanted.model_dump())


def test_a_painted_place_is_found_where_the_camera_saw_it() -> None:
    """Box, area, peak, and an outline that fills what was painted."""
    contract = InputContract(size_hw=(64, 96), roi_xywh=(40, 20, 192, 128))
    anomaly_map = np.zeros((64, 96), np.float32)
    anomaly_map[10:20, 30:50] = 0.6
    anomaly_map[12, 33] = 0.9

    (region,) = regions_above(anomaly_map, PixelLimit(limit=0.5), placement(contract, (240, 320)))

    assert region.box_xywh == (40 + 60, 20 + 20, 40, 20)
    assert region.area_px == 40 * 20
    assert region.peak == np.float32(0.9)
    assert set(region.polygon) == {(100, 40), (140, 40), (140, 60), (100, 60)}


@given(anomaly_map=maps(), place=places, limit=st.integers(0, 20).map(lambda n: n / 20))
@settings(deadline=None)
def test_areas_and_peaks_are_those_of_scipy(anomaly_map: FloatArray, place: Placement, limit: float) -> None:
    """8-connected components, each once."""
    labels, n = ndimage.label(anomaly_map > limit, structure=np.ones((3, 3)))
    ids = range(1, n + 1)
    peaks = sorted((float(anomaly_map[labels == i].max()) for i in ids), reverse=True)
    areas = sorted(float((labels == i).sum() * place.step_x * place.step_y) for i in ids)

    found = regions_above(anomaly_map, PixelLimit(limit=limit), place)

    assert [region.peak for region in found] == peaks[:MOST_REGIONS]
    assert n > MOST_REGIONS or sorted(region.area_px for region in found) == pytest.approx(areas)
    for region in found:
        x, y, w, h = region.box_xywh
        assert 3 <= len(region.polygon) <= max(MOST_POINTS, 4)
        assert all(x - 1e-6 <= px <= x + w + 1e-6 and y - 1e-6 <= py <= y + h + 1e-6 for px, py in region.polygon)


@given(anomaly_map=maps(), wanted=filters, place=places)
@settings(deadline=None)
def test_a_region_survives_exactly_below_the_level(
    anomaly_map: FloatArray, wanted: RegionFilter, place: Placement
) -> None:
    """This makes the level of good parts carry a promise: a part is rejected if and only if its level is above."""
    level = region_level(anomaly_map, wanted, place)

    for limit in np.unique(anomaly_map):
        survives = bool(regions_above(anomaly_map, with_limit(wanted, float(limit)), place))
        assert survives == (level > limit), limit


@pytest.mark.parametrize(
    ("wanted", "survivors"),
    [
        (RegionFilter(), {"speck", "scratch", "blot"}),
        (RegionFilter(min_area_px=20), {"scratch", "blot"}),
        (RegionFilter(min_length_px=20), {"scratch"}),
        (RegionFilter(min_width_px=5), {"blot"}),
        (RegionFilter(min_area_px=20, min_length_px=9, min_width_px=9), {"blot"}),
        (RegionFilter(min_area_px=1000), set()),
    ],
    ids=str,
)
def test_each_filter_drops_what_is_too_small(wanted: RegionFilter, survivors: set[str]) -> None:
    """A speck, a slanted scratch and a round blot."""
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[2:4, 2:4] = 0.7
    drawn = np.zeros((64, 64), np.uint8)
    cv2.line(drawn, (10, 50), (40, 20), 1, 1)
    anomaly_map[drawn > 0] = 0.8
    cv2.circle(drawn, (50, 50), 5, 2, -1)
    anomaly_map[drawn > 1] = 0.9

    found = regions_above(anomaly_map, with_limit(wanted, 0.5), SAME)

    names = {0.7: "speck", 0.8: "scratch", 0.9: "blot"}
    assert {names[round(region.peak, 1)] for region in found} == survivors


def test_a_picture_full_of_regions_is_told_briefly() -> None:
    """Those with the highest peaks; a verdict stays one line."""
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[::2, ::2] = np.linspace(0.5, 1, 1024).reshape(32, 32)

    found = regions_above(anomaly_map, PixelLimit(limit=0.1), SAME)

    assert len(found) == MOST_REGIONS
    assert [r.peak for r in found] == pytest.approx(np.linspace(0.5, 1, 1024)[::-1][:MOST_REGIONS])
