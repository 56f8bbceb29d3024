"""The numbers that a station follows itself by, against their definitions written out."""

import numpy as np
import pytest

from mapl_edge.engine import Reading
from mapl_edge.part_statistics import STATISTICS, part_statistics, values_of
from mapl_edge.place import PlaceReference, profiles_of, reference_from_profiles

READING = Reading(1.5, np.full((40, 60), 0.25, np.float32), 0)


def picture(seed: int = 0) -> np.ndarray:
    """Grey noise (40, 60, 3): all channels alike, so grey is any of them."""
    grey = np.random.default_rng(seed).integers(0, 256, (40, 60, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def place_of(image: np.ndarray) -> PlaceReference:
    """Where this picture's part lies."""
    return reference_from_profiles(profiles_of(np.ascontiguousarray(image[:, :, 0])))


def test_each_is_what_its_name_says() -> None:
    """Slowly, in float64, with the Laplacian as four neighbours less four times the middle."""
    grey = picture()[:, :, 0].astype(float)
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2] - 4 * grey
    found = part_statistics(picture(), READING)

    assert found.distance == 0.25
    assert found.brightness == pytest.approx(grey.mean(), rel=1e-5)
    assert found.contrast == pytest.approx(grey.std(), rel=1e-5)
    assert found.sharpness == pytest.approx(laplacian.std(), rel=1e-5)
    rows, columns = grey[::2], grey[:, ::2]
    assert found.centre_x == pytest.approx((rows.sum(axis=0) @ np.arange(60)) / rows.sum(), rel=1e-5)
    assert found.centre_y == pytest.approx((columns.sum(axis=1) @ np.arange(40)) / columns.sum(), rel=1e-5)
    assert (found.shift_x, found.shift_y) == (None, None)


def test_a_black_picture_has_its_centre_in_the_middle() -> None:
    """No division by zero when the lamp dies."""
    found = part_statistics(np.zeros((40, 60, 3), np.uint8), READING)

    assert (found.brightness, found.sharpness, found.centre_x, found.centre_y) == (0.0, 0.0, 29.5, 19.5)


def test_values_by_name_hold_what_is_followed() -> None:
    """From a verdict, from a record, and from an old record without statistics."""
    statistics = part_statistics(picture(), READING, place_of(picture()))

    assert (statistics.shift_x, statistics.shift_y) == pytest.approx((0.0, 0.0), abs=0.02)
    assert tuple(values_of(1.5, statistics)) == STATISTICS
    assert values_of(1.5, statistics.as_json()) == values_of(1.5, statistics)
    assert values_of(1.5, None) == {"score": 1.5}
    assert values_of(1.5, {"brightness": 2.0, "shift_x": None, "of another version": 1.0}) == {
        "score": 1.5,
        "brightness": 2.0,
    }


def test_the_deviation_of_strong_edges_does_not_overflow() -> None:
    """A chessboard has the strongest Laplacian that there is, over many pixels."""
    board = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    found = part_statistics(image, Reading(0.0, np.zeros((1024, 1024), np.float32), 0))

    assert found.sharpness == pytest.approx(4 * 255)


def test_a_map_without_a_mean_gives_none() -> None:
    """NaN would make the verdict line no JSON, and stop the charts."""
    reading = Reading(1.5, np.full((40, 60), np.nan, np.float32), 0)

    assert part_statistics(picture(), reading) is None
