"""Commands about limits: calibrate."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mapl_edge.bundle import DEFECTS, Bundle, open_bundle
from mapl_edge.calibration import Calibration, RegionFilter, documents_of
from mapl_edge.cli.app import CALIBRATED, ConfigOption, EngineOption, JsonFlag, SkipBad, app, people
from mapl_edge.cli.common import (
    area_in_force,
    bars,
    calibration_or_none,
    opened_bundle,
    print_json,
    print_wide,
    shown,
    station_from_yaml,
    tell_skipped,
)
from mapl_edge.config import MAX_THREADS
from mapl_edge.errors import BackendUnavailable, BundleError, ContractMismatch, DataError, OptionError, OutputError
from mapl_edge.masks import masks_from_camera

if TYPE_CHECKING:
    from mapl_edge.calibrate import Judged


@app.command(epilog="Example: mapl-edge calibrate bottle.mapl --good data/bottle/train/good")
def calibrate(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to set the limits of; none with --scores.")] = None,
    good: Annotated[
        list[Path] | None, typer.Option(help="Good parts; those that training saw are left out; again for more.")
    ] = None,
    bad: Annotated[
        list[Path] | None, typer.Option(help="Defective parts, to tell what the limit misses; again for more.")
    ] = None,
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
    regions: Annotated[
        bool, typer.Option("--regions", help="Set a pixel limit too: a region of the map above it fails the part.")
    ] = False,
    min_area_px: Annotated[
        float, typer.Option(help="Smallest region that counts, in pixels of the camera picture.", min=0)
    ] = 0.0,
    min_length_px: Annotated[float, typer.Option(help="Shortest region that counts.", min=0)] = 0.0,
    min_width_px: Annotated[float, typer.Option(help="Thinnest region that counts.", min=0)] = 0.0,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the trade-off; default with --bad: beside the bundle.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show every version of the limits; change nothing.")] = False,
    rollback: Annotated[int | None, typer.Option(help="Put this version in force again, as a new one.")] = None,
    what_if: Annotated[
        str | None,
        typer.Option(help="Limits to try on the parts of --over, such as fail=2.5,review=2; writes nothing."),
    ] = None,
    set_to: Annotated[
        str | None,
        typer.Option("--set", help="Put limits of your own in force, such as fail=2.5,review=2; try --what-if first."),
    ] = None,
    over: Annotated[
        Path | None, typer.Option(help="A store or a file of verdicts that run wrote, or a folder of pictures.")
    ] = None,
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    skip_bad: SkipBad = False,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the limits from good parts, and from defects if there are any, with a promise."""
    from mapl_edge.calibrate import Wish, apart, calibrate_parts, decide, scores_from_csv
    from mapl_edge.calibrate.plot import check_plot
    from mapl_edge.dataset import BadPictures, bad_samples, check_good_by_name, good_samples, samples_of
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.inspector import look

    if show or any(given is not None for given in (rollback, set_to, what_if, over)):
        alone = [show, rollback is not None, set_to is not None, what_if is not None or over is not None]
        if bundle is None or alone.count(True) != 1 or (what_if is None) != (over is None) or good or bad or scores:
            raise typer.BadParameter(
                "give a bundle and either --show, --rollback N, --set LIMITS, or --what-if LIMITS --over PATH"
            )
        _refuse_others(context)
        if what_if is not None and over is not None:
            return _what_if(bundle, what_if, over, engine_wanted, threads, skip_bad, config, as_json)
        if set_to is not None:
            return _set(bundle, set_to, as_json)
        return _history(bundle, rollback, as_json)
    if not all(map(math.isfinite, (min_area_px, min_length_px, min_width_px))):
        raise OptionError("--min-area-px, --min-length-px and --min-width-px take numbers of pixels")
    shape = RegionFilter(min_area_px=min_area_px, min_length_px=min_length_px, min_width_px=min_width_px)
    if not regions and shape != RegionFilter():
        raise typer.BadParameter("--min-area-px, --min-length-px and --min-width-px shape --regions: give it too")
    rule, costs = _rule(f1_max, target_recall, cost_miss, cost_false_reject, defect_rate)
    wish = Wish(
        max_false_reject, confidence, review_false_reject, rule, target_recall, costs, shape if regions else None
    )
    if plot is not None:
        check_plot(plot)
    if scores is not None:
        if bundle is not None or good or bad or regions:
            raise typer.BadParameter("--scores stands alone: give no bundle, no --good, --bad or --regions with it")
        found = scores_from_csv(scores)
        decision = decide(found.good, found.bad, wish)
        _tell_decision(scores, decision, plot)
        people.print(decision.normal.more)
        return print_json(as_json, {"scores": str(scores), **decision.as_json(), "n_bad": len(found.bad)})
    if plot is not None and not bad:
        raise typer.BadParameter("--plot draws what limits do to defects too: give --bad FOLDER with it")
    if bundle is None or not good:
        raise typer.BadParameter("give a bundle and --good, a folder of good parts; or --scores, a CSV file")
    opened, tell = opened_bundle(bundle), partial(people.print, markup=False)
    for folder in good:
        check_good_by_name(folder)
    parts = samples_of(good, good_samples), samples_of(bad or [], partial(bad_samples, tell=tell))
    unusable = BadPictures(skip_bad)
    before = _replaced(opened)
    masks = masks_from_camera(station_from_yaml(config).camera)
    engine, proof = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
    with engine, bars() as progress:
        done = calibrate_parts(
            opened, *parts, partial(look, engine, opened.contract), wish, unusable, progress, proof.engine, masks
        )
    tell_skipped(unusable.errors)
    if masks is not None:
        people.print("with the masks of the station file: the score is the masked map's")
    if done.n_left_out:
        people.print(f"left out {done.n_left_out} pictures that training saw")
    if done.n_taught:
        people.print(
            f"WARNING: {done.n_taught} of them were taught, as parts of high scores are; without them the limit is too "
            "low for its promise: add parts that nobody chose, or go back to the limits of teach, which count them"
        )
    if done.n_copies:
        people.print(f"left out {done.n_copies} copies: a picture counts once, under whatever names it lies there")
    kept = {path.stem for path in (bundle / DEFECTS).glob("*")}
    lost = set(before.defects.values()) - kept if before is not None and not parts[1] else set()
    if before is not None and lost:
        people.print(f"{len(lost)} defects of version {before.version} are no longer known")
    beside = bundle.resolve().with_suffix(".tradeoff.png") if bad else None
    _tell_decision(bundle, done.decision, plot or beside, required=False)  # the limits are in force by now
    strange = apart(open_bundle(bundle).calibration)
    if strange is not None:
        people.print(f"WARNING: {strange}", markup=False)
    if before is not None:
        people.print(
            f"before: version {before.version}, limit {before.limits.fail:.6g}, {before.rule}: {before.promise}; "
            f"to go back: mapl-edge calibrate {bundle} --rollback {before.version}",
            markup=False,
        )
    left_out = {"n_left_out": done.n_left_out, "n_copies": done.n_copies, "n_taught": done.n_taught}
    told = {**left_out, "apart": strange and asdict(strange)}
    return print_json(as_json, {"bundle": str(bundle), **done.decision.as_json(), **told})


