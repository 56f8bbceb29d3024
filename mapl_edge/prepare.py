"""prepare: the one way from a camera picture to a model's input, and of a drawn mask beside it.

Train, evaluate, calibrate, parity and run use it.
"""

from __future__ import annotations

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.contract import InputContract
from mapl_edge.dataset import Sample
from mapl_edge.errors import ContractMismatch


def prepare(image: UInt8Array, contract: InputContract) -> UInt8Array:
    """Crop and resize a camera picture as the contract says.

    Args:
        image: uint8 (H, W, 3), BGR.
        contract: the model's input contract.

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
                image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return np.ascontiguousarray(image)


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
