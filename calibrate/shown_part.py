"""Shown part: a part to look at, with where it is wrong and the nearest good part beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.bundle import Bundle
from mapl_edge.engine import Reading
from mapl_edge.judge import Judgement
from mapl_edge.overlay import heat_overlay, marked
from mapl_edge.prepare import prepare

LONG_SIDE_PX = 384


@dataclass(frozen=True, slots=True)
class ShownPart:
    """One part to look at.

    Attributes:
        label: the truth; empty where nobody knows it.
        verdict: PASS, REVIEW, FAIL, LATE, ERROR; empty without limits.
        sha256: of the picture's file; empty where there is none.
        nearest: index of the nearest good part in the memory; None where nobody looked.
        regions: those that fail it, as a verdict line has them.
        pictures: what each shows, and uint8 (H, W, 3), BGR.
        note: what else people should know.
    """

    name: str
    label: str
    verdict: str
    score: float | None
    p_value: float | None
    sha256: str
    nearest: int | None
    regions: tuple[dict[str, Any], ...]
    pictures: tuple[tuple[str, UInt8Array], ...]
    note: str = ""

    @property
    def caption(self) -> str:
        """For people."""
        label = f" ({self.label})" if self.label and self.label not in self.name else ""
        said = [self.name + label, self.verdict]
        said.append("" if self.score is None else f"score {self.score:.4g}")
        said.append("" if self.p_value is None else f"p-value {self.p_value:.3g}")
        said.append(f"{len(self.regions)} region{'s' * (len(self.regions) > 1)}" if self.regions else "")
        said += ["" if self.nearest is None else f"nearest: memory {self.nearest}", self.note]
        said.append(f"SHA-256 {self.sha256[:16]}" if self.sha256 else "")
        return " · ".join(each for each in said if each)

    def as_json(self) -> dict[str, Any]:
        """All but the pictures."""
        names = ("name", "label", "verdict", "score", "p_value", "sha256", "nearest", "note")
        return {**{name: getattr(self, name) for name in names}, "regions": list(self.regions)}


def pictures_of(
    image: UInt8Array, reading: Reading, judgement: Judgement | None, bundle: Bundle
) -> tuple[tuple[str, UInt8Array], ...]:
    """A camera picture, uint8 (H, W, 3) BGR, the anomaly map on it with regions and masks, the nearest good part.

    The model's squeezed view is shown in the shape of what the camera saw, at most 384 px long.
    """
    contract = bundle.contract
    _, _, w, h = contract.roi_xywh or (0, 0, image.shape[1], image.shape[0])
    heat = marked(heat_overlay(prepare(image, contract), reading.map), judgement)
    return (
        ("part", resized(image, image.shape[1], image.shape[0])),
        ("anomaly map", resized(heat, w, h)),
        ("nearest good part", resized(bundle.memory_picture(reading.nearest), w, h)),
    )


def resized(image: AnyArray, w: int, h: int) -> UInt8Array:
    """A picture in the shape of w by h, its longer side at most 384 px."""
    scale = min(1.0, LONG_SIDE_PX / max(w, h))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    shrinks = size[0] < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
