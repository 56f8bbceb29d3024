"""Frame: what a camera gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.errors import PictureError

MIN_SIDE = 16  # pixels; below this nothing of a part can be seen at stride 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture from one camera.

    Attributes:
        image: uint8, shape (H, W, 3), BGR, H and W at least 16 px. Whoever makes the frame gives the buffer away.
        seq: counts up from 0 per camera; gaps mean dropped frames.
        t_mono: capture time in seconds, time.monotonic().
        captured_at: the same moment for people, UTC.
        name: what the source calls it: a file's path inside the folder, `000017-good` on the line, "" without one.
    """

    image: UInt8Array
    seq: int
    t_mono: float
    captured_at: datetime
    name: str = ""

    def __post_init__(self) -> None:
        check_picture(self.image, self.name or f"frame {self.seq}")


def check_picture(image: UInt8Array, name: str) -> None:
    """Raise PictureError unless `image` is uint8 (H, W, 3) with both sides at least 16 px."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise PictureError(name, f"must be uint8 of shape (H, W, 3), but got {image.dtype} of shape {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        h, w = image.shape[:2]
        raise PictureError(name, f"is {w}x{h} px, expected at least {MIN_SIDE}x{MIN_SIDE}; remove it, check the camera")
