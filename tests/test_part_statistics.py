"""The numbers that a station follows itself by, against their definitions written out."""

import numpy as np
import pytest

from mapl_edge.engine import Reading
from mapl_edge.part_statistics import STATISTICS, part_statistics, values_of

READING = Reading(1.5, np.full((40, 60), 0.25, np.float32), 0)


def picture(seed: int = 0) -> np.ndarray:
    """Grey noise (40, 60, 3): all channels alike, so grey is any of them."""
    grey = np.random.default_rng(seed).integers(0, 256, (40, 60, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


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
    assert found.centre_x == pytest.approx((grey.sum(axis=0) @ np.arange(60)) / grey.sum(), rel=1e-5)
    assert found.centre_y == pytest.approx((grey.sum(axis=1) @ np.arange(40)) / grey.sum(), rel=1e-5)


def test_a_black_picture_has_its_centre_in_the_middle() -> None:
    """No division by zero when the lamp dies."""
    found = part_statistics(np.zeros((40, 60, 3), np.uint8), READING)

    assert (found.brightness, found.sharpness, found.centre_x, found.centre_y) == (0.0, 0.0, 29.5, 19.5)


def test_values_by_name_hold_what_is_followed() -> None:
    """From a verdict, from a record, and from an old record without statistics."""
    statistics = part_statistics(picture(), READING)

    assert tuple(values_of(1.5, statistics)) == STATISTICS
    assert values_of(1.5, statistics.as_json()) == values_of(1.5, statistics)
    assert values_of(1.5, None) == {"score": 1.5}


def test_a_map_without_a_mean_gives_none() -> None:
    """NaN would make the verdict line no JSON, and stop the charts."""
    reading = Reading(1.5, np.full((40, 60), np.nan, np.float32), 0)

    assert part_statistics(picture(), reading) is None
