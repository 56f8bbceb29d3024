"""The command on the line: run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapl_edge.config import MAX_THREADS, StationConfig
from mapl_edge.engine import BaseEngine, Engine
from mapl_edge.errors import OutputError
from mapl_edge.verdict import Policy

if TYPE_CHECKING:  # runtime loads engines' libraries; commands import it when they need it
    from mapl_edge.runtime import Inspector, Inspects, OpenEngine
from mapl_edge.cli.app import CALIBRATED, EngineOption, app, people
from mapl_edge.cli.common import only_bundle_here, opened_bundle, station_from_yaml, stop_on_signals


@app.command(epilog="Example: mapl-edge run bottle.mapl --source data/bottle/test --out verdicts.jsonl --budget-ms 200")
def run(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle; default: the one in station.yaml, or the only *.mapl here.")
    ] = None,
    camera: Annotated[int | None, typer.Option(help="USB camera by index.", min=0)] = None,
    source: Annotated[
        str | None, typer.Option(help="rtsp://, http://, v4l2:, genicam:, a folder, a video, or line:.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the verdicts, one JSON object a line; default: stdout.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder that keeps every verdict, and the pictures of rejects.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many verdicts.", min=1)] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="From capture to verdict; a part that takes longer is LATE.", min=0.001)
    ] = None,
    engine_wanted: EngineOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)
    ] = None,
    require_signature: Annotated[
        Path | None, typer.Option(help="Public key (PEM): run only what its owner signed.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Station file; default: station.yaml, if it is here.")] = None,
) -> None:
    """Inspect a stream: one verdict per part, until the source ends or Ctrl-C."""
    from mapl_edge.runtime import (
        DriftSink,
        Drop,
        Inspector,
        JsonLines,
        RunIdentity,
        Sink,
        StdoutLines,
        Store,
        SystemdSink,
        choose_engine,
        open_store,
        source_from_uri,
        standby_engines,
    )
    from mapl_edge.runtime import run as run_loop
    from mapl_edge.runtime.camera_gate import camera_gate

    if camera is not None and source is not None:
        raise typer.BadParameter("give --camera or --source, not both")
    station = station_from_yaml(config)
    if out is not None and out.exists():  # told before the engine loads
        raise OutputError(f"{out} exists; choose another --out (a station file's `out:` is continued instead)")
    opened = opened_bundle(bundle or station.bundle or only_bundle_here())
    if require_signature is not None:
        from mapl_edge.signature import require_bundle_signature

        require_bundle_signature(opened, require_signature)
    calibration = opened.calibration
    threads = station.threads if threads is None else threads
    uri = source if source is not None else str(camera) if camera is not None else station.camera.source
    taken: dict[str, Any] = {"precisions": CALIBRATED, "signed_by": require_signature}
    engine, proof = choose_engine(opened, engine_wanted, threads, tell=people.print, **taken)
    budget_ms = station.budget_ms if budget_ms is None else budget_ms
    policy = Policy(station.on_late, station.on_error)
    tell = partial(people.print, markup=False)
    gate = camera_gate(station.camera, calibration.camera, opened.contract.roi_xywh, tell)
    judging: dict[str, Any] = {"limits": calibration.limits, "normals": calibration.scores}
    inspector_of = partial(Inspector, contract=opened.contract, policy=policy, gate=gate, **judging)
    standby = partial(standby_engines, opened, engine, proof.engine, engine_wanted, threads, **taken)
    with stop_on_signals() as stop, _inspects(engine, standby, inspector_of, station, budget_ms) as inspector:
        opened_source = source_from_uri(uri, limits=station.camera, tell=tell)
        if gate is not None:
            gate.begin(uri, opened_source.live)
        digests = {"bundle": opened.digest, "calibration": opened.calibration_digest}
        shared = {"run": uuid.uuid4().hex[:12], "camera": station.camera.name, **digests}
        target = out or station.out
        sinks: list[Sink] = [StdoutLines(shared) if target is None else JsonLines(target, shared, append=out is None)]
        keep = store or station.store.folder
        if keep is not None:
            identity = RunIdentity(
                shared["run"], station.camera.name, **digests, engine=engine.name, limits=calibration.limits
            )
            sinks.append(open_store(keep, identity, station.store))
        people.print(f"{engine.name}, {proof.ms:.1f} ms a frame")
        people.print(f"limit {calibration.limits.fail:.6g}: {calibration.promise}")
        if note := calibration.note_on(proof.engine):
            people.print(note)
        fps = station.camera.fps if uri == station.camera.source and station.camera.fps else None
        _tell_time(engine.name, proof.ms, budget_ms, fps or getattr(opened_source, "fps", None))
        if station.drift.follow:
            tell = partial(people.print, markup=False)
            sinks.append(DriftSink(calibration, station.drift, shared, keep, tell))
        summary = run_loop(opened_source, inspector, [*sinks, SystemdSink()], stop, max_frames)
    counts = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    told = f"{summary.frames} parts: {counts or 'none'}; {summary.drops[Drop.NEWER]} frames dropped for newer ones"
    told += f", {summary.drops[Drop.STOPPED]} at the end" if summary.drops[Drop.STOPPED] else ""
    people.print(told + (f"; {summary.late_results} results came late" if summary.late_results else ""))
    for sink in sinks:
        if isinstance(sink, Store):
            people.print(f"{keep}: {sink.ledger()}; {sink.dropped_pictures} pictures dropped", markup=False)


@contextmanager
def _inspects(
    engine: BaseEngine,
    standby: Callable[[], Sequence[OpenEngine]],
    inspector_of: Callable[[Engine], Inspector],
    station: StationConfig,
    budget_ms: float | None,
) -> Iterator[Inspects]:
    """The plain inspector, or with a budget the one that answers at the deadline; the engine closes behind it."""
    if budget_ms is None:
        with engine:
            yield inspector_of(engine)
        return
    from mapl_edge.runtime import DeadlineInspector, Patience

    patience = Patience(
        stuck_s=station.engine_stuck_s, restarts=station.engine_restarts, window_s=station.restart_window_s
    )
    policy = Policy(station.on_late, station.on_error)
    with DeadlineInspector(standby(), inspector_of, budget_ms, policy, patience) as inspector:
        yield inspector


def _tell_time(name: str, ms: float, budget_ms: float | None, fps: float | None) -> None:
    """Say before the first part what the engine's measured time means for the budget and the cameras."""
    if budget_ms is not None:
        warning = f"; {name} takes {ms:.1f} ms a frame here, so most verdicts will be LATE" if ms > budget_ms else ""
        people.print(f"{'warning: ' if warning else ''}budget {budget_ms:g} ms from capture to verdict{warning}")
    if fps is not None:
        people.print(f"at {fps:g} frames/s a camera, this engine carries {int(1e3 / ms / fps)} cameras")
