"""Export: checkpoint → ONNX → bundle → engines.

Names are looked up when they are asked for: adding an engine to a bundle needs no torch, which a device does not have.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mapl_edge.export.bundle_writer import bundle_from_checkpoint
    from mapl_edge.export.engine_writer import add_engine
    from mapl_edge.export.onnx_graph import onnx_from_detector
    from mapl_edge.export.split import split_from_detector

__all__ = ["add_engine", "bundle_from_checkpoint", "onnx_from_detector", "split_from_detector"]

_HOMES = {
    "add_engine": "engine_writer",
    "bundle_from_checkpoint": "bundle_writer",
    "onnx_from_detector": "onnx_graph",
    "split_from_detector": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
