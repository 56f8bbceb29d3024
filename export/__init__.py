"""Export: checkpoint → ONNX → bundle."""

from mapl_edge.export.bundle_writer import bundle_from_checkpoint
from mapl_edge.export.onnx_graph import onnx_from_detector

__all__ = ["bundle_from_checkpoint", "onnx_from_detector"]
