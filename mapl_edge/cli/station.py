"""The command on the line: run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapl_edge.calibration import at_most, percent
from mapl_edge.config import MAX_BUDGET_MS, MAX_THREADS, CameraConfig, PresenceConfig, StationConfig, TriggerConfig
from mapl_edge.errors import OutputError
from mapl_edge.masks import InspectedArea
from mapl_edge.verdict import Outcome, Policy

if TYPE_CHECKING:  # runtime loads engines' libraries; commands import it when they need it
    from mapl_edge.runtime import AtWork, Inspects, Lane, RunSummary, Sink
    from mapl_edge.runtime.camera_gate import CameraGate
    from mapl_edge.runtime.loaded import Loaded
from mapl_edge.cli.app import CALIBRATED, EngineOption, app, people
from mapl_edge.cli.common import only_bundle_here, station_from_yaml, stop_on_signals
from mapl_edge.cli.reload import Remake, reload_on_hangup
from mapl_edge.cli.station_camera import StationCamera, station_camera
from mapl_edge.stderr import unhurried_stderr


@app.command(epilog="Example: mapl-edge run bottle.mapl --source data/bottle/test --out verdicts.jsonl --budget-ms 200")
def run(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle; default: the one in station.yaml, or the only *.mapl here.")
    ] = None,
    camera: Annotated[
        list[int] | None,
        typer.Option(
            help="USB camera by index (default: that of station.yaml, or 0); again for each further one.", min=0
        ),
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
        float | None,
        typer.Option(help="From capture to verdict; a part that takes longer is LATE.", min=0.001, max=MAX_BUDGET_MS),
    ] = None,
    trigger: Annotated[
        str | None,
        typer.Option(
            help="unix:PATH, where other programs trigger, or presence: each part that enters; one verdict each. "
            "For one camera; for several: station.yaml."
        ),
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
    from mapl_edge.runtime import Camera, Reload, RunSummary, SharedSink, SystemdSink, run_cameras
    from mapl_edge.runtime import run as run_loop
    from mapl_edge.runtime.loaded import Wanted, loaded_bundle

    context.with_resource(unhurried_stderr())
    station = station_from_yaml(config)
    configs = _cameras(station, camera or [], source or [], trigger)
    if out is not None and out.exists():  # told before the engine loads
        raise OutputError(f"{out} exists; choose another --out (a station file's `out:` is continued instead)")
    paths = [bundle or camera.bundle or station.bundle or only_bundle_here() for camera in configs]
    budgets = [budget_ms or camera.budget_ms or station.budget_ms for camera in configs]
    wanted = Wanted(engine_wanted, station.threads if threads is None else threads, CALIBRATED, require_signature)
    tell = partial(people.print, markup=False)
    bundles = {path: loaded_bundle(path, wanted, tell) for path in dict.fromkeys(paths)}
    alone, keep, run_name = len(configs) == 1, store or station.store.folder, uuid.uuid4().hex[:12]
    with stop_on_signals() as stop, ExitStack() as at_end:
        put_to_work = partial(_at_work, station=station, watched=not alone or budgets[0] is not None)
        engines = {one: put_to_work(one) for one in bundles.values()}
        for engine in engines.values():
            at_end.callback(engine.close)
        opened = [
            station_camera(each, bundles[path], budget, run_name, stop, at_end, alone=alone)
            for each, path, budget in zip(configs, paths, budgets, strict=True)
        ]
        cameras = _with_sinks(opened, out, station, keep, at_end)
        for path, one in bundles.items():
            _tell_bundle(one, f"{path}: " if len(bundles) > 1 else "")
        for each in cameras:
            if each.area is not None:
                which = f"{each.camera.name}: " if len(cameras) > 1 else ""
                people.print(
                    f"{which}masks: {percent(each.area.ignored.mean())} of the picture is ignored", markup=False
                )
        _tell_time(cameras, station.engine_stuck_s)
        lanes = [_lane(each, engines[each.loaded], station, keep) for each in cameras]
        reloads = [
            at_end.enter_context(
                Reload(
                    *(one, engine, [lane for lane, each in zip(lanes, cameras, strict=True) if each.loaded is one]),
                    *(put_to_work, tell),
                    watch=station.reload,
                )
            )
            for one, engine in engines.items()
        ]
        at_end.enter_context(reload_on_hangup(reloads))
        systemd = SystemdSink()
        at_end.callback(systemd.close)
        summaries = [RunSummary() for _ in cameras]
        at_end.callback(_tell_summaries, cameras, summaries, keep)
        if alone:
            (only,), (lane,) = cameras, lanes
            run_loop(only.opened(), lane.inspector, [*only.sinks, systemd], stop, max_frames, summaries[0])
        else:
            shared = SharedSink(systemd)
            jobs = [
                Camera(
                    *(each.camera.name, each.opened, lane.inspector, [*each.sinks, shared]), each.camera.retry_at_most_s
                )
                for each, lane in zip(cameras, lanes, strict=True)
            ]
            run_cameras(jobs, stop, max_frames, tell, summaries)


def _cameras(
    station: StationConfig, indices: Sequence[int], uris: Sequence[str], trigger: str | None
) -> list[CameraConfig]:
    """The cameras of the command line, or else those of the station."""
    if indices and uris:
        raise typer.BadParameter("give --camera or --source, not both")
    twice = next((index for index in indices if list(indices).count(index) > 1), None)
    if twice is not None:
        raise typer.BadParameter(f"--camera {twice} is there twice; name each camera once")
    named = list(uris) or [str(index) for index in indices]
    like = station.camera
    if trigger is not None:
        scheme, _, path = trigger.partition(":")
        if trigger != "presence" and (scheme != "unix" or not path):
            raise typer.BadParameter(f"--trigger: found {trigger!r}, expected unix:PATH or presence")
        n = len(named) or len(station.cameras)
        if n > 1 or station.cameras:
            raise typer.BadParameter(
                f"--trigger on the command line works with one camera, found {n}; for several set trigger: of each "
                "under cameras: in station.yaml"
            )
        wanted = TriggerConfig(socket=Path(path)) if path else TriggerConfig(presence=PresenceConfig())
        if path or like.trigger is None or like.trigger.presence is None:  # a station's own presence stays as it is
            like = like.model_copy(update={"trigger": wanted})
    if not named:
        return list(station.cameras) or [like]
    if len(named) == 1:
        fps = like.fps if named[0] == like.source else None
        return [like.model_copy(update={"source": named[0], "fps": fps})]
    if like.trigger is not None:
        raise typer.BadParameter(
            f"camera.trigger of the station file is for one camera, found {len(named)}; for several set trigger: of "
            "each under cameras:"
        )
    return [
        like.model_copy(update={"source": uri, "name": f"camera-{index}"})
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


def _lane(camera: StationCamera, engine: AtWork, station: StationConfig, keep: Path | None) -> Lane:
    """What judges a camera's shots, and how another is made of what comes to lie on the disk."""
    from mapl_edge.runtime import Judging, Lane, SwapInspector

    loaded, gate = camera.loaded, camera.gate_of(camera.loaded)
    inspector_of = partial(_inspector, station=station, budget_ms=camera.budget_ms)
    first = Judging(inspector_of(engine, loaded, gate, camera.area), engine, loaded.digests)
    start = camera.camera, station, camera.fields, camera.sinks, keep, loaded, gate
    return Lane(SwapInspector(first), Remake(*start, gate_of=camera.gate_of, inspector_of=inspector_of))


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


