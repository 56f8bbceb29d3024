"""Runtime: from a camera to verdicts. Never imports torch, export or calibrate."""

from mapl_edge.runtime.inspector import Inspection, Inspector
from mapl_edge.runtime.loop import RunSummary, run
from mapl_edge.runtime.onnx_engine import OnnxRuntimeEngine
from mapl_edge.runtime.sinks import JsonLines, Sink, StdoutLines
from mapl_edge.runtime.sources import Blank, Shot, Source, source_from_uri

__all__ = [
    "Blank",
    "Inspection",
    "Inspector",
    "JsonLines",
    "OnnxRuntimeEngine",
    "RunSummary",
    "Shot",
    "Sink",
    "Source",
    "StdoutLines",
    "run",
    "source_from_uri",
]
