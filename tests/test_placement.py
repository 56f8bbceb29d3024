"""From the anomaly map back to the camera picture, exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.contract import InputContract
from mapl_edge.placement import placement
from mapl_edge.prepare import prepare

sides = st.integers(1, 8).map(lambda n: 32 * n)
contracts = st.builds(
    InputContract,
    size_hw=st.tuples(sides, sides),
    roi_xywh=st.none()
    | st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(16, 700), st.integers(16, 700)),
)


@settings(deadline=None)
@given(
    contract=contracts,
    picture_hw=st.tuples(st.integers(1000, 3000), st.integers(1000, 3000)),
    points=st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), min_size=1, max_size=5),
)
def test_there_and_back_is_the_same_point(
    contract: InputContract, picture_hw: tuple[int, int], points: list[tuple[float, float]]
) -> None:
    """And the prepared picture's corners are those of the region of interest."""
    place = placement(contract, picture_hw)
    x, y, w, h = contract.roi_xywh or (0, 0, picture_hw[1], picture_hw[0])

    back = place.to_camera(place.to_prepared(np.array(points)))

    np.testing.assert_allclose(back, points, atol=1e-9)
    corners = place.to_camera(np.array([[0, 0], contract.size_hw[::-1]]))
    np.testing.assert_allclose(corners, [[x, y], [x + w, y + h]], atol=1e-9)


@pytest.mark.parametrize("roi", [None, (40, 20, 128, 64), (7, 3, 200, 150)], ids=str)
def test_it_is_the_inverse_of_prepare(roi: tuple[int, int, int, int] | None) -> None:
    """A bright square that `prepare` shrank is found where it was painted, to half a pixel of the prepared picture."""
    contract = InputContract(size_hw=(64, 96), roi_xywh=roi)
    image = np.zeros((240, 320, 3), np.uint8)
    image[50:70, 80:120] = 255

    values = prepare(image, contract)[..., 0] / 255
    y, x = np.indices(values.shape) + 0.5
    centre = np.array([[(values * x).sum(), (values * y).sum()]]) / values.sum()
    place = placement(contract, (240, 320))

    assert np.abs(place.to_camera(centre) - (100, 60)).max() <= 0.5 * max(place.step_x, place.step_y)