def _with_sinks(
    cameras: Sequence[StationCamera], out: Path | None, station: StationConfig, keep: Path | None, at_end: ExitStack
) -> list[StationCamera]:
    """Where verdicts go: to who asked first, then to stdout or one file for all, to the store, to the drift charts.

    They are closed at the end also where no run comes to do it.
    """
    from mapl_edge.runtime import DriftSink, JsonLines, RunIdentity, StdoutLines, open_store

    target = out or station.out
    asked = any(each.camera.trigger is not None and each.camera.trigger.socket is not None for each in cameras)
    elsewhere = keep is not None or asked  # stdout and file are not the only ones that get them
    lines: JsonLines | None = None
    done = []
    for each in cameras:
        sinks: list[Sink] = [each.triggers] if each.triggers else []
        at_end.callback(_close, sinks)
        if target is None:
            sinks.append(StdoutLines(each.fields, elsewhere=elsewhere))
        else:
            new = partial(JsonLines, target, append=out is None, elsewhere=elsewhere)
            lines = lines.beside(each.fields) if lines else new(each.fields)
            sinks.append(lines)
        calibration = each.loaded.calibration
        if keep is not None:
            identity = RunIdentity(**each.fields, engine=each.loaded.engine.name, limits=calibration.limits)
            sinks.append(open_store(keep, identity, station.store))
        if station.drift.follow:
            tell = partial(people.print, markup=False)
            sinks.append(DriftSink(calibration, station.drift, each.fields, keep, tell))
        done.append(replace(each, sinks=sinks))
    return done


