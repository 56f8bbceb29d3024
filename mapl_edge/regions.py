"""Regions: connected places of an anomaly map above the pixel limit, in pixels of the camera picture.

All that the filter asks of a region (area, length, width) only grows when the limit falls. So a picture has a region at
a limit exactly when its `region_level` lies above that limit, and the level of good parts carries the same promise as
their score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, BoolArray, Float64Array, FloatArray
from mapl_edge.calibration import PixelLimit, RegionFilter
from mapl_edge.placement import Placement
from mapl_edge.polygon import Polygon

MOST_REGIONS = 32  # told of one picture, those with the highest peaks: a verdict stays one short line
MOST_POINTS = 32  # of a told outline


@dataclass(frozen=True, slots=True)
class Region:
    """One place that fails a part. Lengths in pixels of the camera picture, points (x, y) at pixel corners.

    Attributes:
        box_xywh: the smallest whole pixels around it.
        polygon: its outline, drawn a little simpler.
        area_px: its area.
        peak: the map's highest value in it.
    """

    box_xywh: tuple[int, int, int, int]
    polygon: Polygon
    area_px: float
    peak: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded for people."""
        return {
            "box_xywh": list(self.box_xywh),
            "polygon": [[round(x, 1), round(y, 1)] for x, y in self.polygon],
            "area_px": round(self.area_px, 1),
            "peak": self.peak,
        }


def regions_above(seen: FloatArray, limit: PixelLimit, place: Placement) -> tuple[Region, ...]:
    """The regions of a map that survive the filter, those with the highest peaks first, 32 at most.

    Args:
        seen: float32 (H, W), what counts of the anomaly map.
        limit: of the map's values, and the filter.
        place: where the map lies in the camera picture.
    """
    found = []
    survivors = islice(_surviving(seen, limit.limit, limit, place), MOST_REGIONS)
    for cells, (left, top), area, outline, peak in survivors:
        h, w = cells.shape
        corners = place.to_camera(np.array([[left, top], [left + w, top + h]]))
        x, y = (int(v) for v in np.floor(corners[0] + 1e-6))
        right, bottom = (int(v) for v in np.ceil(corners[1] - 1e-6))
        polygon = tuple((float(px), float(py)) for px, py in place.to_camera(_simpler(outline)))
        found.append(Region((x, y, right - x, bottom - y), polygon, area, peak))
    return tuple(found)


def region_level(seen: FloatArray, wanted: RegionFilter, place: Placement) -> float:
    """The lowest of the map's values at which no region survives as a limit."""
    levels = np.unique(seen)
    low, high = -1, len(levels) - 1  # at `high` nothing survives: no value lies above it
    while high - low > 1:
        middle = (low + high) // 2
        survives = next(_surviving(seen, levels[middle], wanted, place), None) is not None
        low, high = (middle, high) if survives else (low, middle)
    return float(levels[high])


def _surviving(
    seen: FloatArray, limit: float, wanted: RegionFilter, place: Placement
) -> Iterator[tuple[BoolArray, tuple[int, int], float, AnyArray, float]]:
    """Of each region that survives, those with the highest peaks first: its cells (h, w), their left and top, its area,
    outline (N, 2) at corners of the map, and peak."""
    above = seen > limit
    n, found, stats, _ = cv2.connectedComponentsWithStats(above.view(np.uint8), connectivity=8)
    labels = np.asarray(found, np.int32)
    areas = stats[:, cv2.CC_STAT_AREA] * (place.step_x * place.step_y)
    peaks = np.full(n, -np.inf)
    np.maximum.at(peaks, labels[above], seen[above])
    large = np.flatnonzero(areas[1:] >= wanted.min_area_px) + 1
    for label in large[np.argsort(-peaks[large], kind="stable")]:
        left, top, w, h = (int(v) for v in stats[label, :4])
        cells = labels[top : top + h, left : left + w] == label
        outline = _outline(cells) + np.array([left, top])
        if wanted.min_length_px or wanted.min_width_px:
            length, width = _extent(place.to_camera(outline))
            if length < wanted.min_length_px or width < wanted.min_width_px:
                continue
        yield cells, (left, top), float(areas[label]), outline, float(peaks[label])


def _outline(cells: BoolArray) -> AnyArray:
    """The border of one region through pixel corners, int (N, 2)."""
    twice = cells.repeat(2, 0).repeat(2, 1).astype(np.uint8)  # each pixel gets a half for each of its sides
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return (max(contours, key=len)[:, 0] + 1) // 2


def _extent(points: Float64Array) -> tuple[float, float]:
    """Largest and smallest distance of two parallel lines that hold the points between them (Feret diameters)."""
    hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    length = float(np.sqrt(((hull[:, None] - hull[None]) ** 2).sum(2)).max())
    along = np.roll(hull, -1, axis=0) - hull
    along /= np.maximum(np.hypot(*along.T), 1e-12)[:, None]
    across = np.abs(
        along[:, None, 0] * (hull[None, :, 1] - hull[:, None, 1])
        - along[:, None, 1] * (hull[None, :, 0] - hull[:, None, 0])
    )
    return length, float(across.max(1).min())


def _simpler(outline: AnyArray) -> AnyArray:
    """At most so many points; it strays from the border by about a pixel of the map where it is long."""
    points, epsilon = outline.astype(np.int32), 0.75
    simple = cv2.approxPolyDP(points, epsilon, True)[:, 0]
    while len(simple) > MOST_POINTS:
        epsilon *= 1.5
        simple = cv2.approxPolyDP(points, epsilon, True)[:, 0]
    return simple if len(simple) > 2 else points
