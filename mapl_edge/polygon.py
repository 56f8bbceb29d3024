"""Polygons in a picture: what is wrong with one, and which pixels lie in it.

Points are (x, y) in pixels, at pixel corners: a picture of W x H px spans 0..W and 0..H.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from mapl_edge.arrays import BoolArray, Float64Array

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
MOST_POINTS = 1000


def polygon_from_list(points: Any) -> Polygon:
    """Check a list of [x, y]; a last point that repeats the first one is left away.

    Raises:
        ValueError: it is no such list, has fewer than three points or no area, or crosses itself.
    """
    try:
        polygon = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError) as exc:
        raise ValueError("expected a list of points [x, y]") from exc
    if not all(math.isfinite(number) for point in polygon for number in point):
        raise ValueError("has a coordinate that is no number")
    if len(polygon) > 1 and polygon[0] == polygon[-1]:
        polygon = polygon[:-1]
    if not 3 <= len(polygon) <= MOST_POINTS:
        raise ValueError(f"has {len(polygon)} points, expected 3 to {MOST_POINTS}")
    crossing = _crossing(np.array(polygon))
    if crossing is not None:
        raise ValueError(f"crosses itself: the side after point {crossing[0]} meets the one after point {crossing[1]}")
    return polygon


def outside(polygon: Polygon, picture_hw: tuple[int, int]) -> Point | None:
    """A point that lies outside the picture; None where all are inside or on its border."""
    h, w = picture_hw
    return next((point for point in polygon if not (0 <= point[0] <= w and 0 <= point[1] <= h)), None)


def filled(polygon: Polygon, picture_hw: tuple[int, int]) -> BoolArray:
    """The pixels whose centre lies in the polygon, bool (H, W)."""
    h, w = picture_hw
    toggles = np.zeros((h, w + 1), bool)
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        rows = np.arange(math.ceil(min(y1, y2) - 0.5), math.ceil(max(y1, y2) - 0.5))  # centres between the ends
        rows = rows[(rows >= 0) & (rows < h)]
        if len(rows):
            x = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            toggles[rows, np.clip(np.ceil(x - 0.5), 0, w).astype(int)] ^= True
    return np.logical_xor.accumulate(toggles, axis=1)[:, :w]


def _crossing(points: Float64Array) -> tuple[int, int] | None:
    """Two sides that meet although they are no neighbours, or a side that goes back on the one before."""
    n = len(points)
    ends = np.roll(points, -1, axis=0)
    along = ends - points
    turn = _cross(np.roll(along, 1, axis=0), along)
    back = (turn == 0) & ((np.roll(along, 1, axis=0) * along).sum(1) <= 0)
    if back.any():
        second = int(np.argmax(back))
        return (second - 1) % n, second
    a, b, c, d = points[:, None], ends[:, None], points[None], ends[None]
    sides = (_cross(b - a, c - a) * _cross(b - a, d - a) <= 0) & (_cross(d - c, a - c) * _cross(d - c, b - c) <= 0)
    boxes = (np.minimum(a, b) <= np.maximum(c, d)).all(2) & (np.minimum(c, d) <= np.maximum(a, b)).all(2)
    i, j = np.nonzero(np.triu(sides & boxes, 2))
    apart = (j - i) % n != n - 1
    return (int(i[apart][0]), int(j[apart][0])) if apart.any() else None


def _cross(a: Float64Array, b: Float64Array) -> Float64Array:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
