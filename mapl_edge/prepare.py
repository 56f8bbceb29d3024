"""prepare: the one way from a camera picture to a model's input, and of a drawn mask beside it.

Train, evaluate, calibrate, parity and run use it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, partial

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
    if image.shape[:2] != contract.size_hw:
        # Shrink first: cv2 averages only where no side grows, else it samples lines away.
        h, w = (min(have, want) for have, want in zip(image.shape[:2], contract.size_hw, strict=True))
        for size_wh in ((w, h), contract.size_hw[::-1]):
            if image.shape[1::-1] != size_wh:
                image = _resized(image, size_wh, aside)
    return np.ascontiguousarray(image)


def _resized(image: UInt8Array, size_wh: tuple[int, int], aside: DoesAside | None) -> UInt8Array:
    w, h = size_wh
    if aside is None or image.shape[0] * image.shape[1] < SHARED_PX or not _in_bands(image.shape[0], h):
        return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    out = np.empty((h, w, 3), np.uint8)
    of, to = np.split(image, BANDS), np.split(out, BANDS)
    first, *others = (partial(_area, *band) for band in zip(of, to, strict=True))
    errands = [aside(band) for band in reversed(others)]
    first()
    for errand in reversed(errands):
        errand.do()
    for errand in errands:
        errand.answer()
    return out


def _area(image: UInt8Array, out: UInt8Array) -> None:
    cv2.resize(image, out.shape[1::-1], out, interpolation=cv2.INTER_AREA)


@cache
def _in_bands(have: int, want: int) -> bool:
    """Whether as many rows can be resized in bands to the same values: cv2's step between rows has to be exact."""
    return have > want and have % BANDS == want % BANDS == 0 and Fraction(1 / (want / have)) == Fraction(have, want)


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
