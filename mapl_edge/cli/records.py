"""Commands about what a station kept: history, replay, drift."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from mapl_edge.bundle import CALIBRATION
from mapl_edge.cli.app import CALIBRATED, ConfigOption, EngineOption, app, people
from mapl_edge.cli.common import (
    area_in_force,
    bars,
    bundles_here,
    one_of,
    only_bundle_here,
    opened_bundle,
    print_json,
    print_wide,
    shown,
    station_from_yaml,
    verdict_table,
)
from mapl_edge.clock import SystemClock
from mapl_edge.config import MAX_THREADS
from mapl_edge.errors import OptionError
from mapl_edge.verdict import Outcome, utc_text

LAST = 50  # verdicts that history shows where nobody says how many
StoreFolder = Annotated[Path | None, typer.Argument(help="Store folder; default: the one in station.yaml.")]
VerdictOption = Annotated[str | None, typer.Option(help="Only these: pass, review, fail, late, error.")]
SinceOption = Annotated[str | None, typer.Option(help="From then on: 2026-11-22T06:00 (UTC), or 30m, 8h, 7d ago.")]
CameraNameOption = Annotated[str | None, typer.Option(help="Only of the camera of this name.")]
RunNameOption = Annotated[str | None, typer.Option(help="Only of the run of this name.")]
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
    run: RunNameOption = None,
    export: Annotated[Path | None, typer.Option(help="Write them to a new .csv or .parquet file instead.")] = None,
    as_json: LinesFlag = False,
) -> None:
    """Show the verdicts that a store holds, newest last; the station may go on meanwhile."""
    from mapl_edge.runtime.history import open_history, write_table

    folder = _store_folder(store)
    wanted = _wanted(last if last is not None or export is not None else LAST, verdict, since, camera, run)
    with open_history(folder) as opened:
        opened.require(wanted)
        if export is None and last is None and (n := opened.count(wanted)) > LAST:
            people.print(f"{LAST} of {n} shown, the newest; --last {n} for all of them")
        entries = opened.entries(wanted)
        if export is not None:
            people.print(f"{export}: {write_table(entries, export)} verdicts", markup=False)
        elif as_json:
            for entry in entries:
                print_json(True, entry.as_json())
        else:
            where = "captured at", "run", "camera", "seq", "picture"
            table = verdict_table(folder, (*where, "verdict", "score", "limit", "ms", "kept", "error"))
            for entry in entries:
                table.add_row(
                    *(utc_text(entry.captured_at), entry.run, entry.camera, str(entry.seq), escape(entry.picture)),
                    *(entry.verdict.value, shown(entry.score, ".6g"), shown(entry.threshold, ".6g")),
                    *(shown(entry.latency_ms, ".1f"), "yes" if entry.stored_picture else "-"),
                    escape(entry.error or ""),
                )
            print_wide(table)
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
    run: RunNameOption = None,
    engine_wanted: EngineOption = "auto",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    config: ConfigOption = None,
    as_json: LinesFlag = False,
) -> None:
    """Score the stored pictures with another bundle or calibration, and list the verdicts that flip."""
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.history import open_history
    from mapl_edge.runtime.replay import replay as replay_pictures

    folder = _store_folder(store)
    wanted = replace(_wanted(last, verdict, since, camera, run), with_picture=True)
    opened = opened_bundle(bundle or station_from_yaml(None).bundle or only_bundle_here())
    limits, area = opened.calibration.limits, area_in_force(opened, config)
    with open_history(folder) as past:
        past.require(wanted)
        engine, _ = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
        with engine, bars() as progress:
            judged = list(replay_pictures(past, wanted, engine, opened.contract, limits, progress, area))
    flips = [each for each in judged if each.flips]
    columns = ("captured at", "run", "camera", "seq", "picture", "was", "is", "score was", "score is")
    table = verdict_table(folder, columns)
    for each in flips:
        entry = each.entry
        table.add_row(
            *(utc_text(entry.captured_at), entry.run, entry.camera, str(entry.seq), escape(entry.picture)),
            *(entry.verdict.value, each.verdict.value, shown(entry.score, ".6g"), shown(each.score, ".6g")),
        )
    for each in judged if as_json else []:
        print_json(True, each.as_json())
    if flips and not as_json:
        print_wide(table)
    unjudged = sum(each.entry.score is None for each in flips)
    people.print(
        f"{len(flips)} of {len(judged)} stored pictures get another verdict from {opened.path}"
        + (f"; {unjudged} of them were not judged then (LATE or ERROR)" if unjudged else ""),
        markup=False,
    )


@app.command(epilog="Example: mapl-edge drift store --bundle bottle.mapl --csv drift.csv --plot drift.png")
def drift(
    past: Annotated[
        Path | None, typer.Argument(help="Store folder, or a file of verdicts; default: the store in station.yaml.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle whose calibration is the baseline; default: the one here that judged the parts."),
    ] = None,
    camera: CameraNameOption = None,
    csv: Annotated[Path | None, typer.Option(help="Write every chart, part by part, to a new .csv file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the charts in a .png file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Follow the parts that passed: have score, light, sharpness or place drifted since calibration?"""
    from mapl_edge.drift import Drift
    from mapl_edge.drift_history import follow, write_drift
    from mapl_edge.runtime.history import Wanted, open_history
    from mapl_edge.runtime.passed import passed_parts

    if plot is not None:
        from mapl_edge.calibrate.plot import check_plot

        check_plot(plot)
    settings = station_from_yaml(None).drift
    rates = settings.parts_per_false_alarm, settings.quiet_parts
    opened = cache(opened_bundle)
    if bundle is not None:
        _ = opened(bundle).calibration  # says it where there is none
    here = bundles_here() if bundle is None else {opened(bundle).calibration_digest: bundle}
    baselines: list[dict[str, Any]] = []

    def drift_of(digest: str) -> Drift:
        there = here.get(digest)
        calibration = None if there is None else opened(there).calibration
        charts = Drift(calibration, *rates)
        baselines.append({"calibration": digest or None, "file": None, "version": None, "created_at": None, "parts": 0})
        if calibration is not None and there is not None:
            of_file = {"file": str(there / CALIBRATION), "parts": charts.n_baseline}
            baselines[-1] |= of_file | {name: getattr(calibration, name) for name in ("version", "created_at")}
        return charts

    folder = _store_folder(past)
    if folder.is_dir():
        with open_history(folder) as opened_past:
            opened_past.require(Wanted(camera=camera))
    followed = follow(passed_parts(folder, camera), drift_of)
    for baseline in baselines:
        people.print(_baseline_told(baseline, bundle), markup=False)
    if csv is not None:
        people.print(f"{csv}: {write_drift(followed, csv)} parts", markup=False)
    if plot is not None:
        from mapl_edge.calibrate.drift_plot import plot_drift

        plot_drift(followed, plot)
        people.print(f"{plot}: charts of {len(followed.steps)} parts", markup=False)
    alarms = followed.alarms
    for part, alarm in alarms:
        people.print(f"{part.captured_at} seq {part.seq}: {alarm}", markup=False)
    people.print(
        f"{len(alarms)} alarms in {len(followed.steps)} passed parts, {followed.n_baseline} parts at calibration; "
        f"without drift there is at most one in {rates[0]:g} parts on average"
    )
    told = [{**alarm.as_json(), "seq": part.seq, "captured_at": part.captured_at} for part, alarm in alarms]
    counts = {"passed_parts": len(followed.steps), "baseline_parts": followed.n_baseline}
    print_json(as_json, {**counts, "parts_per_false_alarm": rates[0], "baselines": baselines, "alarms": told})