def _refuse_others(context: typer.Context) -> None:
    """Options of calibrating say nothing beside --show, --rollback, --set or --what-if."""
    alone = {"bundle", "show", "rollback", "what_if", "set_to", "over"}
    known = alone | {"engine_wanted", "threads", "skip_bad", "config", "as_json"}  # how, not what
    given = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    others = [
        option
        for name, option in given.items()
        if name not in known and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if others:
        raise typer.BadParameter(f"{', '.join(others)} would do nothing here; leave it out")


def _replaced(bundle: Bundle) -> Calibration | None:
    """What is in force now; None where nothing is, or nothing that can be used: new limits are the way out."""
    try:
        found: Calibration | None = calibration_or_none(bundle)
    except (BundleError, ContractMismatch) as exc:
        people.print(f"the limits that were there are replaced: {exc}", markup=False)
        return None
    return found


def _history(path: Path, rollback: int | None, as_json: bool) -> None:
    from mapl_edge.calibrate import roll_back

    if rollback is not None:
        now = roll_back(opened_bundle(path), rollback)
        people.print(f"{path}: version {now.version} is in force, limit {now.limits.fail:.6g} ({now.note})")
    history = _readable(open_bundle(path))
    table = Table(
        "version", "when", "by", "fail", "review", "pixel", "promise", "from", title=f"{path}: the last is in force"
    )
    for one in history:
        pictures = f"{len(one.pictures)} good, {len(one.defects)} defective"
        table.add_row(
            f"{one.version}",
            one.created_at,
            one.created_by,
            f"{one.limits.fail:.6g}",
            shown(one.limits.review, ".6g"),
            shown(one.limits.pixel.limit if one.limits.pixel else None, ".6g"),
            f"{one.rule}: {one.promise}",
            f"{pictures}{', masked' if one.masks else ''}{'; ' if one.note else ''}{one.note}",
        )
    print_wide(table)
    print_json(as_json, {"bundle": str(path), "history": [one.model_dump(mode="json") for one in history]})


def _readable(bundle: Bundle) -> list[Calibration]:
    """Every version, oldest first, down to one that nobody can read; at least the one in force."""
    found: list[Calibration] = []
    newest = bundle.calibration  # which is of this bundle, or refused
    try:
        for one in documents_of(bundle.calibration_path):
            found.append(one)
    except BundleError as exc:
        people.print(f"older versions: {exc}", markup=False)
    return found[::-1] or [newest]


def _set(path: Path, text: str, as_json: bool) -> None:
    from mapl_edge.calibrate import known_verdicts, limits_from_text, set_limits, warning_of, way_back

    opened = opened_bundle(path)
    before = opened.calibration
    now = set_limits(opened, limits_from_text(text, before.limits, "--set"))
    if now.version == before.version:
        people.print(f"{path}: these limits are in force already: nothing changes, version {now.version} stays")
    else:
        people.print(f"{path}: version {now.version} is in force, by {now.created_by}; {now.note}")
    people.print(f"limit {now.limits.fail:.6g}: {now.promise}")
    people.print(known_verdicts(now))
    warning = warning_of(now)
    if warning is not None:
        version = way_back(now, opened.calibration_history)
        back = f"--rollback {version}" if version is not None else "--good FOLDER_OF_GOOD_PARTS (no version is better)"
        people.print(f"WARNING: {warning}; if that was not meant: mapl-edge calibrate {path} {back}", markup=False)
    print_json(as_json, {"bundle": str(path), **now.model_dump(mode="json"), "warning": warning})


def _what_if(
    path: Path,
    text: str,
    over: Path,
    engine_wanted: str,
    threads: int,
    skip_bad: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    from mapl_edge.calibrate import Judged, limits_from_text, stored_verdicts, what_if
    from mapl_edge.runtime.store_database import DATABASE

    opened = opened_bundle(path)
    now = opened.calibration.limits
    limits = limits_from_text(text, now)
    if (over / DATABASE).is_file():
        result = what_if(_of_the_store(over, opened), limits)
    elif over.is_dir():
        from mapl_edge.dataset import BadPictures, folder_samples
        from mapl_edge.judge import Judge
        from mapl_edge.runtime.engine_choice import choose_engine
        from mapl_edge.runtime.inspector import look

        judge = Judge(now, opened.contract, area_in_force(opened, config))
        samples, unusable, parts = folder_samples(over), BadPictures(skip_bad), []
        engine, _ = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
        with engine, bars() as progress:
            for done, (sample, image) in enumerate(unusable.read(samples), start=1):
                judged = judge(look(engine, opened.contract, image), image.shape[:2])
                parts.append(Judged(sample.name, judged.score, judged.outcome, bool(judged.regions)))
                progress("scoring parts", done, len(samples))
        tell_skipped(unusable.errors)
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
    print_json(as_json, {"bundle": str(path), "over": str(over), **result.as_json()})


def _of_the_store(folder: Path, opened: Bundle) -> list[Judged]:
    """The store's verdicts of this bundle; scores of two models cannot be compared."""
    from mapl_edge.calibrate import Judged
    from mapl_edge.runtime.history import Wanted, open_history

    with open_history(folder) as history:
        found = list(history.entries(Wanted()))
    ours = [
        Judged(entry.picture or f"{entry.camera} {entry.seq}", entry.score, entry.verdict, bool(entry.regions))
        for entry in found
        if entry.bundle == opened.digest
    ]
    if not ours:
        raise DataError(
            f"{folder}: has no verdict of bundle {opened.digest[:12]}, found {len(found)} of others; "
            "name the bundle that gave them"
        )
    if len(ours) < len(found):
        people.print(f"{len(found) - len(ours)} verdicts of other bundles are left out", markup=False)
    return ours


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
                f"{share.events} of {share.n} ({share.interval[0]:.3f} to {share.interval[1]:.3f})"
                for share in (point.false_rejects, point.misses)
            ]
            pairs = [(point.f1, point.f1_interval), (point.cost, point.cost_interval)]
            others = [
                "-" if value is None else f"{value:.4g} ({low:.3g} to {high:.3g})"
                for value, (low, high) in ((value, interval or (0.0, 0.0)) for value, interval in pairs)
            ]
            table.add_row(point.rule, f"{point.limit:.6g}", *shares, *others)
        print_wide(table)
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
