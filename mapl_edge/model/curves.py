"""Training curves as a picture: losses and validation scores over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def curves_png(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the history of a training record, two panels side by side."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    steps = [entry["step"] for entry in history]
    for name, label in (("l1", "L1 (Eq. 12)"), ("focal", "focal (Eq. 13)")):
        losses.plot(steps, [entry[name] for entry in history], label=label)
    losses.set(xlabel="step", ylabel="loss", yscale="log")
    for name, label in (("validation_image_ap", "image"), ("validation_pixel_ap", "pixel")):
        scores.plot(steps, [entry[name] for entry in history], label=label)
    scores.set(xlabel="step", ylabel="average precision, held-out normals + simulated defects", ylim=(0, 1.02))
    for axes in (losses, scores):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
