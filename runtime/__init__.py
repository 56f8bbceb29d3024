"""Runtime: from a camera to verdicts. Never imports torch, export or calibrate.

Names are looked up when they are asked for: a command that asks an engine alone does not wait for cameras and stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mapl_edge.runtime.cameras import Camera, run_cameras
    from mapl_edge.runtime.deadline import DeadlineInspector
    from mapl_edge.runtime.drift_sink import DriftSink
    from mapl_edge.runtime.engine_choice import Proof, choose_engine, engine_of, standby_engines
    from mapl_edge.runtime.engines import FusedEngine, SplitEngine
    from mapl_edge.runtime.inspector import Inspection, Inspector, Inspects
    from mapl_edge.runtime.loop import Drop, RunSummary, run
    from mapl_edge.runtime.presence import Presence
    from mapl_edge.runtime.reload import AtWork, Lane, Reload
    from mapl_edge.runtime.sinks import ExpectingSink, JsonLines, LateSink, QueuedSink, SharedSink, Sink, StdoutLines
    from mapl_edge.runtime.sources import Blank, Shot, Source, is_camera, source_from_uri
    from mapl_edge.runtime.store import Store, open_store
    from mapl_edge.runtime.store_batch import RunIdentity
    from mapl_edge.runtime.swap import Judging, SwapInspector
    from mapl_edge.runtime.systemd import SystemdSink
    from mapl_edge.runtime.trigger_socket import TriggerSocket
    from mapl_edge.runtime.triggers import TriggeredSource, Triggers
    from mapl_edge.runtime.watchdog import InspectorOf, OpenEngine, Patience, Watchdog

__all__ = [
    "AtWork",
    "Blank",
    "Camera",
    "DeadlineInspector",
    "DriftSink",
    "Drop",
    "ExpectingSink",
    "FusedEngine",
    "Inspection",
    "Inspector",
    "InspectorOf",
    "Inspects",
    "JsonLines",
    "Judging",
    "Lane",
    "LateSink",
    "OpenEngine",
    "Patience",
    "Presence",
    "Proof",
    "QueuedSink",
    "Reload",
    "RunIdentity",
    "RunSummary",
    "SharedSink",
    "Shot",
    "Sink",
    "Source",
    "SplitEngine",
    "StdoutLines",
    "Store",
    "SwapInspector",
    "SystemdSink",
    "TriggerSocket",
    "TriggeredSource",
    "Triggers",
    "Watchdog",
    "choose_engine",
    "engine_of",
    "is_camera",
    "open_store",
    "run",
    "run_cameras",
    "source_from_uri",
    "standby_engines",
]

_HOMES = {
    "AtWork": "reload",
    "Blank": "sources",
    "Camera": "cameras",
    "DeadlineInspector": "deadline",
    "DriftSink": "drift_sink",
    "Drop": "loop",
    "ExpectingSink": "sinks",
    "FusedEngine": "engines",
    "Inspection": "inspector",
    "Inspector": "inspector",
    "InspectorOf": "watchdog",
    "Inspects": "inspector",
    "JsonLines": "sinks",
    "Judging": "swap",
    "Lane": "reload",
    "LateSink": "sinks",
    "OpenEngine": "watchdog",
    "Patience": "watchdog",
    "Presence": "presence",
    "Proof": "engine_choice",
    "QueuedSink": "sinks",
    "Reload": "reload",
    "RunIdentity": "store_batch",
    "RunSummary": "loop",
    "SharedSink": "sinks",
    "Shot": "sources",
    "Sink": "sinks",
    "Source": "sources",
    "SplitEngine": "engines",
    "StdoutLines": "sinks",
    "Store": "store",
    "SwapInspector": "swap",
    "SystemdSink": "systemd",
    "TriggerSocket": "trigger_socket",
    "TriggeredSource": "triggers",
    "Triggers": "triggers",
    "Watchdog": "watchdog",
    "choose_engine": "engine_choice",
    "engine_of": "engine_choice",
    "is_camera": "sources",
    "open_store": "store",
    "run": "loop",
    "run_cameras": "cameras",
    "source_from_uri": "sources",
    "standby_engines": "engine_choice",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
