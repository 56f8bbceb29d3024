"""prepare: from any camera picture, and the mask beside it, to exactly what the model was trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.aside import Errand
from mapl_edge.contract import InputContract
from mapl_edge.dataset import Sample
from mapl_edge.errors import ContractMismatch, PictureError
from mapl_edge.prepare import prepare, prepared_mask

T = TypeVar("T")
sides = st.integers(1, 300)
sizes = st.tuples(*[st.sampled_from([32, 64, 96, 256])] * 2)


def noise(h: int, w: int) -> np.ndarray:
    """A random picture, uint8 (h, w, 3)."""
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)


@given(h=sides, w=sides, size_hw=sizes)
@settings(max_examples=60, deadline=None)
def test_any_picture_becomes_the_contract_s_size(h: int, w: int, size_hw: tuple[int, int]) -> None:
    """Engines take one shape, one type, one layout."""
    prepared = prepare(noise(h, w), InputContract(size_hw=size_hw))

    assert prepared.shape == (*size_hw, 3)
    assert prepared.dtype == np.uint8
    assert prepared.flags.c_contiguous


@given(h=sides, w=sides, size_hw=sizes, colour=st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=60, deadline=None)
def test_even_surface_stays_exactly_even(
    h: int, w: int, size_hw: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Averaging equal values gives that value, without a rounding pattern that the model could learn."""
    prepared = prepare(np.full((h, w, 3), colour, np.uint8), InputContract(size_hw=size_hw))

    assert (prepared == colour).all()


def linearly(image: np.ndarray, n: int) -> np.ndarray:
    """Rows resized by the definition of linear interpolation, half-pixel centres, the edge repeated."""
    at = ((np.arange(n) + 0.5) * len(image) / n - 0.5).clip(0, len(image) - 1)
    low = np.floor(at).astype(int)
    share = (at - low)[:, None, None]
    return (1 - share) * image[low] + share * image[np.minimum(low + 1, len(image) - 1)]


