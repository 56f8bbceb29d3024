"""prepare: the one way from a camera picture to a model's input, and of a drawn mask beside it.

Train, evaluate, calibrate, parity and run use it.
"""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.aside import DoesAside
from mapl_edge.contract import InputContract
from mapl_edge.dataset import Sample
from mapl_edge.errors import ContractMismatch

BANDS = 4  # of rows that two threads share, each taking the next
SHARED_PX = 500_000  # of a picture that is large enough for two threads; a smaller one is done before they have met


def prepare(image: UInt8Array, contract: InputContract, aside: DoesAside | None = None) -> UInt8Array:
    """Crop and resize a camera picture as the contract says.

    Args:
        image: uint8 (H, W, 3), BGR.
        contract: the model's input contract.
        aside: does a part of it in another thread meanwhile; the result is the same to the last bit.

    Returns:
        uint8 of shape (*contract.size_hw, 3), BGR, C-contiguous. It may be `image` itself when nothing is to be done.

    Raises:
        ContractMismatch: the region of interest does not fit into the picture.
    """
    image = cropped(image, contract)
    if contract.resize == "area":
        image = _by_area(image, contract.size_hw)
    else:
        image = _by_halves(image, contract.size_hw, aside)
    return np.ascontiguousarray(image)


def _by_area(image: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    # Shrink first: cv2 averages only where no side grows, else it samples lines away.
    h, w = (min(have, want) for have, want in zip(image.shape[:2], size_hw, strict=True))
    for step_hw in ((h, w), size_hw):
        image = _resized(image, step_hw, cv2.INTER_AREA)
    return image


def _by_halves(image: UInt8Array, size_hw: tuple[int, int], aside: DoesAside | None) -> UInt8Array:
    h, w = size_hw
    while image.shape[0] >= 2 * h and image.shape[1] >= 2 * w:
        image = _halved(image, aside)
    factors = (2 ** max(0, round(math.log2(have / want))) for have, want in zip(image.shape[:2], size_hw, strict=True))
    grown_hw = tuple(want * factor for want, factor in zip(size_hw, factors, strict=True))
    return _resized(_resized(image, grown_hw, cv2.INTER_LINEAR_EXACT), size_hw, cv2.INTER_AREA)


def _resized(image: UInt8Array, size_hw: tuple[int, ...], interpolation: int) -> UInt8Array:
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=interpolation), np.uint8)


def _halved(image: UInt8Array, aside: DoesAside | None) -> UInt8Array:
    """Means of 2×2 pixels; an odd last row or column is left out."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    image, out = image[: 2 * h, : 2 * w], np.empty((h, w, 3), np.uint8)
    bands = BANDS if aside is not None and h * w * 4 >= SHARED_PX else 1
    first, *others = (
        partial(cv2.resize, of, to.shape[1::-1], to, interpolation=cv2.INTER_AREA)
        for of, to in zip(_cut(image, 2 * -(-h // bands)), _cut(out, -(-h // bands)), strict=True)
    )
    errands = [] if aside is None else [aside(band) for band in reversed(others)]
    first()
    for errand in reversed(errands):
        errand.do()
    for errand in errands:
        errand.answer()
    return out


def _cut(rows: UInt8Array, each: int) -> list[UInt8Array]:
    return [rows[at : at + each] for at in range(0, len(rows), each)]


def prepared_mask(sample: Sample, contract: InputContract, picture_hw: tuple[int, int]) -> UInt8Array | None:
    """Where the defect is in the prepared picture: the drawn mask, cropped and resized as `prepare` does the picture.

    Args:
        sample: a labelled picture.
        contract: the model's input contract. Its region of interest is in pixels of the camera picture; a mask that
            was drawn at another size is brought to the picture's size first.
        picture_hw: height and width of the camera picture.

    Returns:
        uint8 of shape contract.size_hw, 0 or 1, resized by nearest. Zeros for a good part, but also for a defect that
        lies outside the region of interest or whose drawing is empty. None where nobody drew the defect.

    Raises:
        PictureError: the mask cannot be read, or belongs to a picture of another shape.
        ContractMismatch: the region of interest does not fit into the picture.
    """
    if contract.roi_xywh is None:
        return sample.mask(contract.size_hw, picture_hw)
    mask = sample.mask(picture_hw, picture_hw)
    if mask is None:
        return None
    region = cropped(mask, contract)
    return np.asarray(cv2.resize(region, contract.size_hw[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def cropped(pixels: AnyArray, contract: InputContract) -> AnyArray:
    """The region of interest as a view, (h, w, …) of (H, W, …); `pixels` itself where there is none.

    Raises:
        ContractMismatch: it does not fit into the picture.
    """
    if contract.roi_xywh is None:
        return pixels
    x, y, w, h = contract.roi_xywh
    if y + h > pixels.shape[0] or x + w > pixels.shape[1]:
        raise ContractMismatch(
            f"region of interest {w}x{h} at ({x}, {y}) does not fit into a picture of "
            f"{pixels.shape[1]}x{pixels.shape[0]} px; the model was trained on another picture size"
        )
    return pixels[y : y + h, x : x + w]
