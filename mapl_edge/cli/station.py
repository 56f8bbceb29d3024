"""The command on the line: run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapl_edge.calibration import percent
from mapl_edge.config import MAX_THREADS, CameraConfig, StationConfig, TriggerConfig
from mapl_edge.errors import OutputError
from mapl_edge.masks import InspectedArea
from mapl_edge.verdict import Policy

if TYPE_CHECKING:  # runtime loads engines' libraries; commands import it when they need it
    from mapl_edge.runtime import AtWork, Inspects, RunSummary, Sink, Source, Triggers
    from mapl_edge.runtime.camera_gate import CameraGate
    from mapl_edge.runtime.loaded import Loaded
from mapl_edge.cli.app import CALIBRATED, EngineOption, app, people
from mapl_edge.cli.common import area_of, only_bundle_here, station_from_yaml, stop_on_signals
from mapl_edge.cli.reload import Remake, reload_on_hangup


@app.command(epilog="Example: mapl-edge run bottle.mapl --source data/bottle/test --out verdicts.jsonl --budget-ms 200")
def run(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle; default: the one in station.yaml, or the only *.mapl here.")
    ] = None,
    camera: Annotated[
        list[int] | None, typer.Option(help="USB camera by index; again for each further one.", min=0)
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="rtsp://, http://, v4l2:, genicam:, a folder, a video, or line:; again for each further one."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the verdicts, one JSON object a line; default: stdout.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder that keeps every verdict, and the pictures of rejects.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many verdicts, of each camera.", min=1)] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="From capture to verdict; a part that takes longer is LATE.", min=0.001)
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="unix:PATH, a socket on which other programs trigger; one verdict each.")
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
    """Inspect one stream or several: one verdict per part, until the sources end or Ctrl-C."""
    from mapl_edge.runtime import (
        Camera,
        Judging,
        Lane,
        Reload,
        SharedSink,
        Store,
        SwapInspector,
        SystemdSink,
        is_camera,
        run_cameras,
        source_from_uri,
    )
    from mapl_edge.runtime import run as run_loop
    from mapl_edge.runtime.loaded import Wanted, loaded_bundle

    station = station_from_yaml(config)
    cameras = _cameras(station, camera or [], source or [], trigger)
    if out is not None and out.exists():  # told before the engine loads
        raise OutputError(f"{out} exists; choose another --out (a station file's `out:` is continued instead)")
    paths = [bundle or camera.bundle or station.bundle or only_bundle_here() for camera in cameras]
    budgets = [budget_ms or camera.budget_ms or station.budget_ms for camera in cameras]
    wanted = Wanted(engine_wanted, station.threads if threads is None else threads, CALIBRATED, require_signature)
    tell = partial(people.print, markup=False)
    loaded = {path: loaded_bundle(path, wanted, tell) for path in dict.fromkeys(paths)}
    areas = [
        area_of(loaded[path].bundle, loaded[path].calibration, each) for each, path in zip(cameras, paths, strict=True)
    ]
    alone, keep = len(cameras) == 1, store or station.store.folder
    with stop_on_signals() as stop, ExitStack() as at_end:
        put_to_work = partial(_at_work, station=station, watched=not alone or budgets[0] is not None)
        engines = {path: put_to_work(each) for path, each in loaded.items()}
        for engine in engines.values():
            at_end.callback(engine.close)
        opens = [partial(source_from_uri, camera.source, limits=camera, tell=tell) for camera in cameras]
        run_name = uuid.uuid4().hex[:12]
        fields = [
            {"run": run_name, "camera": camera.name, **loaded[path].digests}
            for camera, path in zip(cameras, paths, strict=True)
        ]
        triggers = [_triggers(camera, each, at_end) for camera, each in zip(cameras, fields, strict=True)]
        opens = [
            open_source
            if asked is None
            else partial(_triggered, open_source, asked, budget or 1e3 * camera.stale_after_s, stop)
            for camera, open_source, asked, budget in zip(cameras, opens, triggers, budgets, strict=True)
        ]
        sources: dict[int, Source] = {}
        for index, each in enumerate(cameras):
            if alone or not is_camera(each.source):  # a mistake in a name is told before anything runs
                sources[index] = opens[index]()
                at_end.callback(sources[index].close)
        elsewhere = keep is not None or any(triggers)
        sinks = _sinks(fields, [loaded[path] for path in paths], out, station, keep, elsewhere=elsewhere)
        for to, asked in zip(sinks, triggers, strict=True):
            to[:0] = [asked] if asked else []  # whoever asked hears it first
        for path, one in loaded.items():
            _tell_bundle(one, f"{path}: " if len(loaded) > 1 else "")
        rates = [camera.fps or getattr(sources.get(index), "fps", None) for index, camera in enumerate(cameras)]
        _tell_time([loaded[path] for path in paths], budgets, rates)
        lanes: dict[Path, list[Lane]] = {path: [] for path in loaded}
        inspectors = []
        for i, (each, path) in enumerate(zip(cameras, paths, strict=True)):
            gate_of = partial(_gate, each, live=i not in sources or _is_live(sources[i]))
            inspector_of = partial(_inspector, station=station, budget_ms=budgets[i])
            gate = gate_of(loaded[path])
            first = inspector_of(engines[path], loaded[path], gate, areas[i])
            inspectors.append(SwapInspector(Judging(first, engines[path], loaded[path].digests)))
            remake = Remake(
                each, station, fields[i], sinks[i], keep, loaded[path], gate, gate_of=gate_of, inspector_of=inspector_of
            )
            lanes[path].append(Lane(inspectors[i], remake))
        reloads = [
            at_end.enter_context(Reload(one, engines[path], lanes[path], put_to_work, tell, watch=station.reload))
            for path, one in loaded.items()
        ]
        at_end.enter_context(reload_on_hangup(reloads))
        systemd = SystemdSink()
        at_end.callback(systemd.close)
        if alone:
            summaries = [run_loop(sources[0], inspectors[0], [*sinks[0], systemd], stop, max_frames)]
        else:
            shared = SharedSink(systemd)
            opens = [partial(sources.__getitem__, i) if i in sources else each for i, each in enumerate(opens)]
            jobs = [
                Camera(each.name, open_source, inspector, [*to, shared])
                for each, open_source, inspector, to in zip(cameras, opens, inspectors, sinks, strict=True)
            ]
            summaries = run_cameras(jobs, stop, max_frames, tell)
    for each, summary, to in zip(cameras, summaries, sinks, strict=True):
        _tell_summary(summary, "" if alone else f"{each.name}: ")
        for sink in to:
            if isinstance(sink, Store):
                tell(f"{keep}: {sink.ledger()}; {sink.dropped_pictures} pictures dropped")


def _cameras(
    station: StationConfig, indices: Sequence[int], uris: Sequence[str], trigger: str | None
) -> list[CameraConfig]:
    """The cameras of the command line, or else those of the station."""
    if indices and uris:
        raise typer.BadParameter("give --camera or --source, not both")
    named = list(uris) or [str(index) for index in indices]
    like = station.camera
    if trigger is not None:
        scheme, _, path = trigger.partition(":")
        if scheme != "unix" or not path or len(named) > 1 or station.cameras:
            raise typer.BadParameter(
                f"--trigger: found {trigger!r}, expected unix:PATH and one camera; for more: station.yaml"
            )
        like = like.model_copy(update={"trigger": TriggerConfig(socket=Path(path))})
    if not named:
        return list(station.cameras) or [like]
    if len(named) == 1:
        fps = like.fps if named[0] == like.source else None
        return [like.model_copy(update={"source": named[0], "fps": fps})]
    return [
        like.model_copy(update={"source": uri, "name": f"camera-{index}", "trigger": None})
        for index, uri in zip(indices or range(len(named)), named, strict=True)
    ]


def _at_work(loaded: Loaded, station: StationConfig, *, watched: bool) -> AtWork:
    """The engine itself, or the watchdog that keeps it at work; whoever calls closes it."""
    if not watched:
        return loaded.engine
    from mapl_edge.runtime import Patience, Watchdog

    patience = Patience(
        stuck_s=station.engine_stuck_s, restarts=station.engine_restarts, window_s=station.restart_window_s
    )
    watchdog = Watchdog(loaded.engines(), patience)
    watchdog.open()
    return watchdog


def _gate(camera: CameraConfig, loaded: Loaded, *, live: bool) -> CameraGate | None:
    """What stops pictures of a camera that is not well."""
    from mapl_edge.runtime.camera_gate import camera_gate

    tell = partial(people.print, markup=False)
    gate = camera_gate(camera, loaded.calibration.camera, loaded.bundle.contract.roi_xywh, tell)
    if gate is not None:
        gate.begin(camera.source, live)
    return gate


def _inspector(
    engine: AtWork,
    loaded: Loaded,
    gate: CameraGate | None,
    area: InspectedArea | None,
    station: StationConfig,
    budget_ms: float | None,
) -> Inspects:
    """The plain inspector, or with a watchdog the one that answers at the deadline."""
    from mapl_edge.runtime import DeadlineInspector, Watchdog

    policy = Policy(station.on_late, station.on_error)
    inspector_of = loaded.inspector_of(policy, gate, area)
    if not isinstance(engine, Watchdog):
        return inspector_of(engine)
    return DeadlineInspector(engine, inspector_of, budget_ms or float("inf"), policy)


def _triggers(camera: CameraConfig, fields: dict[str, str], at_end: ExitStack) -> Triggers | None:
    """The queue of a camera that is triggered, served on its socket."""
    from mapl_edge.runtime import Triggers, TriggerSocket

    if camera.trigger is None:
        return None
    triggers = Triggers(camera.trigger.queue)
    at_end.enter_context(TriggerSocket(camera.trigger.socket, triggers, fields))
    return triggers


def _is_live(source: Source) -> bool:
    """Whether its frames come by themselves, triggered or not."""
    live: bool = getattr(source, "camera_is_live", source.live)
    return live


def _triggered(open_source: Callable[[], Source], triggers: Triggers, wait_ms: float, stop: threading.Event) -> Source:
    from mapl_edge.runtime import TriggeredSource

    return TriggeredSource(open_source(), triggers, wait_ms / 1e3, stop=stop)


def _sinks(
    fields: Sequence[dict[str, str]],
    loaded: Sequence[Loaded],
    out: Path | None,
    station: StationConfig,
    keep: Path | None,
    *,
    elsewhere: bool,
) -> list[list[Sink]]:
    """Where each camera's verdicts go: stdout or one file for all, the store, and the drift charts.

    With `elsewhere`, stdout and file are not the only ones that get them.
    """
    from mapl_edge.runtime import DriftSink, JsonLines, RunIdentity, StdoutLines, open_store

    target = out or station.out
    lines: JsonLines | None = None
    sinks: list[list[Sink]] = []
    for shared, each in zip(fields, loaded, strict=True):
        if target is None:
            sinks.append([StdoutLines(shared, elsewhere=elsewhere)])
        else:
            new = partial(JsonLines, target, append=out is None, elsewhere=elsewhere)
            lines = lines.beside(shared) if lines else new(shared)
            sinks.append([lines])
        if keep is not None:
            identity = RunIdentity(**shared, engine=each.engine.name, limits=each.calibration.limits)
            sinks[-1].append(open_store(keep, identity, station.store))
        if station.drift.follow:
            tell = partial(people.print, markup=False)
            sinks[-1].append(DriftSink(each.calibration, station.drift, shared, keep, tell))
    return sinks


def _tell_bundle(loaded: Loaded, which: str) -> None:
    people.print(f"{which}{loaded.engine.name}, {loaded.proof.ms:.1f} ms a frame", markup=False)
    calibration = loaded.calibration
    people.print(f"{which}limit {calibration.limits.fail:.6g}: {calibration.promise}", markup=False)
    if calibration.pixel_promise is not None and calibration.limits.pixel is not None:
        shown = f"{percent(calibration.pixel_promise.achieved)} of good parts have a region above it"
        people.print(f"{which}pixel limit {calibration.limits.pixel.limit:.6g}: at most {shown}", markup=False)
    if note := calibration.note_on(loaded.proof.engine):
        people.print(note)


def _tell_time(loaded: Sequence[Loaded], budgets: Sequence[float | None], rates: Sequence[float | None]) -> None:
    """Say before the first part what the engines' measured times mean for the budgets and the cameras; one each."""
    for each, budget_ms in dict.fromkeys(zip(loaded, budgets, strict=True)):
        if budget_ms is None:
            continue
        name, ms = each.engine.name, each.proof.ms
        warning = f"; {name} takes {ms:.1f} ms a frame here, so most verdicts will be LATE" if ms > budget_ms else ""
        people.print(f"{'warning: ' if warning else ''}budget {budget_ms:g} ms from capture to verdict{warning}")
    fps = max((rate for rate in rates if rate), default=None)
    if fps is None:
        return
    ms = max(each.proof.ms for each in loaded)
    together = [int(budget / ms) for budget in budgets if budget and len(loaded) > 1]  # all of them may come at once
    carried = min([int(1e3 / ms / fps), *together])
    engine = "this engine" if len(set(loaded)) == 1 else "the slowest of these engines"
    few = f", fewer than the {len(loaded)} here: frames will be dropped or LATE" if carried < len(loaded) else ""
    people.print(f"{'warning: ' if few else ''}at {fps:g} frames/s a camera, {engine} carries {carried} cameras{few}")


def _tell_summary(summary: RunSummary, which: str) -> None:
    from mapl_edge.runtime import Drop

    counts = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    told = (
        f"{which}{summary.frames} parts: {counts or 'none'}; {summary.drops[Drop.NEWER]} frames dropped for newer ones"
    )
    told += f", {summary.drops[Drop.STOPPED]} at the end" if summary.drops[Drop.STOPPED] else ""
    people.print(told + (f"; {summary.late_results} results came late" if summary.late_results else ""))
