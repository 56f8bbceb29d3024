"""Runtime: from a camera to verdicts. Never imports torch, export or calibrate."""

from mapl_edge.runtime.deadline import DeadlineInspector
from mapl_edge.runtime.drift_sink import DriftSink
from mapl_edge.runtime.engine_choice import Proof, choose_engine, engine_of, standby_engines
from mapl_edge.runtime.engines import FusedEngine, SplitEngine
from mapl_edge.runtime.inspector import Inspection, Inspector, Inspects
from mapl_edge.runtime.loop import Drop, RunSummary, run
from mapl_edge.runtime.sinks import ExpectingSink, JsonLines, LateSink, Sink, StdoutLines
from mapl_edge.runtime.sources import Blank, Shot, Source, source_from_uri
from mapl_edge.runtime.store import RunIdentity, Store, open_store
from mapl_edge.runtime.systemd import SystemdSink
from mapl_edge.runtime.watchdog import OpenEngine, Patience

__all__ = [
    "Blank",
    "DeadlineInspector",
    "DriftSink",
    "Drop",
    "ExpectingSink",
    "FusedEngine",
    "Inspection",
    "Inspector",
    "Inspects",
    "JsonLines",
    "LateSink",
    "OpenEngine",
    "Patience",
    "Proof",
    "RunIdentity",
    "RunSummary",
    "Shot",
    "Sink",
    "Source",
    "SplitEngine",
    "StdoutLines",
    "Store",
    "SystemdSink",
    "choose_engine",
    "engine_of",
    "open_store",
    "run",
    "source_from_uri",
    "standby_engines",
]
