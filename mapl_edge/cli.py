"""The command line. A command opens, calls one function, prints. Text for people goes to stderr, `--json` to stdout."""

from __future__ import annotations

import difflib
import json
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mapl_edge import __version__
from mapl_edge.bundle import MANIFEST, MODEL_JSON, Bundle, open_bundle
from mapl_edge.config import MAX_THREADS, STATION_FILE, StationConfig, TrainConfig, config_from_dict, config_from_yaml
from mapl_edge.engine import Engine
from mapl_edge.engine_record import Backend, Graph, Precision, engine_names
from mapl_edge.errors import (
    BackendUnavailable,
    BundleError,
    ConfigError,
    MaplEdgeError,
    OutputError,
    TrainingError,
    Uncalibrated,
)
from mapl_edge.files import check_absent, new_folder, write_stdout

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From pictures of good parts to PASS/FAIL on a factory camera.",
    epilog="Example: mapl-edge demo --out demo",
)
CALIBRATED = ("fp32", "fp16")  # limits are set with fp32, whose scores fp16 gives too; int8 is asked for by name
people = Console(stderr=True, highlight=False, soft_wrap=True)

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
    bundle: Annotated[Path, typer.Argument(help="Bundle to set the limit of.")],
    good: Annotated[Path, typer.Option(help="Good parts; those that training saw are left out.")],
    max_false_reject: Annotated[float, typer.Option(help="Share of good parts that may be rejected.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence of that promise.")] = 0.95,
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Set the limit from good parts, with a promise."""
    from mapl_edge.calibrate import calibrate_bundle
    from mapl_edge.dataset import BadPictures, good_samples
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.inspector import look

    opened = _opened(bundle)
    bad = BadPictures(skip_bad)
    engine, _ = choose_engine(opened, engine_wanted, threads, tell=people.print)
    with engine, _bars() as progress:
        limit, seen = calibrate_bundle(
            opened,
            good_samples(good),
            partial(look, engine, opened.contract),
            max_false_reject,
            confidence,
            bad,
            progress,
        )
    _tell_skipped(bad.errors)
    if seen:
        people.print(f"left out {seen} pictures that training saw")
    people.print(f"{bundle}: limit {limit.limit:.6g}: {limit}")
    _print_json(
        as_json,
        {
            "bundle": str(bundle),
            "limit": limit.limit,
            "achieved": limit.achieved,
            "max_false_reject": max_false_reject,
            "confidence": confidence,
            "n_good": limit.n_good,
            "n_above": limit.n_above,
            "n_needed": limit.n_needed,
            "n_left_out": seen,
        },
    )


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


@app.command(epilog="Example: mapl-edge run bottle.mapl --source data/bottle/test --out verdicts.jsonl")
def run(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle; default: the one in station.yaml, or the only *.mapl here.")
    ] = None,
    camera: Annotated[int | None, typer.Option(help="USB camera by index.", min=0)] = None,
    source: Annotated[str | None, typer.Option(help="A folder, a video, or line: for the synthetic line.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the verdicts, one JSON object a line; default: stdout.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many verdicts.", min=1)] = None,
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
    from mapl_edge.runtime import Inspector, JsonLines, StdoutLines, choose_engine, source_from_uri
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
    engine, proof = choose_engine(
        opened, engine_wanted, threads, precisions=CALIBRATED, signed_by=require_signature, tell=people.print
    )
    with _stop_on_signals() as stop, engine:
        opened_source = source_from_uri(uri)
        digests = {"bundle": opened.digest, "calibration": opened.calibration_digest}
        shared = {"run": uuid.uuid4().hex[:12], "camera": station.camera.name, **digests}
        target = out or station.out
        sink = StdoutLines(shared) if target is None else JsonLines(target, shared, append=out is None)
        people.print(f"{engine.name}, {proof.ms:.1f} ms a frame")
        people.print(f"limit {calibration.limits.fail:.6g}: {calibration.promise}")
        inspector = Inspector(engine, opened.contract, calibration.limits)
        summary = run_loop(opened_source, inspector, [sink], stop, max_frames)
    counts = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    people.print(f"{summary.frames} parts: {counts or 'none'}; {summary.dropped} frames dropped for newer ones")


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
    here = {key: path.parent / value for key in ("bundle", "out") if (value := getattr(station, key)) is not None}
    return station.model_copy(update=here)


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
        return choose_engine(bundle, wanted, threads, tell=people.print)[0], bundle.contract, limits
    with _extra("train"):
        from mapl_edge.model.checkpoint import TorchEngine, checkpoint_from_folder
    checkpoint = checkpoint_from_folder(model)
    return TorchEngine(checkpoint.detector), checkpoint.record.config.contract, None


def _opened(path: Path) -> Bundle:
    bundle = open_bundle(path)
    for note in bundle.notes:
        people.print(note)
    return bundle


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
