"""Training as pictures: losses and validation scores over the steps, and examples of what was simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from mapl_edge.arrays import UInt8Array


def curves_png(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the history of a training record, two panels side by side."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    steps = [entry["step"] for entry in history]
    names = {
        "l1": "L1 (Eq. 12)",
        "focal": "focal (Eq. 13)",
        "labelled": "labelled (15)",
        "pseudo_labelled": "pseudo (16)",
    }
    for name, label in names.items():
        if name in history[0]:
            losses.plot(steps, [entry[name] for entry in history], label=label)
    losses.set(xlabel="step", ylabel="loss", yscale="log")
    for name, label in (("validation_image_ap", "image"), ("validation_pixel_ap", "pixel")):
        scores.plot(steps, [entry[name] for entry in history], label=label)
    scores.set(xlabel="step", ylabel="average precision, held-out normals + simulated defects", ylim=(0, 1.02))
    for axes in (losses, scores):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def simulations_jpg(pictures: UInt8Array, path: Path) -> None:
    """Put simulated defects, uint8 (N, H, W, 3) BGR, side by side, four in a row."""
    blank = np.zeros_like(pictures[0])
    rows = [pictures[i : i + 4] for i in range(0, len(pictures), 4)]
    sheet = [np.concatenate([*row, *[blank] * (4 - len(row))][:4], axis=1) for row in rows]
    _, jpeg = cv2.imencode(".jpg", np.concatenate(sheet), [cv2.IMWRITE_JPEG_QUALITY, 90])
    path.write_bytes(jpeg.tobytes())
