"""Part statistics: a few cheap numbers of one inspected part, by which a station sees itself drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.engine import Reading

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
        centre_x, centre_y: centre of gravity of the grey levels in pixels from the upper left; it follows the part.
    """

    distance: float
    brightness: float
    contrast: float
    sharpness: float
    centre_x: float
    centre_y: float

    def as_json(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


STATISTICS: tuple[str, ...] = ("score", *PartStatistics.__slots__)
"""What drift follows: the raw score and these."""


def part_statistics(picture: UInt8Array, reading: Reading) -> PartStatistics | None:
    """The statistics of one prepared picture, uint8 (H, W, 3) BGR, and what the engine said of it.

    A black picture has its centre of gravity in the middle. None where the map has no finite mean: then nothing is
    followed, and JSON stays JSON.
    """
    distance = float(cv2.mean(reading.map)[0])
    if not math.isfinite(distance):
        return None
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    h, w = grey.shape
    columns = cv2.reduce(grey, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[0]
    rows = cv2.reduce(grey, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[:, 0]
    found = (
        *(distance, mean[0, 0], deviation[0, 0], edges[0, 0]),
        *(_centre(columns, w), _centre(rows, h)),
    )
    return PartStatistics(*(float(f"{value:.{DIGITS}g}") for value in found))


def values_of(score: float, statistics: PartStatistics | Mapping[str, float] | None) -> dict[str, float]:
    """Score and statistics of one part by their names; of an old record without statistics, the score alone."""
    if statistics is None:
        return {"score": score}
    return {"score": score, **(statistics.as_json() if isinstance(statistics, PartStatistics) else statistics)}


def _centre(sums: AnyArray, n: int) -> float:
    total = float(sums.sum(dtype=np.float64))
    return float(sums @ np.arange(n, dtype=np.float32)) / total if total else (n - 1) / 2