def _close(sinks: Sequence[Sink]) -> None:
    with ExitStack() as each:
        for sink in sinks:
            each.callback(sink.close)


def _tell_bundle(loaded: Loaded, which: str) -> None:
    people.print(f"{which}{loaded.engine.name}, {loaded.proof.ms:.1f} ms a frame {_when(loaded)}", markup=False)
    calibration = loaded.calibration
    people.print(f"{which}limit {calibration.limits.fail:.6g}: {calibration.promise}", markup=False)
    if calibration.pixel_promise is not None and calibration.limits.pixel is not None:
        shown = f"{at_most(calibration.pixel_promise.achieved)} of good parts have a region above it"
        people.print(f"{which}pixel limit {calibration.limits.pixel.limit:.6g}: at most {shown}", markup=False)
    if note := calibration.note_on(loaded.proof.engine):
        people.print(note)


def _tell_time(cameras: Sequence[StationCamera], stuck_s: float) -> None:
    """Say before the first part what the engines' measured times mean for the budgets and the cameras."""
    for loaded, budget_ms in dict.fromkeys((each.loaded, each.budget_ms) for each in cameras):
        if budget_ms is None:
            continue
        name, ms = loaded.engine.name, loaded.proof.ms
        slow = f"; {name} took {ms:.1f} ms a frame {_when(loaded)}, so most verdicts will be LATE"
        warning = slow if ms > budget_ms else ""
        people.print(f"{'warning: ' if warning else ''}budget {budget_ms:g} ms from capture to verdict{warning}")
    for loaded in dict.fromkeys(each.loaded for each in cameras):
        if 1e3 * stuck_s < 2 * loaded.proof.ms:
            people.print(
                f"warning: engine_stuck_s of {stuck_s:g} s is less than two calls of {loaded.engine.name} "
                f"({loaded.proof.ms:.1f} ms {_when(loaded)}): an engine at work may be given up as stuck; raise it"
            )
    fps = max((each.fps for each in cameras if each.fps), default=None)
    if fps is None:
        return
    slowest = max((each.loaded for each in cameras), key=lambda loaded: loaded.proof.ms)
    n, ms = len(cameras), slowest.proof.ms
    budgets = [each.budget_ms for each in cameras if each.budget_ms and n > 1]  # all of them may come at once
    carried = min([int(1e3 / ms / fps), *(int(budget / ms) for budget in budgets)])
    engine = "this engine" if len({each.loaded for each in cameras}) == 1 else "the slowest of these engines"
    few = f", fewer than the {n} here: frames will be dropped or LATE" if carried < n else ""
    carries = f"at {fps:g} frames/s a camera, {engine} carries {carried} cameras by its speed {_when(slowest)}"
    people.print(f"{'warning: ' if few else ''}{carries}{few}")


def _when(loaded: Loaded) -> str:
    return f"when it was proved here, {loaded.proof.at[:10]}"


def _tell_summaries(cameras: Sequence[StationCamera], summaries: Sequence[RunSummary], keep: Path | None) -> None:
    from mapl_edge.runtime import Store

    for each, summary in zip(cameras, summaries, strict=True):
        _tell_summary(summary, f"{each.camera.name}: " if len(cameras) > 1 else "")
        for sink in each.sinks:
            if isinstance(sink, Store):
                people.print(f"{keep}: {sink.ledger()}; {sink.dropped_pictures} pictures dropped", markup=False)


def _tell_summary(summary: RunSummary, which: str) -> None:
    from mapl_edge.runtime import Drop

    counts = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    parts = f"{summary.frames} part{'' if summary.frames == 1 else 's'}"
    told = f"{which}{parts}: {counts or 'none'}; {summary.drops[Drop.NEWER]} frames dropped for newer ones"
    told += f", {summary.drops[Drop.STOPPED]} at the end" if summary.drops[Drop.STOPPED] else ""
    told += f"; {summary.late_results} results came late" if summary.late_results else ""
    if summary.most_frequent_reason is not None:
        reason, n = summary.most_frequent_reason
        told += f"; most frequent error ({n} of {summary.verdicts[Outcome.ERROR]}): {reason}"
    people.print(told, markup=False)
