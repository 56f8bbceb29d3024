"""Placement: where a prepared picture, and the anomaly map on it, lies in the camera picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapl_edge.arrays import AnyArray, Float64Array
from mapl_edge.contract import InputContract


@dataclass(frozen=True, slots=True)
class Placement:
    """The inverse of `prepare`'s crop and resize. Points are (x, y) at pixel corners: a picture spans 0..W and 0..H.

    Attributes:
        left, top: of the region of interest, in pixels of the camera picture.
        step_x, step_y: pixels of the camera picture to one of the prepared picture.
    """

    left: float
    top: float
    step_x: float
    step_y: float

    def to_camera(self, points: AnyArray) -> Float64Array:
        """Points of the prepared picture, (N, 2) → of the camera picture, (N, 2)."""
        return np.asarray(points, np.float64) * (self.step_x, self.step_y) + (self.left, self.top)

    def to_prepared(self, points: AnyArray) -> Float64Array:
        """Points of the camera picture, (N, 2) → of the prepared picture, (N, 2)."""
        return (np.asarray(points, np.float64) - (self.left, self.top)) / (self.step_x, self.step_y)


def placement(contract: InputContract, picture_hw: tuple[int, int]) -> Placement:
    """Where the prepared picture lies in a camera picture of this height and width."""
    left, top, w, h = contract.roi_xywh or (0, 0, picture_hw[1], picture_hw[0])
    return Placement(left, top, w / contract.size_hw[1], h / contract.size_hw[0])
