"""Polygons: which are refused, and which pixels lie in the others."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.polygon import filled, outside, polygon_from_list

coordinates = st.integers(0, 24).map(lambda n: n / 2)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([[0, 0], [1, 1]], "has 2 points, expected 3"),
        ([[0, 0], [9, 0], [0, 0]], "has 2 points, expected 3"),
        ([], "has 0 points"),
        ([[0, 0], [9, 9], [9, 0], [0, 9]], "crosses itself: the side after point 0 meets the one after point 2"),
        ([[0, 0], [9, 0], [4, 0]], "crosses itself"),
        ([[0, 0], [9, 0], [9, 9], [4, 0], [0, 9]], "crosses itself"),
        ([[0, 0], [0, 0], [9, 9], [0, 9]], "crosses itself"),
        ([[0, 0], [1, "a"], [2, 2]], "expected a list of points"),
        ([[0, 0, 1], [1, 1, 1], [2, 2, 2]], "expected a list of points"),
        (7, "expected a list of points"),
        ([[0, 0], [float("nan"), 1], [2, 2]], "no number"),
    ],
    ids=["two", "two-closed", "none", "bow-tie", "spike", "touches", "twice", "word", "3d", "number", "nan"],
)
def test_a_wrong_polygon_is_told(points: object, says: str) -> None:
    """Before any picture is looked at."""
    with pytest.raises(ValueError, match=says):
        polygon_from_list(points)


def test_a_closed_polygon_is_the_open_one() -> None:
    """Drawing programs repeat the first point."""
    square = [[0, 0], [4, 0], [4, 4], [0, 4]]

    assert polygon_from_list([*square, [0, 0]]) == polygon_from_list(square)


@settings(deadline=None)
@given(points=st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7, unique=True))
def test_pixels_are_those_whose_centre_lies_inside(points: list[tuple[float, float]]) -> None:
    """OpenCV's point-in-polygon test says the same, wherever the centre is not on the border itself."""
    try:
        polygon = polygon_from_list(points)
    except ValueError:
        return
    shifted = np.array(polygon, np.float32)[:, None]

    pixels = filled(polygon, (12, 12))

    for y in range(12):
        for x in range(12):
            side = cv2.pointPolygonTest(shifted, (x + 0.5, y + 0.5), False)
            assert side == 0 or pixels[y, x] == (side > 0), (x, y)


def test_the_border_belongs_to_the_picture() -> None:
    """A picture of 20 x 10 px spans 0..20 and 0..10."""
    whole = polygon_from_list([[0, 0], [20, 0], [20, 10], [0, 10]])

    assert outside(whole, (10, 20)) is None
    assert filled(whole, (10, 20)).all()
    assert outside(whole, (10, 19)) == (20, 0)