def by_halves(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The contract's "halve" in exact numbers, float64."""
    (h, w), image = size_hw, image.astype(float)
    while image.shape[0] >= 2 * h and image.shape[1] >= 2 * w:
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    for want in size_hw:  # rows, then columns
        factor = 1
        while len(image) / want > factor * 2**0.5:
            factor *= 2
        image = linearly(image, want * factor).reshape(want, factor, -1, 3).mean(1).transpose(1, 0, 2)
    return image


@given(h=st.integers(1, 600), w=st.integers(1, 600), size_hw=sizes)
@settings(max_examples=60, deadline=None)
def test_halving_is_what_the_contract_says(h: int, w: int, size_hw: tuple[int, int]) -> None:
    """Written out slowly, in numbers without rounding; each step of ours rounds once."""
    image = noise(h, w)

    prepared = prepare(image, InputContract(size_hw=size_hw))

    assert np.abs(prepared - by_halves(image, size_hw)).max() <= 2


def test_area_takes_the_mean_of_each_block() -> None:
    """Bundles of before say so: area averaging by its definition, at a whole factor."""
    image = noise(96, 128)

    prepared = prepare(image, InputContract(size_hw=(32, 64), resize="area"))

    blocks = image.reshape(32, 3, 64, 2, 3).mean(axis=(1, 3))  # (32, 64, 3)
    assert np.abs(prepared - blocks).max() <= 0.5


class Counted:
    """Errands that are done by who asks."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, work: Callable[[], T], /) -> Errand[T]:
        """See `DoesAside`."""
        self.n += 1
        return Errand(work)


@given(h=st.integers(1, 800), w=st.integers(1, 700), size_hw=sizes)
@settings(max_examples=60, deadline=None)
def test_two_threads_give_the_same_picture_to_the_last_bit(h: int, w: int, size_hw: tuple[int, int]) -> None:
    """Training and golden frames come from one."""
    image, contract = noise(h, w), InputContract(size_hw=size_hw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mapl_edge.prepare.SHARED_PX", 0)
        shared = prepare(image, contract, Errand)

    assert np.array_equal(shared, prepare(image, contract))


@pytest.mark.parametrize(
    ("h", "w", "shared"),
    [
        pytest.param(320, 320, False, id="small"),
        pytest.param(900, 901, True, id="odd"),
        pytest.param(500, 3000, False, id="not-halved"),
    ],
)
def test_large_pictures_are_halved_by_two_threads(h: int, w: int, shared: bool) -> None:
    """For a small one the other thread would come too late."""
    aside = Counted()

    prepared = prepare(noise(h, w), InputContract(), aside)

    assert (aside.n > 0) == shared
    assert np.array_equal(prepared, prepare(noise(h, w), InputContract()))


@pytest.mark.parametrize(
    ("h", "w"),
    [
        pytest.param(2000, 2000, id="both-sides-shrink"),
        pytest.param(256, 4000, id="width-shrinks-height-stays"),
        pytest.param(100, 4000, id="width-shrinks-height-grows"),
        pytest.param(4000, 100, id="height-shrinks-width-grows"),
    ],
)
@pytest.mark.parametrize("resize", ["halve", "area"])
def test_fine_scratch_is_never_skipped_over(h: int, w: int, resize: Literal["halve", "area"]) -> None:
    """A scratch of three pixels must stay visible wherever it lies, also in the long pictures of line cameras."""
    contract, lost = InputContract(resize=resize), []
    for at in range(1000, 1040):
        image = np.zeros((h, w, 3), np.uint8)
        if w >= h:
            image[:, at : at + 3] = 255
        else:
            image[at : at + 3] = 255
        if not prepare(image, contract).any():
            lost.append(at)

    assert not lost, f"{len(lost)} of 40 scratches vanished in a picture of {w}x{h} px"


def test_region_is_cut_out_before_resizing() -> None:
    """Left, top, width, height, in camera pixels."""
    image = noise(100, 120)

    prepared = prepare(image, InputContract(size_hw=(32, 64), roi_xywh=(50, 7, 64, 32)))

    assert np.array_equal(prepared, image[7:39, 50:114])
    assert prepared.flags.c_contiguous


@pytest.mark.parametrize("roi", [(0, 0, 120, 100), (104, 84, 16, 16)], ids=["whole-picture", "last-corner"])
def test_region_may_touch_the_edge(roi: tuple[int, int, int, int]) -> None:
    """The edge itself still belongs to the picture."""
    assert prepare(noise(100, 120), InputContract(size_hw=(32, 32), roi_xywh=roi)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "roi", [(57, 0, 64, 64), (0, 37, 64, 64), (500, 500, 64, 64), (0, 0, 121, 100), (0, 0, 120, 101)], ids=str
)
def test_region_outside_the_picture_is_refused(roi: tuple[int, int, int, int]) -> None:
    """A camera of another resolution would show another part of the scene."""
    x, y, w, h = roi

    with pytest.raises(
        ContractMismatch, match=rf"region of interest {w}x{h} at \({x}, {y}\) .* a picture of 120x100 px; "
    ):
        prepare(noise(100, 120), InputContract(roi_xywh=roi))


def test_prepared_picture_is_left_alone() -> None:
    """Golden pictures are stored prepared; preparing them again must not change a value or cost a copy."""
    image = noise(64, 96)

    assert prepare(image, InputContract(size_hw=(64, 96))) is image


def test_strided_picture_becomes_contiguous() -> None:
    """Engines take the pointer: a view with gaps would show them another picture."""
    view = noise(128, 96)[::2, ::-1]

    prepared = prepare(view, InputContract(size_hw=(64, 96)))

    assert prepared.flags.c_contiguous
    assert np.array_equal(prepared, view)


def test_camera_picture_is_not_changed() -> None:
    """The frame is kept for the operator's screen."""
    image = noise(50, 70)
    before = image.copy()

    prepare(image, InputContract(size_hw=(32, 32), roi_xywh=(1, 1, 40, 40)))

    assert np.array_equal(image, before)


def test_12_megapixels_are_prepared() -> None:
    """The usual industrial camera, down to the model in one step."""
    image = np.zeros((3000, 4000, 3), np.uint8)
    image[:1500] = 200

    prepared = prepare(image, InputContract())

    assert (prepared[:127] == 200).all()  # the edge lies between rows 127 and 128, which are interpolated
    assert (prepared[129:] == 0).all()


def drawn(tmp_path: Path, mask: np.ndarray) -> Sample:
    """A defect whose mask, (h, w) of 0 and 1, is on disk; its picture is not needed."""
    path = tmp_path / "000_mask.png"
    assert cv2.imwrite(str(path), 255 * mask.astype(np.uint8))
    return Sample(tmp_path / "000.png", "dent", path, tmp_path)


ROI = (20, 7, 64, 32)  # x, y, w, h


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("roi", [None, ROI, (0, 0, 120, 96)], ids=["no-region", "region", "whole-picture"])
def test_mask_stays_on_its_defect(roi: tuple[int, int, int, int] | None, scale: int, tmp_path: Path) -> None:
    """A square on the picture and the square on its mask, drawn at any size, end up at the same place."""
    picture, mask = np.zeros((96, 120, 3), np.uint8), np.zeros((96, 120), np.uint8)
    picture[11:27, 28:52], mask[11:27, 28:52] = 255, 1
    contract = InputContract(size_hw=(32, 64), roi_xywh=roi)
    sample = drawn(tmp_path, mask.repeat(scale, axis=0).repeat(scale, axis=1))

    found = prepared_mask(sample, contract, (96, 120))

    assert found is not None
    assert found.dtype == np.uint8
    assert found.shape == (32, 64)
    seen = prepare(picture, contract)[:, :, 0]
    assert (found[seen == 255] == 1).all()
    assert (found[seen == 0] == 0).all()
    assert found.any()


def test_mask_of_a_region_at_full_size_is_the_crop(tmp_path: Path) -> None:
    """Nothing to resize: pixel by pixel."""
    mask = np.random.default_rng(0).integers(0, 2, (96, 120), np.uint8)
    x, y, w, h = ROI

    found = prepared_mask(drawn(tmp_path, mask), InputContract(size_hw=(32, 64), roi_xywh=ROI), (96, 120))

    assert np.array_equal(found, mask[y : y + h, x : x + w])


@pytest.mark.parametrize("roi", [None, ROI], ids=["no-region", "region"])
def test_empty_drawing_gives_an_empty_mask(roi: tuple[int, int, int, int] | None, tmp_path: Path) -> None:
    """Somebody saved the mask before drawing: no crash; who trains takes it for no mask."""
    found = prepared_mask(
        drawn(tmp_path, np.zeros((96, 120))), InputContract(size_hw=(32, 64), roi_xywh=roi), (96, 120)
    )

    assert np.array_equal(found, np.zeros((32, 64)))


def test_defect_outside_the_region_gives_an_empty_mask(tmp_path: Path) -> None:
    """The model cannot see it, and what it does see is normal."""
    mask = np.zeros((96, 120), np.uint8)
    mask[60:90, 90:110] = 1

    found = prepared_mask(drawn(tmp_path, mask), InputContract(size_hw=(32, 64), roi_xywh=ROI), (96, 120))

    assert np.array_equal(found, np.zeros((32, 64)))


@pytest.mark.parametrize("roi", [None, ROI], ids=["no-region", "region"])
def test_what_nobody_drew(roi: tuple[int, int, int, int] | None, tmp_path: Path) -> None:
    """Zeros for a good part, None for a defect without a mask, with and without a region."""
    contract = InputContract(size_hw=(32, 64), roi_xywh=roi)
    good, defect = (Sample(tmp_path / "0.png", label, None, tmp_path) for label in ("good", "dent"))

    assert np.array_equal(prepared_mask(good, contract, (96, 120)), np.zeros((32, 64)))
    assert prepared_mask(defect, contract, (96, 120)) is None


@pytest.mark.parametrize(
    ("mask_hw", "fits"),
    [
        pytest.param((48, 60), True, id="half"),
        pytest.param((49, 60), False, id="two-point-one-percent-high"),
        pytest.param((97, 120), True, id="one-pixel-too-many"),
        pytest.param((120, 96), False, id="turned"),
        pytest.param((96, 60), False, id="cropped"),
    ],
)
@pytest.mark.parametrize("roi", [None, ROI], ids=["no-region", "region"])
def test_mask_of_another_shape_is_refused(
    mask_hw: tuple[int, int], fits: bool, roi: tuple[int, int, int, int] | None, tmp_path: Path
) -> None:
    """Stretched, it would teach and measure the wrong places; rounding of a pixel is no reason to stop."""
    contract, sample = InputContract(size_hw=(32, 64), roi_xywh=roi), drawn(tmp_path, np.ones(mask_hw))

    if fits:
        assert prepared_mask(sample, contract, (96, 120)) is not None
        return
    with pytest.raises(
        PictureError, match=r"000_mask\.png: found a mask of \d+x\d+ px for a picture of 120x96 px, expected"
    ):
        prepared_mask(sample, contract, (96, 120))


def test_region_that_does_not_fit_is_told_for_masks_too(tmp_path: Path) -> None:
    """The same words as for the picture."""
    sample = drawn(tmp_path, np.ones((30, 40)))

    with pytest.raises(ContractMismatch, match="64x32 at \\(20, 7\\) does not fit into a picture of 40x30 px"):
        prepared_mask(sample, InputContract(size_hw=(32, 64), roi_xywh=ROI), (30, 40))