def _baseline_told(baseline: dict[str, Any], named: Path | None) -> str:
    """What the charts started from."""
    digest = (baseline["calibration"] or "(none named)")[:12]
    from_first = "charts start from the first parts"
    if baseline["file"] is None:
        where = "no bundle here has it" if named is None else f"{named} has another"
        return (
            f"no baseline: the parts were judged by calibration {digest}, {where}; {from_first}, name the bundle "
            "with --bundle"
        )
    found = (
        f"baseline: the calibration of {Path(baseline['file']).parent}, version {baseline['version']} of "
        f"{baseline['created_at']}, digest {digest}, {baseline['parts']} parts"
    )
    return found if baseline["parts"] else f"{found}: it holds no statistics of them, {from_first}; calibrate again"


def _store_folder(named: Path | None) -> Path:
    folder = named or station_from_yaml(None).store.folder
    if folder is None:
        raise OptionError("which store? name its folder, or set store: in station.yaml")
    return folder


def _wanted(last: int | None, verdict: str | None, since: str | None, camera: str | None, run: str | None) -> Any:
    """What history and replay look for."""
    from mapl_edge.runtime.history import Wanted, since_from_text

    known = Literal["PASS", "REVIEW", "FAIL", "LATE", "ERROR"]
    outcome = Outcome(one_of("verdict", verdict.upper(), known)) if verdict else None
    moment = since_from_text(since, SystemClock().utc()) if since else None
    return Wanted(last, outcome, moment, camera, run=run)
