"""Place: a part that moved is found by as much as it moved, whatever the light."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Calibration
from mapl_edge.contract import InputContract
from mapl_edge.errors import ContractMismatch
from mapl_edge.place import (
    PlaceReference,
    Profiles,
    moved,
    profiles_of,
    reference_from_picture,
    reference_from_profiles,
)
from mapl_edge.prepare import prepare
from mapl_edge.testing import Ageing, SyntheticLine


def part(dx: float, dy: float, gain: float = 1.0, tilt: float = 0.0) -> np.ndarray:
    """A bright plate with a hole on a dark belt, uint8 (160, 224), moved, lit and the light tilted across."""
    y, x = np.mgrid[0:160, 0:224].astype(np.float32)
    x, y = x - 111.5 - dx, y - 79.5 - dy
    plate = np.clip(60.5 - np.abs(x), 0, 1) * np.clip(40.5 - np.abs(y), 0, 1)
    hole = np.clip(15.5 - np.hypot(x - 20, y + 10), 0, 1)
    grey = (40 + 120 * (plate - hole * plate)) * gain * (1 + tilt * np.linspace(-1, 1, 224, dtype=np.float32))
    return cv2.GaussianBlur(grey, (0, 0), 0.8).clip(0, 255).astype(np.uint8)


REFERENCE = reference_from_profiles(profiles_of(part(0, 0)))


def test_profiles_are_means_of_every_second_line() -> None:
    """Written out."""
    grey = np.random.default_rng(0).integers(0, 256, (41, 60), dtype=np.uint8)
    found = profiles_of(grey)

    assert found.columns == pytest.approx(grey[::2].mean(axis=0), rel=1e-6)
    assert found.rows == pytest.approx(grey[:, ::2].mean(axis=1), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(-25, 25), st.floats(-20, 20), st.floats(0.5, 1.4), st.floats(-0.15, 0.15))
def test_a_moved_part_is_found_by_as_much_in_any_light(dx: float, dy: float, gain: float, tilt: float) -> None:
    """To a quarter of a pixel, where the centre of gravity would move by several with the light alone."""
    x, y = REFERENCE.shift(profiles_of(part(dx, dy, gain, tilt)))

    assert (x, y) == (pytest.approx(dx, abs=0.25), pytest.approx(dy, abs=0.25))


def test_it_follows_the_camera_of_the_line() -> None:
    """A real part, shaded and textured, whose camera has slipped by 4 px of 320, and is prepared to 256."""
    lines = (SyntheticLine(ageing=Ageing(shift=4000.0 * slipped, start=-1)) for slipped in (0, 1))
    before, after = (prepare(line.good(0).image, InputContract()) for line in lines)
    here = profiles_of(cv2.cvtColor(after, cv2.COLOR_BGR2GRAY))

    assert reference_from_picture(before).shift(here) == pytest.approx((3.2, 0.0), abs=0.2)


@pytest.mark.parametrize("shape", [(160, 224), (160, 224, 3)])
def test_moving_by_whole_pixels_moves_each_pixel(shape: tuple[int, ...]) -> None:
    """To the right and down; what comes in is the edge."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    there = moved(picture, 3, 2)

    assert there.dtype == np.uint8
    assert np.array_equal(there[2:, 3:], picture[:-2, :-3])
    assert np.array_equal(there[:2, 3:], np.stack([picture[0, :-3]] * 2))
    assert np.array_equal(there[2:, :3], np.stack([picture[:-2, 0]] * 3, axis=1))


def test_a_picture_with_nothing_in_it_has_not_moved() -> None:
    """No division by zero when the lamp dies; and a reference of nothing finds nothing."""
    black = profiles_of(np.zeros((160, 224), np.uint8))

    assert REFERENCE.shift(black) == (0.0, 0.0)
    assert reference_from_profiles(black).shift(profiles_of(part(5, 5))) == (0.0, 0.0)


def test_it_is_kept_as_text_and_comes_back() -> None:
    """Two lines of numbers in calibration.yaml, not a thousand."""
    kept = REFERENCE.model_dump(mode="json")

    assert isinstance(kept["columns"], str)
    assert PlaceReference.model_validate(kept) == REFERENCE
    assert Calibration.model_fields["place"].default is None


def test_another_size_of_picture_is_refused() -> None:
    """A file that was edited or mixed up must not stop the first part."""
    REFERENCE.check((160, 224))

    with pytest.raises(ContractMismatch, match="place is of pictures of 224x160 px, the model takes 256x256 px"):
        REFERENCE.check((256, 256))


def test_parts_without_any_structure_in_common_give_finite_numbers() -> None:
    """Textures: what is found means little, but it is a number within a quarter of the picture."""
    rng = np.random.default_rng(1)
    noise = Profiles(*(rng.normal(100, 5, n).astype(np.float32) for n in (224, 160)))
    x, y = REFERENCE.shift(noise)

    assert abs(x) <= 57
    assert abs(y) <= 41
