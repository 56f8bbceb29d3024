"""Part statistics: a few cheap numbers of one inspected part, by which a station sees itself drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.engine import Reading
from mapl_edge.place import PlaceReference, profiles_of

DIGITS = 6  # significant ones; calibration and station round alike, so that their values compare


@dataclass(frozen=True, slots=True)
class PartStatistics:
    """What one prepared picture and its reading look like as a whole.

    Attributes:
        distance: mean of the anomaly map: how far the whole part is from the normals in the bank. The graph gives no
            distance of its own; its map is one, weighed by the decoder.
        brightness: mean grey level, 0..255.
        contrast: standard deviation of the grey levels.
        sharpness: standard deviation of the Laplacian; it falls when the lens leaves its focus.
        centre_x, centre_y: centre of gravity of the grey levels in pixels from the upper left; it follows the part, but
            the light as well.
        shift_x, shift_y: pixels by which the part lies to the right of and below the calibration's part of reference,
            whatever the light (`mapl_edge.place`); None without one.
    """

    distance: float
    brightness: float
    contrast: float
    sharpness: float
    centre_x: float
    centre_y: float
    shift_x: float | None = None
    shift_y: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def moved(self, shift: tuple[float, float]) -> PartStatistics:
        """The same part with its shift, which is known once there is a reference."""
        return replace(self, shift_x=_rounded(shift[0]), shift_y=_rounded(shift[1]))


STATISTICS: tuple[str, ...] = ("score", *PartStatistics.__slots__)
"""What drift follows: the raw score and these."""


def part_statistics(
    picture: UInt8Array, reading: Reading, place: PlaceReference | None = None
) -> PartStatistics | None:
    """The statistics of one prepared picture, uint8 (H, W, 3) BGR, and what the engine said of it.

    A black picture has its centre of gravity in the middle. None where the map has no finite mean: then nothing is
    followed, and JSON stays JSON.
    """
    return statistics_of(picture_statistics(picture, place), reading)


def picture_statistics(picture: UInt8Array, place: PlaceReference | None = None) -> tuple[float, ...]:
    """What of `PartStatistics` does not wait for the engine, in order, from `brightness` on.

    It reads the picture once, and then bytes and 16-bit integers, never floats.
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
    mean, deviation = cv2.meanStdDev(grey)
    profiles = profiles_of(grey)
    found = [
        *(float(mean[0, 0]), float(deviation[0, 0]), _deviation(cv2.Laplacian(grey, cv2.CV_16S))),
        *(_centre(profiles.columns), _centre(profiles.rows)),
        *(() if place is None else place.shift(profiles)),
    ]
    return tuple(map(_rounded, found))


def statistics_of(measured: tuple[float, ...], reading: Reading) -> PartStatistics | None:
    """With what `picture_statistics` measured; each verdict waits for this. None: see `part_statistics`."""
    distance = cv2.mean(reading.map)[0]
    return PartStatistics(_rounded(distance), *measured) if math.isfinite(distance) else None


def values_of(score: float, statistics: PartStatistics | Mapping[str, float | None] | None) -> dict[str, float]:
    """Score and statistics of one part by their names; of an old record without statistics, the score alone."""
    if isinstance(statistics, PartStatistics):
        statistics = statistics.as_json()
    known = {name: value for name in STATISTICS if (value := (statistics or {}).get(name)) is not None}
    return {"score": score, **known}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _deviation(levels: Any) -> float:
    """Of int16; cv2.meanStdDev takes ten times as long."""
    mean = cv2.sumElems(levels)[0] / levels.size
    return math.sqrt(max(0.0, cv2.norm(levels, cv2.NORM_L2SQR) / levels.size - mean * mean))


def _centre(profile: FloatArray) -> float:
    total = cv2.sumElems(profile)[0]
    return float(profile.dot(_places(profile.size))) / total if total else (profile.size - 1) / 2


@cache
def _places(n: int) -> FloatArray:
    return np.arange(n, dtype=np.float32)
