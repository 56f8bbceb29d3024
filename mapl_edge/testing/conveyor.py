"""Conveyor: the synthetic line in motion. Its parts go by from left to right, with empty belt between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.testing.line import Part, SyntheticLine

LEAD = 40  # frames of empty belt before the first part comes
_BELT = 1 << 40  # index of the noise on the empty belt, far from any part's


@dataclass(frozen=True, slots=True)
class Conveyor:
    """Frames of a camera over the belt, each by its number; lengths are in picture widths.

    Attributes:
        line: gives the parts.
        step: how far the belt moves from frame to frame.
        pitch: from one part to the next, 1 or more.
        dwell: frames for which each part stands in the middle.
        flicker: share by which the light of a frame may differ, either way.
        start: index of the first part.

    Raises:
        ValueError: a field is out of its range.
    """

    line: SyntheticLine
    step: float = 0.05
    pitch: float = 1.5
    dwell: int = 0
    flicker: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1 or self.pitch < 1 or self.dwell < 0 or not 0 <= self.flicker < 1:
            raise ValueError(f"found {self}; expected a step in (0, 1], pitch >= 1, dwell >= 0, flicker in [0, 1)")

    def frame(self, number: int, parts: int | None = None) -> tuple[UInt8Array, Part | None]:
        """Frame `number`, uint8 (H, W, 3), and the part nearest to its middle, if one is nearer than half a picture.

        `parts` come in all; None: without end. What moves is the picture of each part as a whole, its light included.
        """
        w = self.line.size_hw[1]
        travelled = self._travelled(number)
        empty = _empty(self.line)
        picture = np.roll(empty, round(travelled * w) % w, axis=1)
        nearest: Part | None = None
        newest = floor(travelled / self.pitch + 1e-9)
        for k in range(max(0, newest - 3), newest + 1):
            left = round((travelled - 1 - k * self.pitch) * w)
            if abs(left) >= w or (parts is not None and k >= parts):
                continue
            part = _part(self.line, self.start + k)
            picture[:, max(0, left) : w + min(0, left)] = part.image[:, max(0, -left) : w - max(0, left)]
            if abs(left) < w / 2:
                nearest = part
        rng = np.random.default_rng([self.line.seed, number, 102])
        light = 1 + self.flicker * rng.uniform(-1, 1)
        noise = 1.5 * rng.standard_normal(picture.shape, dtype=np.float32)
        return np.asarray(cv2.addWeighted(picture, light, noise, 1, 0, dtype=cv2.CV_8U), np.uint8), nearest

    def frames(self, parts: int) -> int:
        """How many frames it takes until the last of so many parts has left and the belt was empty for a while."""
        first, cycle = self._frames_to_middle, self._frames_between
        return LEAD + 2 * first + (parts - 1) * cycle + parts * self.dwell + 10

    @property
    def _frames_to_middle(self) -> int:
        return ceil(1 / self.step - 1e-9)

    @property
    def _frames_between(self) -> int:
        return ceil(self.pitch / self.step - 1e-9)

    def _travelled(self, number: int) -> float:
        """Of the belt, until frame `number`; the first part comes at 0 and is in the middle at 1."""
        first, cycle = self._frames_to_middle, self._frames_between
        moved = number - LEAD
        if moved <= first:
            return moved / first
        k, within = divmod(moved - first, self.dwell + cycle)
        return 1 + self.pitch * (k + max(0, within - self.dwell) / cycle)


@lru_cache(maxsize=4)
def _empty(line: SyntheticLine) -> UInt8Array:
    return line.empty(_BELT)


@lru_cache(maxsize=16)
def _part(line: SyntheticLine, index: int) -> Part:
    return line.part(index)
