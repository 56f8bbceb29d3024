"""Overlay: the anomaly map, regions and masks drawn on a picture of the map's size."""

from __future__ import annotations

import cv2
import numpy as np

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.judge import Judgement

REGION_BGR = (255, 255, 255)
SHADE = 0.35  # of its brightness is left to an ignored place


def marked(picture: UInt8Array, judgement: Judgement | None) -> UInt8Array:
    """A copy with ignored places darkened and regions outlined, uint8 (H, W, 3), BGR; `picture` where there is none."""
    if judgement is None or (judgement.ignored is None and not judgement.outlines):
        return picture
    drawn = picture.copy()
    if judgement.ignored is not None:
        drawn[judgement.ignored] = (drawn[judgement.ignored] * SHADE).astype(np.uint8)
    lines = [np.round(outline * 16 - 8).astype(np.int32)[:, None] for outline in judgement.outlines]  # pixel centres
    cv2.polylines(drawn, lines, True, REGION_BGR, 1, cv2.LINE_AA, shift=4)
    return drawn


def heat_overlay(picture: UInt8Array, anomaly_map: FloatArray) -> UInt8Array:
    """The map in colours over the picture, see-through where nothing is wrong. uint8 (H, W, 3), BGR."""
    strength = np.clip(np.nan_to_num(anomaly_map), 0, 1)
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = (0.15 + 0.65 * strength)[:, :, None]
    return np.asarray(picture * (1 - weight) + colours * weight, dtype=np.float32).astype(np.uint8)
