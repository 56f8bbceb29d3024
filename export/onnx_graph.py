"""The fused ONNX graph: uint8 NHWC BGR in; raw score, anomaly map and nearest sample out."""

from __future__ import annotations

from pathlib import Path

from mapl_edge.model.detector import Detector
from mapl_edge.model.frozen import onnx_program

OUTPUTS = ["score", "map", "nearest"]


def onnx_from_detector(detector: Detector, path: Path) -> None:
    """Write encoder, memory search, difference, decoder and score as one graph, any batch size.

    Input `image`: uint8 (B, H, W, 3), BGR. Outputs `score` float32 (B,), `map` float32 (B, H, W), `nearest` int64 (B,).
    """
    onnx_program(detector, detector.size_hw, OUTPUTS).save(path)
