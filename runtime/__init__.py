"""Runtime: from a camera to verdicts. Never imports torch, export or calibrate."""

from mapl_edge.runtime.engine_choice import Proof, choose_engine, engine_of
from mapl_edge.runtime.engines import FusedEngine, SplitEngine
from mapl_edge.runtime.inspector import Inspection, Inspector
from mapl_edge.runtime.loop import RunSummary, run
from mapl_edge.runtime.sinks import JsonLines, Sink, StdoutLines
from mapl_edge.runtime.sources import Blank, Shot, Source, source_from_uri

__all__ = [
    "Blank",
    "FusedEngine",
    "Inspection",
    "Inspector",
    "JsonLines",
    "Proof",
    "RunSummary",
    "Shot",
    "Sink",
    "Source",
    "SplitEngine",
    "StdoutLines",
    "choose_engine",
    "engine_of",
    "run",
    "source_from_uri",
]
