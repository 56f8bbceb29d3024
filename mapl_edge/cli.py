"""The command line. A command opens, calls one function, prints. Text for people goes to stderr, `--json` to stdout."""

from __future__ import annotations

import difflib
import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from mapl_edge import __version__
from mapl_edge.bundle import MANIFEST, MODEL_JSON, Bundle, open_bundle
from mapl_edge.clock import SystemClock
from mapl_edge.config import MAX_THREADS, STATION_FILE, StationConfig, TrainConfig, config_from_dict, config_from_yaml
from mapl_edge.engine import BaseEngine, Engine
from mapl_edge.engine_record import Backend, Graph, Precision, engine_names
from mapl_edge.errors import (
    BackendUnavailable,
    BundleError,
    ConfigError,
    DataError,
    MaplEdgeError,
    OutputError,
    TrainingError,
    Uncalibrated,
)
from mapl_edge.files import check_absent, new_folder, write_stdout
from mapl_edge.verdict import Outcome, Policy, utc_text

if TYPE_CHECKING:  # runtime loads engines' libraries; commands import it when they need it
    from mapl_edge.runtime import Inspector, Inspects, OpenEngine

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From pictures of good parts to PASS/FAIL on a factory camera.",
    epilog="Example: mapl-edge demo --out demo",
)
CALIBRATED = ("fp32", "fp16")  # limits are set with fp32, whose scores fp16 gives too; int8 is asked for by name
people = Console(stderr=True, highlight=False, soft_wrap=True)
WIDE = 240  # columns of a table that goes to a file or pipe

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help="auto (the fastest proven one), a library, or an engine's name.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count pictures that cannot be read and go on.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")]


