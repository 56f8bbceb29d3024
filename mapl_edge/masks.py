"""Masks: where a camera's pictures are inspected, and what of an anomaly map counts there.

A model sees a defect larger than it is, so cutting ignored pixels out of the map is not enough: what leaks out of an
ignored area would still fail the part. A place counts only where it stands clearly above all that an ignored pixel can
reach without climbing (reconstruction by dilation; Vincent, IEEE Trans. Image Processing 2(2), 1993).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, BoolArray, FloatArray
from mapl_edge.contract import InputContract
from mapl_edge.errors import ConfigError, ContractMismatch
from mapl_edge.picture import picture_from_file
from mapl_edge.polygon import Polygon, filled, outside
from mapl_edge.prepare import cropped

if TYPE_CHECKING:
    from mapl_edge.config import CameraConfig

CELL = 4  # map pixels a side: the map is made at stride 4, nothing in it is finer
CLEARLY = 3.0  # times the odds of what leaks out of an ignored area
TOP_FRACTION = 25 / 256**2  # of the map's pixels: the score of a map is the mean of its highest ones
LOOK_EVERY = 8  # steps of the reconstruction between looks whether it is done
STEPS = 1 / (1 + np.exp(-np.linspace(-8, 8, 255)))  # of the map, a sixteenth apart in log-odds
CLEAR_OF = np.append(CLEARLY * STEPS / (1 + (CLEARLY - 1) * STEPS), 1).astype(np.float32)  # above a leak of each step

Drawing: TypeAlias = "tuple[Polygon, ...] | BoolArray"


@dataclass(frozen=True, slots=True)
class InspectedArea:
    """The masks on one camera's pictures.

    Attributes:
        picture_hw: height and width of the camera pictures that they are for.
        ignored: bool (H, W) of the anomaly map; a pixel that an ignored one is part of is ignored.
    """

    picture_hw: tuple[int, int]
    ignored: BoolArray

    def check(self, picture_hw: tuple[int, int]) -> None:
        """Raise ContractMismatch for a picture of another size than the masks'."""
        if picture_hw != self.picture_hw:
            raise ContractMismatch(
                f"picture is {_size(picture_hw)} px, the masks are for {_size(self.picture_hw)} px; "
                "set the camera back, or draw the masks anew and calibrate again"
            )

    def seen(self, anomaly_map: FloatArray) -> FloatArray:
        """The map, finite numbers, with 0 wherever it does not count, float32 (H, W)."""
        most = _cells(anomaly_map)
        found: AnyArray = _cells(np.where(self.ignored, anomaly_map, np.float32(0)))
        limit, leaked = _steps(most), _steps(found)
        kernel, step = np.ones((3, 3), np.uint8), 0
        while True:
            grown: AnyArray = cv2.min(cv2.dilate(leaked, kernel), limit)
            step += 1
            if step % LOOK_EVERY == 0 and np.array_equal(grown, leaked):
                break
            leaked = grown
        clear = cv2.resize(CLEAR_OF[leaked], anomaly_map.shape[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(np.where((anomaly_map > clear) & ~self.ignored, anomaly_map, 0), np.float32)


@dataclass(frozen=True)
class Masks:
    """What station.yaml says of a camera: areas to inspect (None: all) without areas to ignore.

    Each is polygons in pixels of the camera picture, or the white pixels of a picture of its size.
    """

    inspect: Drawing | None = None
    ignore: Drawing | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of both, in hex."""
        content = json.dumps([_plain(self.inspect), _plain(self.ignore)])
        return hashlib.sha256(content.encode()).hexdigest()

    def area(self, contract: InputContract, picture_hw: tuple[int, int]) -> InspectedArea:
        """The masks on the anomaly map of camera pictures of this size.

        Raises:
            ConfigError: a polygon leaves the picture, a mask file has another size, or nothing is left to inspect.
            ContractMismatch: the region of interest does not fit into the picture.
        """
        mistakes: list[str] = []
        inspected = np.ones(picture_hw, bool)
        if self.inspect is not None:
            inspected = _pixels(self.inspect, "camera.inspect", picture_hw, mistakes)
        if self.ignore is not None:
            inspected &= ~_pixels(self.ignore, "camera.ignore", picture_hw, mistakes)
        if mistakes:
            raise ConfigError("station", mistakes)
        h, w = contract.size_hw
        part = cropped(inspected.astype(np.float32), contract)
        if part.shape != (h, w):
            part = _least(part, (h, w))
        ignored = part < 1
        if ignored.all():
            raise ConfigError("station", ["camera.inspect, camera.ignore: leave nothing to inspect; draw them anew"])
        return InspectedArea(picture_hw, ignored)


def masks_from_camera(camera: CameraConfig) -> Masks | None:
    """The masks of a camera; None where it has none.

    Raises:
        PictureError: a mask file cannot be read.
    """
    if camera.inspect is None and camera.ignore is None:
        return None
    return Masks(_drawing(camera.inspect), _drawing(camera.ignore))


def map_score(seen: FloatArray) -> float:
    """The score of a masked map: the mean of its highest pixels, 25 of 256 x 256. It replaces the graph's raw score,
    into which ignored areas go too."""
    k = max(1, round(TOP_FRACTION * seen.size))
    values = seen[seen > 0]  # few of many
    return float((np.partition(values, -k)[-k:] if len(values) > k else values).sum(dtype=np.float64) / k)


def _drawing(drawn: tuple[Polygon, ...] | Path | None) -> Drawing | None:
    if isinstance(drawn, Path):
        return np.asarray(picture_from_file(drawn).max(axis=2) > 127)
    return drawn


def _plain(drawn: Drawing | None) -> Any:
    if isinstance(drawn, np.ndarray):
        return [drawn.shape, hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest()]
    return drawn


def _pixels(drawn: Drawing, where: str, picture_hw: tuple[int, int], mistakes: list[str]) -> BoolArray:
    found = np.zeros(picture_hw, bool)
    if isinstance(drawn, np.ndarray):
        if drawn.shape != picture_hw:
            mistakes.append(f"{where}: the mask is {_size(drawn.shape)} px, the camera picture {_size(picture_hw)} px")
            return found
        return drawn
    for number, polygon in enumerate(drawn):
        point = outside(polygon, picture_hw)
        if point is not None:
            mistakes.append(
                f"{where}.{number}: point ({point[0]:g}, {point[1]:g}) lies outside the camera picture of "
                f"{_size(picture_hw)} px"
            )
        found |= filled(polygon, picture_hw)
    return found


def _least(part: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """For each map pixel, the least of the camera pixels that it covers, however little."""
    for axis, n in enumerate(size_hw):
        have = part.shape[axis]
        first = np.arange(n) * have // n
        last = -(-(np.arange(n) + 1) * have // n)  # the end, rounded up
        lowest = [part.take(range(a, b), axis).min(axis) for a, b in zip(first, last, strict=True)]
        part = np.stack(lowest, axis)
    return part


def _steps(values: AnyArray) -> AnyArray:
    """How many of STEPS each value reaches, uint8: dilating bytes is seven times as fast."""
    return np.searchsorted(STEPS, values, side="right").astype(np.uint8)


def _cells(values: FloatArray) -> AnyArray:
    """The highest value of each cell, (H, W) → (H / 4, W / 4)."""
    rows = np.maximum.reduce([values[i::CELL] for i in range(CELL)])
    return np.asarray(np.maximum.reduce([rows[:, i::CELL] for i in range(CELL)]))


def _size(hw: Sequence[int] | AnyArray) -> str:
    return f"{hw[1]}x{hw[0]}"
