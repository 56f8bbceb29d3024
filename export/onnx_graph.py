"""ONNX graphs of a detector: fused, the whole of it, or split, with the search left to FAISS.

    fused   image ─► model.onnx ─► score, map, nearest
    split   image ─► encoder.onnx ─► queries ─► memory.faiss ─► index ─► decoder.onnx ─► score, map, nearest
                                └──► features1, features2, features3 ─────┘

`image` is uint8 (B, H, W, 3), BGR; `score` float32 (B,), `map` float32 (B, H, W), `nearest` int64 (B,).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mapl_edge.model.detector import Detector
from mapl_edge.model.frozen import blank, onnx_program

LEVELS = ["features1", "features2", "features3"]
OUTPUTS = ["score", "map", "nearest"]


def onnx_from_detector(detector: Detector, path: Path) -> None:
    """Write encoder, memory search, difference, decoder and score as one graph, any batch size."""
    onnx_program(detector, {"image": blank(detector.size_hw)}, OUTPUTS).save(path)


def encoder_from_detector(detector: Detector, path: Path) -> None:
    """Write what comes before the search, any batch size.

    Outputs: the scaled `features1` to `features3`, float32 (B, C, H, W) of strides 4, 8, 16, and `queries`, float32
    (B, Q, S), see `Memory.queries`.
    """
    onnx_program(_BeforeSearch(detector), {"image": blank(detector.size_hw)}, [*LEVELS, "queries"]).save(path)


def decoder_from_detector(detector: Detector, path: Path) -> None:
    """Write what comes after the search, with the memory's content as constants, any batch size.

    Inputs: `features1` to `features3`, and `index`, int64 (B, Q): which of `Memory.vectors` is nearest to each query.
    """
    with torch.no_grad():
        *features, queries = _BeforeSearch(detector.eval())(blank(detector.size_hw))
    index = torch.zeros(queries.shape[:2], dtype=torch.int64)
    inputs = dict(zip([*LEVELS, "index"], [*features, index], strict=True))
    onnx_program(_AfterSearch(detector), inputs, OUTPUTS).save(path)


class _BeforeSearch(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.detector.encode(image)
        return *features, self.detector.memory.queries(features)


class _AfterSearch(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = [fine, middle, coarse]
        return self.detector.answer(self.detector.compared_with(features, self.detector.memory.at(features, index)))
