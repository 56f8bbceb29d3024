"""Place: how far a part lies from where a good part lay at calibration, by profiles of the prepared picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.errors import ContractMismatch

EVERY = 2  # line of the picture that a profile is made of: half the work, and it measures as well
REACH = 4  # a part may lie up to 1/4 of the picture away: the middle half of the reference is looked for
UNIT = 100  # of the stored grey levels


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Mean grey levels of a picture's columns and rows, float32 (W,) and (H,), 0..255."""

    columns: FloatArray
    rows: FloatArray


def profiles_of(grey: UInt8Array) -> Profiles:
    """Of a grey picture, uint8 (H, W)."""
    return Profiles(_means(grey), _means(cv2.transpose(grey)))


def _means(grey: Any) -> FloatArray:
    """Of each column; cv2 adds up rows four times as slowly."""
    lines = grey[::EVERY]
    return np.asarray(cv2.reduce(lines, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[0] / np.float32(len(lines)), np.float32)


def _levels(content: Any) -> Any:
    return [int(word) for word in content.split()] if isinstance(content, str) else content


Levels = Annotated[
    tuple[int, ...], BeforeValidator(_levels), PlainSerializer(lambda levels: " ".join(map(str, levels)), str)
]
"""Hundredths of grey levels, one text in the file."""


class PlaceReference(BaseModel):
    """The profiles of one good part: that of the median score, the most ordinary one.

    One part and not the mean of all: a mean that holds a calibration picture finds that very picture nearer than any
    later one, and each part that passes would seem to have moved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Levels
    rows: Levels

    def check(self, size_hw: tuple[int, int]) -> None:
        """It is of pictures of this size.

        Raises:
            ContractMismatch: it is not.
        """
        h, w = len(self.rows), len(self.columns)
        if (h, w) != size_hw:
            raise ContractMismatch(
                f"calibration.yaml: place is of pictures of {w}x{h} px, the model takes {size_hw[1]}x{size_hw[0]} px; "
                "run mapl-edge calibrate again"
            )

    def shift(self, found: Profiles) -> tuple[float, float]:
        """How many pixels further to the right and further down this part lies; parts of a pixel count.

        The reference's middle half is looked for by normalised cross-correlation of the profiles' slopes, so that
        neither light nor its slow change across the picture moves the part, and a parabola is laid through the peak
        (Lewis 1995). Where nothing is like it, the numbers mean little, but are alike for all such parts.
        """
        across, down = self._templates
        return _offset(across, found.columns), _offset(down, found.rows)

    @cached_property
    def _templates(self) -> tuple[FloatArray, FloatArray]:
        return _template(self.columns), _template(self.rows)


def reference_from_picture(picture: UInt8Array) -> PlaceReference:
    """Of a good part's prepared picture, uint8 (H, W, 3) BGR."""
    return reference_from_profiles(profiles_of(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)))


def reference_from_profiles(ordinary: Profiles) -> PlaceReference:
    """Of the part that the others are compared with."""
    return PlaceReference(
        columns=tuple(np.rint(UNIT * ordinary.columns).astype(int).tolist()),
        rows=tuple(np.rint(UNIT * ordinary.rows).astype(int).tolist()),
    )


def moved(picture: AnyArray, dx: float, dy: float) -> AnyArray:
    """A picture (H, W) or (H, W, C) moved to the right and down, parts of a pixel count; its edge is repeated."""
    by = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    size = picture.shape[1], picture.shape[0]
    return np.asarray(cv2.warpAffine(picture, by, size, borderMode=cv2.BORDER_REPLICATE), picture.dtype)


def _template(levels: tuple[int, ...]) -> FloatArray:
    slopes = _slopes(np.array(levels, np.float32) / np.float32(UNIT))
    reach = _reach(slopes)
    return np.ascontiguousarray(slopes[:, reach:-reach])


def _slopes(profile: FloatArray) -> FloatArray:
    """Differences of neighbours, (1, n - 1)."""
    return np.asarray(profile[1:] - profile[:-1])[None]


def _reach(slopes: FloatArray) -> int:
    return int(slopes.shape[1] + 1) // REACH


def _offset(template: FloatArray, profile: FloatArray) -> float:
    slopes = _slopes(profile)
    alike = cv2.matchTemplate(slopes, template, cv2.TM_CCORR_NORMED)[0]
    at = int(alike.argmax())
    peak = float(alike[at])
    if peak <= 0:  # nothing to see
        return 0.0
    offset = float(at - _reach(slopes))
    if 0 < at < len(alike) - 1:
        before, after = float(alike[at - 1]), float(alike[at + 1])
        bend = before - 2 * peak + after
        offset += 0.5 * (before - after) / bend if bend else 0.0
    return offset
