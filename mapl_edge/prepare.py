"""prepare: the one way from a camera picture to a model's input. Train, evaluate, calibrate, parity and run use it."""

from __future__ import annotations

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.contract import InputContract
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
    if contract.roi_xywh is not None:
        x, y, w, h = contract.roi_xywh
        if y + h > image.shape[0] or x + w > image.shape[1]:
            raise ContractMismatch(
                f"region of interest {w}x{h} at ({x}, {y}) does not fit into a picture of "
                f"{image.shape[1]}x{image.shape[0]} px; the model was trained on another picture size"
            )
        image = image[y : y + h, x : x + w]
    if image.shape[:2] != contract.size_hw:
        # Shrink first: cv2 averages only where no side grows, else it samples lines away.
        h, w = (min(have, want) for have, want in zip(image.shape[:2], contract.size_hw, strict=True))
        for size_wh in ((w, h), contract.size_hw[::-1]):
            if image.shape[1::-1] != size_wh:
                image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return np.ascontiguousarray(image)