@app.command(epilog="Example: mapl-edge train data/bottle --out models/bottle")
def train(
    data: Annotated[Path, typer.Argument(help="Folder of good parts, or a data set with train/good.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    seed: Annotated[int | None, typer.Option(help="Same seed, same model (default 0).")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps at most (default 1000).")] = None,
    size: Annotated[
        str | None, typer.Option(help="Model input, HEIGHTxWIDTH (default: the pictures' shape, as large as 256x256).")
    ] = None,
    roi: Annotated[str | None, typer.Option(help="Crop of the camera picture: LEFT,TOP,WIDTH,HEIGHT.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder by name (default efficientnet_lite0).")] = None,
    weights: Annotated[Path | None, typer.Option(help="File with the encoder's weights.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Compare with whole pictures or patches: auto, image, patch.")
    ] = None,
    textures: Annotated[Path | None, typer.Option(help="Folder of texture pictures, such as DTD.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of the training settings.")] = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a model on pictures of good parts, and of real defects in train/<defect> if there are any.

    A run that was killed goes on where it was when it is started again with the same pictures and settings.
    """
    from mapl_edge.dataset import BadPictures, defect_samples, good_samples

    check_absent(out, MODEL_JSON, overwrite=overwrite)
    flags = {"seed": seed, "steps": steps, "encoder": encoder, "weights": weights, "memory": memory}
    settings = _train_config(config, size=size, roi=roi, textures=textures, **flags)
    samples, defects, bad = good_samples(data), defect_samples(data), BadPictures(skip_bad)
    with _extra("train"):  # torch takes seconds to load: a wrong path should not wait for it
        from mapl_edge.model.curves import curves_png, simulations_jpg
        from mapl_edge.model.train import train as train_model
    state = out.with_name(f".{out.name}.state")
    with _bars() as progress:
        checkpoint = train_model(samples, settings, bad, progress, defects=defects, state=state)
    with new_folder(out, MODEL_JSON, overwrite=overwrite) as work:
        checkpoint.save(work)
        curves_png(checkpoint.record.history, work / "training.png")
        simulations_jpg(checkpoint.simulated_pictures, work / "simulations.jpg")
    state.unlink(missing_ok=True)
    _tell_skipped(bad.errors)
    summary = checkpoint.record.summary
    for note in summary["notes"]:
        people.print(note)
    if summary["failure"]:
        raise TrainingError(f"{summary['failure']}; {out} holds the model of step {summary['best_step']}")
    people.print(
        f"{out}: trained on {summary['pictures']['train']} good parts in {summary['seconds']:.0f} s, best step "
        f"{summary['best_step']} of {summary['steps']}; next: mapl-edge export {out} --out part.mapl"
    )
    _print_json(as_json, {"model": str(out), **summary})


@app.command(epilog="Example: mapl-edge export models/bottle --out bottle.mapl --engine openvino --precision int8")
def export(
    model: Annotated[Path, typer.Argument(help="Model folder that train wrote, or a bundle to add to.")],
    out: Annotated[Path | None, typer.Option(help="Bundle to write, by custom NAME.mapl.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Add an engine: onnxruntime, openvino, tensorrt, tensorrt_rtx.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of that engine: fp32, fp16, int8.")] = "fp32",
    graph: Annotated[str, typer.Option(help="Of that engine: fused, or split with a FAISS search.")] = "fused",
    target: Annotated[str, typer.Option(help="Device to build it for, such as sm89; any: this one.")] = "any",
    memory_mb: Annotated[int | None, typer.Option(help="Memory that its build may take.", min=64)] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep it though it costs over 0.2 points of AUROC.")] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Ed25519 private key (PEM) to sign bundle and engines with.")
    ] = None,
    into: Annotated[str, typer.Option("--format", help="bundle, or triton: a Triton model repository.")] = "bundle",
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a model into a bundle, add engines to it, sign it; each graph is proved to answer as the model does."""
    backend, wanted, kind = (
        _one_of("engine", engine, Backend),
        _one_of("precision", precision, Precision),
        _one_of("graph", graph, Graph),
    )
    _one_of("format", into, Literal["bundle", "triton"])
    is_bundle = (model / MANIFEST).is_file()
    if into == "triton":
        if out is None or not is_bundle:
            raise typer.BadParameter("--format triton takes a bundle, and --out for the model repository")
        from mapl_edge.export.triton import triton_from_bundle

        placed = triton_from_bundle(open_bundle(model), out, overwrite=overwrite)
        people.print(f"{out}: Triton model repository with {placed}; serve it: tritonserver --model-repository {out}")
        return _print_json(as_json, {"repository": str(out), "model": placed})
    if is_bundle == (out is not None):
        raise typer.BadParameter("a model folder needs --out, the bundle to write; a bundle takes none: it is added to")
    if is_bundle and backend is None and sign is None:
        raise typer.BadParameter(f"{model} is a bundle: name an --engine to add to it, or --sign it")
    told: dict[str, Any] = {}
    if out is not None:
        check_absent(out, MANIFEST, overwrite=overwrite)
        with _extra("train"):
            from mapl_edge.export import bundle_from_checkpoint
            from mapl_edge.model.checkpoint import checkpoint_from_folder
        from mapl_edge.runtime.engine_choice import engine_of

        checkpoint = checkpoint_from_folder(model)
        with people.status("exporting and proving the graphs"):
            fused, split = bundle_from_checkpoint(checkpoint, out, engine_of, overwrite=overwrite)
        people.print(f"{out}: {fused}; split graphs: score within {split.score_error:.1e}")
        told = {"score_error": fused.score_error, "map_error": fused.map_error, "tolerance": fused.tolerance}
        told["split"] = {"score_error": split.score_error, "map_error": split.map_error}
    path = out or model
    bundle = open_bundle(path)
    if backend is not None:
        with _extra("export"):
            from mapl_edge.export.engine_writer import add_engine
        from mapl_edge.runtime.engine_choice import engine_of

        with _bars() as progress:
            record = add_engine(
                bundle,
                backend,
                wanted,
                engine_of,
                graph=kind,
                target=target,
                force=force,
                overwrite=overwrite,
                memory_mb=memory_mb,
                progress=progress,
            )
        _tell_cost(path, record)
        told["engine"] = record.model_dump(mode="json") | {"name": record.name}
    if sign is not None:
        _sign(bundle, sign)
    if out is not None:
        people.print(f"next: mapl-edge calibrate {path} --good FOLDER")
    return _print_json(as_json, {"bundle": str(path), "digest": bundle.digest, **told})


@app.command(epilog="Example: mapl-edge calibrate bottle.mapl --good data/bottle/train/good")
def calibrate(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to set the limits of; none with --scores.")] = None,
    good: Annotated[Path | None, typer.Option(help="Good parts; those that training saw are left out.")] = None,
    bad: Annotated[Path | None, typer.Option(help="Defective parts, to tell what the limit misses.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="CSV with scores from elsewhere: one number a line, or columns score and label."),
    ] = None,
    max_false_reject: Annotated[float, typer.Option(help="Share of good parts that may be rejected.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence of that promise, and of all intervals.")] = 0.95,
    review_false_reject: Annotated[
        float | None, typer.Option(help="Share of good parts that may get REVIEW or FAIL; sets the review limit.")
    ] = None,
    f1_max: Annotated[bool, typer.Option("--f1-max", help="Set the limit by F1-max; needs defects.")] = False,
    target_recall: Annotated[
        float | None, typer.Option(help="Set the limit so that this share of defects is found; needs defects.")
    ] = None,
    cost_miss: Annotated[float | None, typer.Option(help="Set the limit by cost: of one missed defect.")] = None,
    cost_false_reject: Annotated[float | None, typer.Option(help="And of one good part rejected.")] = None,
    defect_rate: Annotated[
        float | None, typer.Option(help="Share of defects on the line, for the cost; default: as among these parts.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the trade-off; default with --bad: beside the bundle.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show every version of the limits; change nothing.")] = False,
    rollback: Annotated[int | None, typer.Option(help="Put this version in force again, as a new one.")] = None,
    what_if: Annotated[
        str | None,
        typer.Option(help="Limits to try on the parts of --over, such as fail=2.5,review=2; writes nothing."),
    ] = None,
    over: Annotated[Path | None, typer.Option(help="Folder of pictures, or a file of verdicts that run wrote.")] = None,
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Set the limits from good parts, and from defects if there are any, with a promise."""
    from mapl_edge.calibrate import Wish, calibrate_parts, decide, scores_from_csv
    from mapl_edge.calibrate.plot import check_plot
    from mapl_edge.dataset import BadPictures, bad_samples, check_good_by_name, good_samples
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.inspector import look

    if show or rollback is not None or what_if is not None or over is not None:
        alone = [show, rollback is not None, what_if is not None or over is not None].count(True) == 1
        if bundle is None or not alone or (what_if is None) != (over is None) or good or bad or scores:
            raise typer.BadParameter("give a bundle and either --show, --rollback N, or --what-if LIMITS --over PATH")
        if what_if is not None and over is not None:
            return _what_if(bundle, what_if, over, engine_wanted, threads, skip_bad, as_json)
        return _history(bundle, rollback, as_json)
    rule, costs = _rule(f1_max, target_recall, cost_miss, cost_false_reject, defect_rate)
    wish = Wish(max_false_reject, confidence, review_false_reject, rule, target_recall, costs)
    if plot is not None:
        check_plot(plot)
    if scores is not None:
        if bundle is not None or good is not None or bad is not None:
            raise typer.BadParameter("--scores stands alone: give no bundle, no --good and no --bad with it")
        found = scores_from_csv(scores)
        decision = decide(found.good, found.bad, wish)
        _tell_decision(scores, decision, plot)
        people.print(decision.normal.more)
        return _print_json(as_json, {"scores": str(scores), **decision.as_json(), "n_bad": len(found.bad)})
    if bundle is None or good is None:
        raise typer.BadParameter("give a bundle and --good, a folder of good parts; or --scores, a CSV file")
    opened = _opened(bundle)
    check_good_by_name(good)
    parts = good_samples(good), bad_samples(bad) if bad is not None else []
    unusable = BadPictures(skip_bad)
    engine, proof = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
    with engine, _bars() as progress:
        done = calibrate_parts(
            opened, *parts, partial(look, engine, opened.contract), wish, unusable, progress, proof.engine
        )
    _tell_skipped(unusable.errors)
    if done.n_left_out:
        people.print(f"left out {done.n_left_out} pictures that training saw")
    beside = bundle.resolve().with_suffix(".tradeoff.png") if bad is not None else None
    _tell_decision(bundle, done.decision, plot or beside, required=plot is not None)
    return _print_json(as_json, {"bundle": str(bundle), **done.decision.as_json(), "n_left_out": done.n_left_out})


@app.command(epilog="Example: mapl-edge evaluate bottle.mapl data/bottle --json")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle or model folder.")],
    data: Annotated[Path, typer.Argument(help="Data set with test/good, test/<defect> and ground_truth.")],
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    interference: Annotated[bool, typer.Option("--interference", help="Add noise and contrast changes first.")] = False,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure on labelled parts: AUROC, AP, F1-max, AUPRO, and verdicts where there is a limit."""
    from mapl_edge.calibrate import evaluate as evaluate_model
    from mapl_edge.dataset import BadPictures, labelled_samples
    from mapl_edge.interference import Interference
    from mapl_edge.runtime.inspector import look

    samples = labelled_samples(data)
    bad = BadPictures(skip_bad)
    engine, contract, limits = _engine_of(model, engine_wanted, threads)
    try:
        with _bars() as progress:
            disturb = Interference() if interference else None
            result = evaluate_model(samples, partial(look, engine, contract), contract, limits, bad, progress, disturb)
    finally:
        engine.close()
    _tell_skipped(bad.errors)
    figures = result.as_json()
    under = " under interference" if interference else ""
    title = f"{model} on {data}{under} ({result.n_good} good, {result.n_bad} defective)"
    table = Table("metric", "value (95 % interval)", title=title)
    for name, interval in figures["intervals"].items():
        table.add_row(name, "{:.4f} ({:.3f} - {:.3f})".format(figures[name], *interval) if interval else "-")
    if limits is not None:
        table.add_row("good parts rejected", f"{result.n_false_rejects} of {result.n_good}")
        table.add_row("defects missed", f"{result.n_missed} of {result.n_bad}")
    people.print(table, soft_wrap=False)
    _print_json(as_json, figures)


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

    if camera is not None and source is not None:
        raise typer.BadParameter("give --camera or --source, not both")
    station = _station(config)
    if out is not None and out.exists():  # told before the engine loads
        raise OutputError(f"{out} exists; choose another --out (a station file's `out:` is continued instead)")
    opened = _opened(bundle or station.bundle or _only_bundle_here())
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
    inspector_of = partial(
        Inspector, contract=opened.contract, limits=calibration.limits, policy=policy, normals=calibration.scores
    )
    standby = partial(standby_engines, opened, engine, proof.engine, engine_wanted, threads, **taken)
    with _stop_on_signals() as stop, _inspects(engine, standby, inspector_of, station, budget_ms) as inspector:
        opened_source = source_from_uri(uri, limits=station.camera, tell=partial(people.print, markup=False))
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
        summary = run_loop(opened_source, inspector, [*sinks, SystemdSink()], stop, max_frames)
    counts = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    told = f"{summary.frames} parts: {counts or 'none'}; {summary.drops[Drop.NEWER]} frames dropped for newer ones"
    told += f", {summary.drops[Drop.STOPPED]} at the end" if summary.drops[Drop.STOPPED] else ""
    people.print(told + (f"; {summary.late_results} results came late" if summary.late_results else ""))
    for sink in sinks:
        if isinstance(sink, Store):
            people.print(f"{keep}: {sink.ledger()}; {sink.dropped_pictures} pictures dropped", markup=False)


StoreFolder = Annotated[Path | None, typer.Argument(help="Store folder; default: the one in station.yaml.")]
VerdictOption = Annotated[str | None, typer.Option(help="Only these: pass, review, fail, late, error.")]
SinceOption = Annotated[str | None, typer.Option(help="From then on: 2026-11-22T06:00 (UTC), or 30m, 8h, 7d ago.")]
CameraNameOption = Annotated[str | None, typer.Option(help="Only of the camera of this name.")]
LinesFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]


@app.command(epilog="Example: mapl-edge history store --verdict fail --since 8h")
def history(
    store: StoreFolder = None,
    last: Annotated[
        int | None, typer.Option(help="So many of the newest (default 50; with --export all).", min=1)
    ] = None,
    verdict: VerdictOption = None,
    since: SinceOption = None,
    camera: CameraNameOption = None,
    export: Annotated[Path | None, typer.Option(help="Write them to a new .csv or .parquet file instead.")] = None,
    as_json: LinesFlag = False,
) -> None:
    """Show the verdicts that a store holds, newest last; the station may go on meanwhile."""
    from mapl_edge.runtime.history import open_history, write_table

    folder = _store_folder(store)
    wanted = _wanted(last if last is not None or export is not None else 50, verdict, since, camera)
    with open_history(folder) as opened:
        entries = opened.entries(wanted)
        if export is not None:
            people.print(f"{export}: {write_table(entries, export)} verdicts", markup=False)
        elif as_json:
            for entry in entries:
                _print_json(True, entry.as_json())
        else:
            columns = ("captured at", "camera", "seq", "picture", "verdict", "score", "limit", "ms", "kept", "error")
            table = _verdict_table(folder, columns)
            for entry in entries:
                table.add_row(
                    *(utc_text(entry.captured_at), entry.camera, str(entry.seq), escape(entry.picture)),
                    *(entry.verdict.value, _shown(entry.score, ".6g"), _shown(entry.threshold, ".6g")),
                    *(_shown(entry.latency_ms, ".1f"), "yes" if entry.stored_picture else "-"),
                    escape(entry.error or ""),
                )
            _print_wide(table)
            for account in opened.alarms():
                people.print(f"ALARM, the account does not balance: {account}", markup=False)


@app.command(epilog="Example: mapl-edge replay store --bundle other.mapl")
def replay(
    store: StoreFolder = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle to score the stored pictures with.")] = None,
    last: Annotated[int | None, typer.Option(help="So many of the newest pictures (default: all).", min=1)] = None,
    verdict: VerdictOption = None,
    since: SinceOption = None,
    camera: CameraNameOption = None,
    engine_wanted: EngineOption = "auto",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    as_json: LinesFlag = False,
) -> None:
    """Score the stored pictures with another bundle or calibration, and list the verdicts that flip."""
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.history import open_history
    from mapl_edge.runtime.replay import replay as replay_pictures

    folder = _store_folder(store)
    wanted = replace(_wanted(last, verdict, since, camera), with_picture=True)
    opened = _opened(bundle or _station(None).bundle or _only_bundle_here())
    limits = opened.calibration.limits
    with open_history(folder) as past:
        engine, _ = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
        with engine, _bars() as progress:
            judged = list(replay_pictures(past, wanted, engine, opened.contract, limits, progress))
    flips = [each for each in judged if each.flips]
    columns = ("captured at", "camera", "seq", "picture", "was", "is", "score was", "score is")
    table = _verdict_table(folder, columns)
    for each in flips:
        entry = each.entry
        table.add_row(
            *(utc_text(entry.captured_at), entry.camera, str(entry.seq), escape(entry.picture)),
            *(entry.verdict.value, each.verdict.value, _shown(entry.score, ".6g"), _shown(each.score, ".6g")),
        )
    for each in judged if as_json else []:
        _print_json(True, each.as_json())
    if flips and not as_json:
        _print_wide(table)
    people.print(f"{len(flips)} of {len(judged)} stored pictures get another verdict from {opened.path}", markup=False)


@app.command(epilog="Example: mapl-edge bench bottle.mapl --data data/bottle")
def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle whose engines to measure.")],
    data: Annotated[Path | None, typer.Option(help="Data set with test/ to measure AUROC on.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model folder, to measure torch beside the engines.")] = None,
    threads: Annotated[int, typer.Option(help="Threads for each engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    frames: Annotated[int, typer.Option(help="Frames for each engine, in turns.", min=5)] = 100,
    growth: Annotated[bool, typer.Option(help="Also measure how search grows with the memory.")] = True,
    record: Annotated[bool, typer.Option(help="Note the fastest engine in the bundle, for run --engine auto.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Measure every engine of a bundle on this device, side by side in one run."""
    from mapl_edge.runtime.engine_bench import bench_engines, bench_growth

    opened = _opened(bundle)
    others: list[Engine] = []
    if model is not None:
        with _extra("train"):
            from mapl_edge.model.checkpoint import TorchEngine, checkpoint_from_folder
        others = [TorchEngine(checkpoint_from_folder(model).detector)]
    with _bars() as progress:
        figures = bench_engines(
            opened, threads, frames, others=others, record=record, tell=people.print, progress=progress
        )
        grown = bench_growth(opened, threads, progress) if growth and opened.is_split else []
        names = [row.engine for row in figures]
        accuracy = {} if data is None else _auroc_of_engines(opened, data, names, threads, progress)
    columns = ("engine", "load s", "p50 ms", "p95", "p99", "frames/s", "best", "RSS MB", "MB", "score off", "AUROC")
    table = Table(*columns, title=f"{bundle} on this device, {threads or 'all'} threads")
    table.columns[0].no_wrap = True
    for row in figures:
        table.add_row(
            row.engine + ("" if row.proven else " (NOT PROVEN)"),
            _shown(row.load_s, ".2f"),
            f"{row.p50_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.fps:.1f}",
            f"{row.best_fps:.1f} x{row.best_batch}",
            _shown(row.rss_mb, "d"),
            _shown(row.size_mb, ".1f"),
            f"{row.score_error:.0e}",
            _shown(accuracy.get(row.engine), ".4f"),
        )
    people.print(table, soft_wrap=False, width=None if people.is_terminal else 140)
    if grown:
        search = Table("entries", "index", "ms a frame", "recall@1", "MB", title="search, as the memory grows")
        for entry in grown:
            search.add_row(
                f"{entry.entries}", entry.index, f"{entry.ms:.2f}", f"{entry.recall:.4f}", f"{entry.size_mb:.2f}"
            )
        people.print(search, soft_wrap=False)
    _print_json(
        as_json,
        {
            "bundle": str(bundle),
            "engines": [asdict(row) | {"image_auroc": accuracy.get(row.engine)} for row in figures],
            "search": [asdict(entry) for entry in grown],
        },
    )


@app.command(epilog="Example: mapl-edge inspect bottle.mapl --json")
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle to look into.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what is in a bundle; every file is checked against its digest."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    calibration = _calibration_or_none(opened)
    table = Table("what", "value", title=f"{bundle} {opened.digest[:12]}: all digests right")
    table.add_row("family", manifest.family)
    table.add_row("made", f"{manifest.created_at} by mapl-edge {manifest.tools.get('mapl-edge', '?')}")
    table.add_row(
        "input", f"{manifest.contract.size_hw[0]}x{manifest.contract.size_hw[1]}, roi {manifest.contract.roi_xywh}"
    )
    table.add_row(
        "memory", f"{manifest.memory.samples} {'pictures' if manifest.memory.scope == 'image' else 'patches'}"
    )
    pictures = manifest.training.get("pictures", {})
    table.add_row("good parts", ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in pictures.items()))
    table.add_row("limit", f"{calibration.limits.fail:.6g}" if calibration else "none: run mapl-edge calibrate")
    for name, digest in manifest.files.items():
        if "/" not in name:
            table.add_row(name, f"{(bundle / name).stat().st_size / 1e6:.1f} MB, sha256 {digest[:12]}")
    engines = engine_names(opened)
    table.add_row("engines", ", ".join(engines))
    people.print(table, soft_wrap=False)
    _print_json(
        as_json,
        {
            "path": str(bundle),
            "digest": opened.digest,
            "engines": engines,
            "manifest": manifest.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
        },
    )


@app.command(epilog="Example: mapl-edge line --serve mjpeg --port 8080 --faults drop:0.01,unplug:100-150")
def line(
    serve: Annotated[Literal["mjpeg", "folder"], typer.Option(help="As an HTTP camera, or as pictures in --out.")],
    port: Annotated[int, typer.Option(help="Port of the HTTP camera.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: reachable from other machines.")] = (
        "127.0.0.1"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    faults: Annotated[str, typer.Option(help="What goes wrong, such as drop:0.01,freeze:50-80,slow:0.02.")] = "",
    parts: Annotated[int | None, typer.Option(help="Stop after so many parts (a folder: 200).", min=1)] = None,
    fps: Annotated[float, typer.Option(help="Parts per second.", min=0.01, max=1000)] = 10.0,
    seed: Annotated[int, typer.Option(help="Of parts and faults.", min=0)] = 0,
    defects: Annotated[float, typer.Option(help="Share of defective parts.", min=0, max=1)] = 0.3,
    size: Annotated[int, typer.Option(help="Side of the square picture in pixels.", min=64, max=4096)] = 320,
) -> None:
    """Serve the synthetic line as a camera, with faults, to rehearse with."""
    from mapl_edge.testing.faults import Faults
    from mapl_edge.testing.line import SyntheticLine
    from mapl_edge.testing.line_server import LineServing, MjpegServer, serve_folder

    try:
        injected = Faults.from_text(faults, seed)
    except ValueError as exc:
        raise ConfigError("--faults", [str(exc)]) from exc
    if (serve == "folder") != (out is not None):
        raise typer.BadParameter("--out goes with --serve folder, and --serve folder needs it")
    serving = LineServing(SyntheticLine(seed, defects, (size, size)), injected, fps)
    with _stop_on_signals() as stop, _bars() as progress:
        try:
            if out is not None:
                written = serve_folder(serving, out, parts or 200, stop, progress)
                people.print(f"{out}: {written} pictures")
                return
            with MjpegServer(serving, host, port, parts=parts) as server:
                people.print(f"{server.url}: {fps:g} parts/s, until Ctrl-C")
                while not stop.wait(0.1) and not server.wait(0):
                    pass
        except OSError as exc:
            where = out or f"{host}:{port}"
            raise OutputError(f"{where}: {exc.strerror or exc}; choose another --out, --port or --host") from exc


@app.command(epilog="Example: mapl-edge demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, model, bundle, verdicts and report.")] = Path("demo"),
    parts: Annotated[int, typer.Option(help="Parts to inspect.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the line and of training.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 400,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Train, export, calibrate and run on a synthetic line, and leave a report."""
    with _extra("train"):
        from mapl_edge.demo import demo as run_demo

    with _bars() as progress:
        result = run_demo(out, parts, seed, steps, overwrite, progress)
    people.print(
        f"{result.good_passed:.1%} of {result.n_good} good parts PASS, {result.bad_failed:.1%} of {result.n_bad} "
        f"defective parts FAIL; look at {result.report}"
    )
    _print_json(
        as_json,
        {
            "good_passed": result.good_passed,
            "bad_failed": result.bad_failed,
            "n_good": result.n_good,
            "n_bad": result.n_bad,
            "report": str(result.report),
        },
    )


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's is one line and an exit code (see `mapl_edge.errors`)."""
    try:
        app()
    except MaplEdgeError as exc:
        people.print(f"{type(exc).__name__}: {' '.join(str(exc).split())}", markup=False)
        sys.exit(exc.exit_code)


def _train_config(path: Path | None, *, size: str | None, roi: str | None, **flags: Any) -> TrainConfig:
    """Settings from a YAML file, overruled by flags."""
    base = config_from_yaml(path, TrainConfig).model_dump(mode="json") if path else {}
    base |= {key: str(value) if isinstance(value, Path) else value for key, value in flags.items() if value is not None}
    contract = dict(base.get("contract", {}))
    if size is not None:
        base["fit_aspect"] = False
        contract["size_hw"] = _numbers(size, "x", 2, "--size", "HEIGHTxWIDTH such as 256x256")
    if roi is not None:
        contract["roi_xywh"] = _numbers(roi, ",", 4, "--roi", "LEFT,TOP,WIDTH,HEIGHT such as 0,0,640,480")
    return config_from_dict({**base, "contract": contract}, TrainConfig, where=str(path or "train"))


def _numbers(text: str, separator: str, count: int, flag: str, expected: str) -> list[int]:
    parts = text.split(separator)
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(flag, [f"found {text!r}, expected {expected}"])
    return [int(part) for part in parts]


def _station(path: Path | None) -> StationConfig:
    """The station file, with its paths as seen from the folder it lies in."""
    if path is None and not STATION_FILE.is_file():
        return StationConfig()
    path = path or STATION_FILE
    station = config_from_yaml(path, StationConfig)
    here: dict[str, Any] = {
        key: path.parent / value for key in ("bundle", "out") if (value := getattr(station, key)) is not None
    }
    if (folder := station.store.folder) is not None:
        here["store"] = station.store.model_copy(update={"folder": path.parent / folder})
    return station.model_copy(update=here)


def _store_folder(named: Path | None) -> Path:
    folder = named or _station(None).store.folder
    if folder is None:
        raise DataError("which store? name its folder, or set store: in station.yaml")
    return folder


def _wanted(last: int | None, verdict: str | None, since: str | None, camera: str | None) -> Any:
    """What history and replay look for."""
    from mapl_edge.runtime.history import Wanted, since_from_text

    known = Literal["PASS", "REVIEW", "FAIL", "LATE", "ERROR"]
    outcome = Outcome(_one_of("verdict", verdict.upper(), known)) if verdict else None
    return Wanted(last, outcome, since_from_text(since, SystemClock().utc()) if since else None, camera)


def _only_bundle_here() -> Path:
    found = sorted(path.parent for path in Path().glob(f"*.mapl/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(str, found)) or "none"
    raise BundleError(f"which bundle? found {names} in this folder; name one, or set bundle: in station.yaml")


def _engine_of(model: Path, wanted: str, threads: int) -> tuple[Engine, Any, Any]:
    """Engine, contract and limits (None where there are none) of a bundle or a model folder."""
    if (model / MANIFEST).is_file() or not model.is_dir():
        from mapl_edge.runtime.engine_choice import choose_engine

        bundle = _opened(model)
        calibration = _calibration_or_none(bundle)
        limits = calibration.limits if calibration else None
        return (
            choose_engine(bundle, wanted, threads, precisions=CALIBRATED, tell=people.print)[0],
            bundle.contract,
            limits,
        )
    with _extra("train"):
        from mapl_edge.model.checkpoint import TorchEngine, checkpoint_from_folder
    checkpoint = checkpoint_from_folder(model)
    return TorchEngine(checkpoint.detector), checkpoint.record.config.contract, None


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


def _opened(path: Path) -> Bundle:
    bundle = open_bundle(path)
    for note in bundle.notes:
        people.print(note)
    return bundle


def _history(path: Path, rollback: int | None, as_json: bool) -> None:
    from mapl_edge.calibrate import roll_back

    if rollback is not None:
        now = roll_back(_opened(path), rollback)
        people.print(f"{path}: version {now.version} is in force, limit {now.limits.fail:.6g} ({now.note})")
    history = open_bundle(path).calibration_history
    table = Table("version", "when", "by", "fail", "review", "promise", "from", title=f"{path}: the last is in force")
    for one in history:
        pictures = f"{len(one.pictures)} good, {len(one.defects)} defective"
        table.add_row(
            f"{one.version}",
            one.created_at,
            one.created_by,
            f"{one.limits.fail:.6g}",
            _shown(one.limits.review, ".6g"),
            f"{one.rule}: {one.promise}",
            f"{pictures}{'; ' if one.note else ''}{one.note}",
        )
    people.print(table, soft_wrap=False)
    _print_json(as_json, {"bundle": str(path), "history": [one.model_dump(mode="json") for one in history]})


def _what_if(
    path: Path, text: str, over: Path, engine_wanted: str, threads: int, skip_bad: bool, as_json: bool
) -> None:
    from mapl_edge.calibrate import Judged, limits_from_text, stored_verdicts, what_if

    opened = _opened(path)
    now = opened.calibration.limits
    limits = limits_from_text(text, now)
    if over.is_dir():
        from mapl_edge.dataset import BadPictures, folder_samples
        from mapl_edge.judge import judge
        from mapl_edge.runtime.engine_choice import choose_engine
        from mapl_edge.runtime.inspector import look

        samples, unusable, parts = folder_samples(over), BadPictures(skip_bad), []
        engine, _ = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
        with engine, _bars() as progress:
            for done, (sample, image) in enumerate(unusable.read(samples), start=1):
                reading = look(engine, opened.contract, image)
                parts.append(Judged(sample.name, reading.score, judge(reading, now)))
                progress("scoring parts", done, len(samples))
        _tell_skipped(unusable.errors)
        result = what_if(parts, limits)
    else:
        result = what_if(stored_verdicts(over, opened), limits)
    if result.flips:  # in one go: rich takes longer for ten thousand lines than judging does
        people.out("\n".join(map(str, result.flips)), highlight=False)
    counts = [
        ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(count.items())) or "none"
        for count in (result.before, result.after)
    ]
    people.print(
        f"{len(result.flips)} of {result.before.total()} verdicts would flip: {counts[0]} -> {counts[1]}; "
        f"{result.n_without} parts have none to flip; nothing was written"
    )
    _print_json(as_json, {"bundle": str(path), "over": str(over), **result.as_json()})


def _rule(
    f1_max: bool, recall: float | None, miss: float | None, false_reject: float | None, defect_rate: float | None
) -> tuple[Any, Any]:
    """What sets the fail limit, and the costs."""
    from mapl_edge.calibrate import Costs

    if (miss is None) != (false_reject is None):
        raise typer.BadParameter("--cost-miss and --cost-false-reject belong together")
    if defect_rate is not None and miss is None:
        raise typer.BadParameter("--defect-rate weighs the costs: give --cost-miss and --cost-false-reject too")
    wanted = [rule for rule, on in (("f1", f1_max), ("recall", recall is not None), ("cost", miss is not None)) if on]
    if len(wanted) > 1:
        raise typer.BadParameter("one limit: give --f1-max, --target-recall or the costs")
    costs = Costs(miss, false_reject, defect_rate) if miss is not None and false_reject is not None else None
    return (wanted or ["promise"])[0], costs


def _tell_decision(what: Path, decision: Any, plot: Path | None, *, required: bool = True) -> None:
    first, *more = decision.lines()
    people.print(f"{what}: {first}")
    for line in more:
        people.print(line)
    if decision.points:
        table = Table("limit by", "limit", "good rejected", "defects missed", "F1", "cost", title="with its interval")
        for point in decision.points:
            shares = [
                f"{share.events} of {share.n} ({share.interval[0]:.3f} - {share.interval[1]:.3f})"
                for share in (point.false_rejects, point.misses)
            ]
            pairs = [(point.f1, point.f1_interval), (point.cost, point.cost_interval)]
            others = [
                "-" if value is None else f"{value:.4g} ({low:.3g} - {high:.3g})"
                for value, (low, high) in ((value, interval or (0.0, 0.0)) for value, interval in pairs)
            ]
            table.add_row(point.rule, f"{point.limit:.6g}", *shares, *others)
        people.print(table, soft_wrap=False)
    if plot is None:
        return
    from mapl_edge.calibrate.plot import plot_tradeoff

    try:
        plot_tradeoff(decision, plot)
        people.print(f"trade-off drawn: {plot}")
    except (BackendUnavailable, OutputError) as exc:
        if required:
            raise
        people.print(f"trade-off not drawn: {exc}")


def _verdict_table(folder: Path, columns: tuple[str, ...]) -> Table:
    """Only names and reasons may take several lines."""
    return Table(*(Column(name, no_wrap=name not in ("picture", "error")) for name in columns), title=str(folder))


def _print_wide(table: Table) -> None:
    """A file or pipe has no width of its own."""
    console = people if people.is_terminal else Console(stderr=True, highlight=False, width=WIDE)
    console.print(table, soft_wrap=False)


def _one_of(option: str, value: Any, choices: Any) -> Any:
    known = get_args(choices)
    if value is not None and value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise typer.BadParameter(f"--{option} {value!r}: {hint}")
    return value


def _tell_cost(path: Path, record: Any) -> None:
    cost = record.cost
    parts = [f"score within {cost.score_error:.1e}, map within {cost.map_error:.1e} of the reference"]
    if cost.auroc is not None:
        parts.append(f"image AUROC {cost.auroc:.4f} (fp32: {cost.auroc_fp32:.4f})")
    if cost.ms is not None:
        parts.append(f"{cost.ms:.1f} ms a frame (fp32: {cost.ms_fp32:.1f})")
    people.print(f"{path}: engine {record.name} added, measured with {cost.measured_with}: {', '.join(parts)}")


def _auroc_of_engines(bundle: Bundle, data: Path, names: list[str], threads: int, progress: Any) -> dict[str, float]:
    """Image AUROC on a labelled data set, for each engine that runs here."""
    import numpy as np

    from mapl_edge.dataset import BadPictures, labelled_samples
    from mapl_edge.metrics import auroc
    from mapl_edge.prepare import prepare
    from mapl_edge.runtime.engine_bench import engines_that_run_here

    samples = labelled_samples(data)
    anomalous = np.array([not sample.is_good for sample in samples])
    pictures = [prepare(image, bundle.contract) for _, image in BadPictures().read(samples)]
    found = {}
    for name, engine in engines_that_run_here(bundle, threads).items():
        if name in names:
            scores = []
            with engine:
                for done, picture in enumerate(pictures, start=1):
                    scores.append(engine.infer(picture).score)
                    progress(f"AUROC of {name}", done, len(pictures))
            found[name] = auroc(anomalous, np.array(scores))
    return found


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _sign(bundle: Bundle, key: Path) -> None:
    from mapl_edge.engine_record import engine_files
    from mapl_edge.signature import sign_bundle, sign_engine

    names = engine_names(bundle)
    for name in names:
        sign_engine(engine_files(bundle, name), key)
    sign_bundle(bundle, key)
    people.print(f"{bundle.path}: signed, with its engines {', '.join(names)}")


def _calibration_or_none(bundle: Bundle) -> Any:
    try:
        return bundle.calibration
    except Uncalibrated:
        return None


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra brings a library that is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise BackendUnavailable(f"{exc.name} is not installed; pip install 'mapl-edge[{name}]'") from exc


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second one acts as usual."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bars() -> Iterator[Any]:
    """Progress bars, one per kind of work: progress(what, done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, disable=not people.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress


def _tell_skipped(errors: list[Any]) -> None:
    if errors:
        people.print(f"skipped {len(errors)} bad pictures, first: {errors[0]}", markup=False)


def _print_json(wanted: bool, content: dict[str, Any]) -> None:
    if wanted:
        write_stdout((json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
