"""What is the camera's fault, and what is only a defect."""

import base64
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mapl_edge.arrays import UInt8Array
from mapl_edge.camera_health import (
    CameraReference,
    Check,
    ShiftReference,
    fault_in,
    frozen,
    measure,
    reference_from_measures,
)
from mapl_edge.testing import SyntheticLine
from mapl_edge.testing.faults import spoiled
from mapl_edge.testing.line import DEFECTS

LINE = SyntheticLine(size_hw=(160, 200))


def reference_of(line: SyntheticLine, n: int = 20) -> CameraReference:
    """From good parts."""
    return reference_from_measures([measure(line.good(i).image) for i in range(n)])


@pytest.fixture(scope="module")
def reference() -> CameraReference:
    """Of the line whose parts lie in place."""
    return reference_of(LINE)


def coloured(image: UInt8Array) -> UInt8Array:
    """Under warm light."""
    return np.asarray((image * np.array([0.6, 0.9, 1.0])).astype(np.uint8))


FAULTS: dict[str, tuple[Callable[[UInt8Array], UInt8Array], str]] = {
    "black": (lambda image: image // 40, "is black: mean grey level"),
    "dark": (lambda image: spoiled(image, "dark"), "is too dark: mean grey level"),
    "over-exposed": (lambda image: spoiled(image, "overexposed"), "is over-exposed: mean grey level"),
    "blurred": (lambda image: spoiled(image, "blur"), "is blurred: sharpness"),
    "moving": (lambda image: np.asarray(cv2.blur(image, (9, 1)), np.uint8), "is blurred: sharpness across"),
    "shifted": (lambda image: spoiled(image, "shift"), "is shifted by"),
    "cut": (lambda image: image[:, 8:], "gives another size: 192x160 px, calibrated with 200x160 px"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_by_its_measure(reference: CameraReference, name: str) -> None:
    """On every good part, and by the check that is meant for it."""
    spoil, words = FAULTS[name]

    for index in range(50, 60):
        fault = fault_in(measure(spoil(LINE.good(index).image)), reference)
        assert fault is not None
        assert fault.startswith(words)


@pytest.mark.parametrize("kind", [None, *DEFECTS])
def test_a_defect_is_not_the_cameras_fault(reference: CameraReference, kind: str | None) -> None:
    """Parts that calibration did not see, good and with every kind of defect."""
    assert [fault_in(measure(LINE.part(i, kind).image), reference) for i in range(100, 115)] == [None] * 15


@pytest.mark.parametrize("level", [0, 255], ids=["black", "white"])
def test_a_large_defect_is_not_dark_light(level: int) -> None:
    """Half of the picture black or white moves the mean out of bounds, but the rest is lit as ever."""
    reference = reference_of(LINE)
    image = LINE.good(200).image
    image[:, 100:] = level

    assert fault_in(measure(image), reference, {Check.LIGHT}) is None


def test_swapped_colours_are_told_where_there_is_colour() -> None:
    """Warm light makes red and blue differ; with a grey camera nobody can tell."""
    seen = [coloured(LINE.good(i).image) for i in range(20)]
    warm = reference_from_measures([measure(image) for image in seen])
    grey = reference_from_measures([measure(np.repeat(image[:, :, 1:2], 3, axis=2)) for image in seen])
    swapped = measure(coloured(LINE.good(50).image)[:, :, ::-1].copy())

    fault = fault_in(swapped, warm)

    assert fault is not None
    assert fault.startswith("has red and blue swapped")
    assert fault_in(swapped, grey, {Check.COLOUR}) is None
    assert grey.untold[Check.COLOUR] == "its pictures are too grey to tell red from blue"
    assert Check.COLOUR not in warm.untold


def test_the_shift_is_the_one_that_was_made(reference: CameraReference) -> None:
    """Against the definition: a picture moved by 8 % is found 8 % away."""
    before, after = (measure(image).small for image in (LINE.good(60).image, spoiled(LINE.good(60).image, "shift")))
    assert reference.shift is not None

    x, y = (b - a for a, b in zip(reference.shift.offset(before)[:2], reference.shift.offset(after)[:2], strict=True))

    assert (x / 64, y / 64) == pytest.approx((0.08, 0.08), abs=0.015)


def test_parts_at_any_angle_tell_no_shift() -> None:
    """The calibration's own pictures do not agree in place, so the check is off and says so."""
    anywhere = SyntheticLine(size_hw=(160, 200), pose="any")
    reference = reference_of(anywhere)

    assert reference.shift is None
    assert reference.untold[Check.SHIFT] == "its pictures do not agree in place"
    assert fault_in(measure(spoiled(anywhere.good(50).image, "shift")), reference) is None


def test_pictures_of_several_sizes_tell_no_size() -> None:
    """Crops of parts come in any size."""
    images = [LINE.good(i).image[: 150 + i] for i in range(12)]
    reference = reference_from_measures([measure(image) for image in images])

    assert reference.size_hw is None
    assert fault_in(measure(LINE.good(50).image[:140]), reference, {Check.SIZE}) is None


def test_tolerance_widens_every_bound(reference: CameraReference) -> None:
    """What is just a fault at 1 passes at 3."""
    slightly = measure(np.asarray(cv2.GaussianBlur(LINE.good(50).image, (0, 0), 0.7), np.uint8))

    assert fault_in(slightly, reference) is not None
    assert fault_in(slightly, reference, tolerance=3) is None


def test_a_check_that_is_not_asked_for_is_not_made(reference: CameraReference) -> None:
    """Each by its name."""
    dark = measure(spoiled(LINE.good(50).image, "dark"))

    assert fault_in(dark, reference, set(Check) - {Check.LIGHT, Check.SHARPNESS}) is None


def test_noise_tells_a_still_scene_from_a_frozen_camera() -> None:
    """One grey level of noise on a part that lies still is enough."""
    rng = np.random.default_rng(1)
    still = [np.asarray(cv2.add(LINE.good(0).image, rng.integers(0, 2, (160, 200, 3), np.uint8))) for _ in range(2)]
    before, after = (measure(image) for image in still)

    assert frozen(before, measure(still[0].copy()))
    assert not frozen(before, after)
    assert not frozen(before, measure(still[0][:100]))


def test_only_the_region_of_interest_counts(reference: CameraReference) -> None:
    """A lamp beside it may be on or off; the size is that of the whole picture."""
    image = np.full((300, 300, 3), 255, np.uint8)
    image[100:260, 50:250] = LINE.good(50).image

    found = measure(image, (50, 100, 200, 160))

    assert found.size_hw == (300, 300)
    assert fault_in(found, reference, set(Check) - {Check.SIZE}) is None


@pytest.mark.parametrize("size_hw", [(16, 16), (17, 500), (500, 17), (64, 64), (65, 131)], ids=str)
def test_any_size_can_be_measured(size_hw: tuple[int, int]) -> None:
    """Down to the smallest picture that a camera may give."""
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), np.uint8)
    found = measure(image)

    assert found.size_hw == size_hw
    assert found.small.shape == (64, 64)
    assert found.light[1] <= found.light[2] <= found.light[3]


@given(seed=st.integers(0, 2**32 - 1), h=st.integers(16, 200), w=st.integers(16, 200), contrast=st.integers(1, 256))
def test_sharpness_and_light_are_those_of_their_definitions(seed: int, h: int, w: int, contrast: int) -> None:
    """Written out slowly, so that references of earlier calibrations go on to hold however it is computed."""
    image = np.random.default_rng(seed).integers(0, contrast, (h, w, 3)).astype(np.uint8)
    found = measure(image)

    above, middle, below = (image[at : h - 2 + at : max(1, h // 64), :, 1].astype(float) for at in range(3))
    wide = np.pad(above, ((0, 0), (1, 1)), "reflect")
    pairs = (
        (wide[:, :-2] - 2 * wide[:, 1:-1] + wide[:, 2:], wide[:, :-2] - wide[:, 2:]),
        (above - 2 * middle + below, above - below),
    )
    expected = [100 * (bend**2).sum() / ((slope**2).sum() + 15 * above.size) for bend, slope in pairs]
    grey = np.sort(cv2.cvtColor(found.samples, cv2.COLOR_BGR2GRAY).ravel())
    assert found.sharpness == pytest.approx(expected)
    assert found.light == pytest.approx((grey.mean(), *(grey[len(grey) * share // 100] for share in (10, 50, 90))))


def test_measuring_writes_nothing_into_the_picture(reference: CameraReference) -> None:
    """The model gets the same picture afterwards."""
    image = LINE.good(3).image
    before = image.copy()

    fault_in(measure(image), reference)

    np.testing.assert_array_equal(image, before)


def test_a_reference_goes_through_json(reference: CameraReference) -> None:
    """calibration.yaml holds plain values, and few of them."""
    text = reference.model_dump_json()

    assert CameraReference.model_validate_json(text) == reference
    assert len(text) < 8000


@pytest.mark.parametrize(
    "text",
    ["not base64!", base64.b64encode(b"no picture").decode(), ""],
    ids=["not base64", "no picture", "empty"],
)
def test_a_broken_reference_picture_is_refused_when_read(text: str) -> None:
    """Not at the first part."""
    with pytest.raises(ValidationError, match="no picture"):
        ShiftReference(picture=text, most_px=1.0, least_response=0.9)
