"""Commands that measure and look: evaluate, bench, inspect."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mapl_edge.bundle import MANIFEST, Bundle, open_bundle
from mapl_edge.cli.app import CALIBRATED, ConfigOption, EngineOption, JsonFlag, SkipBad, app, people
from mapl_edge.cli.common import (
    area_in_force,
    bars,
    calibration_or_none,
    extra,
    opened_bundle,
    print_json,
    print_wide,
    shown,
    tell_skipped,
)
from mapl_edge.config import MAX_THREADS
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine
from mapl_edge.engine_record import engine_names
from mapl_edge.files import sha256_of


@app.command(epilog="Example: mapl-edge evaluate bottle.mapl data/bottle --json")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle or model folder.")],
    data: Annotated[Path, typer.Argument(help="Data set with test/good, test/<defect> and ground_truth.")],
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    interference: Annotated[bool, typer.Option("--interference", help="Add noise and contrast changes first.")] = False,
    skip_bad: SkipBad = False,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure on labelled parts: AUROC, AP, F1-max, AUPRO, and where there is a limit verdicts and what it promised."""
    from mapl_edge.calibrate import evaluate as evaluate_model
    from mapl_edge.calibrate.labelled import labelled_from_evaluation
    from mapl_edge.calibrate.promises import check_words
    from mapl_edge.dataset import BadPictures, labelled_samples
    from mapl_edge.interference import Interference
    from mapl_edge.runtime.inspector import look

    samples = labelled_samples(data)
    bad = BadPictures(skip_bad)
    bundle = opened_bundle(model) if (model / MANIFEST).is_file() or not model.is_dir() else None
    calibration = calibration_or_none(bundle) if bundle else None
    area = area_in_force(bundle, config) if bundle and calibration else None
    engine, contract = _engine_of(model, bundle, engine_wanted, threads)
    limits = calibration.limits if calibration else None
    try:
        with bars() as progress:
            disturb = Interference() if interference else None
            see = partial(look, engine, contract)
            result = evaluate_model(samples, see, contract, limits, bad, progress, disturb, area)
    finally:
        engine.close()
    tell_skipped(bad.errors)
    figures = result.as_json()
    under = " under interference" if interference else ""
    title = f"{model} on {data}{under} ({result.n_good} good, {result.n_bad} defective)"
    table = Table("metric", "value (95 % interval)", title=title)
    for name, interval in figures["intervals"].items():
        table.add_row(name, "{:.4f} ({:.3f} - {:.3f})".format(figures[name], *interval) if interval else "-")
    if limits is not None:
        table.add_row("good parts that do not PASS", f"{result.n_false_rejects} of {result.n_good}")
        table.add_row("defects that PASS", f"{result.n_missed} of {result.n_bad}")
    print_wide(table)
    if (bound := result.image_auroc_at_least) is not None:
        people.print(
            "every defect scores above every good part, so bootstrap cannot tell what more pictures would show; "
            f"these prove an image_auroc of at least {bound:.3f} (95 % confidence)"
        )
    if bundle and calibration and not interference:  # of which no promise was made
        digests = {sample: sha256_of(sample.path) for sample in samples if sample.path.is_file()}
        known = tuple(calibration.pictures.values())
        labelled = labelled_from_evaluation(result, digests, bundle.manifest.trained_on, known)
        checks = labelled.checks(calibration)
        for check in checks:
            people.print(check_words(check), markup=False)
        figures["promises"] = [asdict(check) for check in checks]
    print_json(as_json, figures)


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

    opened = opened_bundle(bundle)
    others: list[Engine] = []
    if model is not None:
        with extra("train"):
            from mapl_edge.model.checkpoint import TorchEngine, checkpoint_from_folder
        others = [TorchEngine(checkpoint_from_folder(model).detector)]
    with bars() as progress:
        figures = bench_engines(
            opened, threads, frames, others=others, record=record, tell=people.print, progress=progress
        )
        grown = bench_growth(opened, threads, progress) if growth and opened.is_split else []
        names = [row.engine for row in figures]
        accuracy = {} if data is None else _auroc_of_engines(opened, data, names, threads, progress)
    columns = ("engine", "load s", "p50 ms", "p95", "p99", "frames/s", "best", "RSS MB", "MB", "score off", "AUROC")
    table = Table(*columns, title=f"{bundle} on this device, threads: {threads or 'all'}")
    table.columns[0].no_wrap = True
    for row in figures:
        table.add_row(
            row.engine + ("" if row.proven else " (NOT PROVEN)"),
            shown(row.load_s, ".2f"),
            f"{row.p50_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.fps:.1f}",
            f"{row.best_fps:.1f} x{row.best_batch}",
            shown(row.rss_mb, "d"),
            shown(row.size_mb, ".1f"),
            f"{row.score_error:.0e}",
            shown(accuracy.get(row.engine), ".4f"),
        )
    print_wide(table)
    if grown:
        search = Table("entries", "index", "ms a frame", "recall@1", "MB", title="search, as the memory grows")
        for entry in grown:
            search.add_row(
                f"{entry.entries}", entry.index, f"{entry.ms:.2f}", f"{entry.recall:.4f}", f"{entry.size_mb:.2f}"
            )
        print_wide(search)
    print_json(
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
    calibration = calibration_or_none(opened)
    table = Table("what", "value", title=f"{bundle} {opened.digest[:12]}: all digests right")
    table.add_row("family", manifest.family)
    table.add_row("made", f"{manifest.created_at} by mapl-edge {manifest.tools.get('mapl-edge', '?')}")
    (height, width), roi = manifest.contract.size_hw, manifest.contract.roi_xywh
    seen = "whole picture" if roi is None else "roi x {}, y {}, width {}, height {}".format(*roi)
    table.add_row("input", f"{height}x{width}, {seen}")
    table.add_row(
        "memory", f"{manifest.memory.samples} {'pictures' if manifest.memory.scope == 'image' else 'patches'}"
    )
    pictures = manifest.training.get("pictures", {})
    table.add_row("good parts", ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in pictures.items()))
    limit = f"{calibration.limits.fail:.6g}: {calibration.promise}" if calibration else "none: run mapl-edge calibrate"
    table.add_row("limit", limit)
    for name, digest in manifest.files.items():
        if "/" not in name:
            table.add_row(name, f"{(bundle / name).stat().st_size / 1e6:.1f} MB, sha256 {digest[:12]}")
    engines = engine_names(opened)
    table.add_row("engines", ", ".join(engines))
    print_wide(table)
    print_json(
        as_json,
        {
            "path": str(bundle),
            "digest": opened.digest,
            "engines": engines,
            "manifest": manifest.model_dump(mode="json"),
            "calibration": calibration.model_dump(mode="json") if calibration else None,
        },
    )


def _engine_of(model: Path, bundle: Bundle | None, wanted: str, threads: int) -> tuple[Engine, InputContract]:
    """Engine and contract of a bundle or, where there is none, of a model folder."""
    if bundle is not None:
        from mapl_edge.runtime.engine_choice import choose_engine

        engine, _ = choose_engine(bundle, wanted, threads, precisions=CALIBRATED, tell=people.print)
        return engine, bundle.contract
    with extra("train"):
        from mapl_edge.model.checkpoint import TorchEngine, checkpoint_from_folder
    checkpoint = checkpoint_from_folder(model)
    return TorchEngine(checkpoint.detector), checkpoint.record.config.contract


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
