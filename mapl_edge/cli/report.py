"""Commands for auditors: report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapl_edge.bundle import Bundle
from mapl_edge.calibration import Calibration
from mapl_edge.cli.app import CALIBRATED, ConfigOption, EngineOption, JsonFlag, Overwrite, SkipBad, app, people
from mapl_edge.cli.common import area_in_force, bars, calibration_or_none, opened_bundle, print_json, tell_skipped
from mapl_edge.config import MAX_THREADS
from mapl_edge.dataset import Sample, bad_samples, check_good_by_name, good_samples, labelled_samples
from mapl_edge.engine import Engine
from mapl_edge.errors import ContractMismatch, DataError, PictureError
from mapl_edge.files import check_absent, new_file, sha256_of
from mapl_edge.judge import Judge
from mapl_edge.masks import InspectedArea
from mapl_edge.p_value import PValues
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.verdict import Outcome, utc_text

if TYPE_CHECKING:
    from mapl_edge.calibrate.shown_part import ShownPart
    from mapl_edge.calibrate.station_record import Station
    from mapl_edge.runtime.history import Entry, History

MOST_SHOWN = 100


@app.command(epilog="Example: mapl-edge report bottle.mapl --data data/bottle --out report.html")
def report(
    bundle: Annotated[Path, typer.Argument(help="Bundle to report on.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    data: Annotated[Path | None, typer.Option(help="Data set with test/good, test/<defect> and ground_truth.")] = None,
    good: Annotated[Path | None, typer.Option(help="Good parts, instead of --data; goes with --bad.")] = None,
    bad: Annotated[Path | None, typer.Option(help="Defective parts, instead of --data; goes with --good.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store folder of a station: its last rejects, its accounts.")
    ] = None,
    worst: Annotated[int, typer.Option(help="Parts to show of each sort.", min=0, max=MOST_SHOWN)] = 12,
    require_signature: Annotated[
        Path | None, typer.Option(help="Public key whose owner must have signed the bundle.")
    ] = None,
    engine_wanted: EngineOption = "onnxruntime-fp32-fused",
    threads: Annotated[int, typer.Option(help="Threads for the engine; 0: all cores.", min=0, max=MAX_THREADS)] = 0,
    skip_bad: SkipBad = False,
    config: ConfigOption = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML file for auditors: promises, scores, the worst parts, where everything comes from."""
    from mapl_edge.calibrate import evaluate as evaluate_model
    from mapl_edge.calibrate.audit import audit
    from mapl_edge.calibrate.labelled import labelled_from_evaluation
    from mapl_edge.calibrate.report import Report
    from mapl_edge.dataset import BadPictures
    from mapl_edge.runtime.engine_choice import choose_engine
    from mapl_edge.runtime.inspector import look

    check_absent(out, overwrite=overwrite)
    if (good is None) != (bad is None) or (data is not None and good is not None):
        raise typer.BadParameter("give either --data DATA_SET, or --good FOLDER and --bad FOLDER, or neither")
    opened = opened_bundle(bundle)
    samples = _samples(data, good, bad)
    calibration: Calibration | None = calibration_or_none(opened)
    area = area_in_force(opened, config) if calibration and (samples or store) else None
    told = audit(opened, shlex.join(["mapl-edge", *sys.argv[1:]]), key=require_signature)
    engine, proof = choose_engine(opened, engine_wanted, threads, precisions=CALIBRATED, tell=people.print)
    with engine, bars() as progress:
        told = replace(told, engine=proof.engine, proof=asdict(proof))
        looks = _Looks(opened, engine, calibration, area)
        labelled = None
        shown: dict[str, Any] = {}
        if samples:
            digests = {sample: sha256_of(sample.path) for sample in samples if sample.path.is_file()}
            _check_labels(samples, digests)
            unusable = BadPictures(skip_bad)
            see, limits = partial(look, engine, opened.contract), calibration.limits if calibration else None
            done = evaluate_model(samples, see, opened.contract, limits, unusable, progress, area=area)
            tell_skipped(unusable.errors)
            known = tuple(calibration.pictures.values()) if calibration else ()
            labelled = labelled_from_evaluation(done, digests, opened.manifest.trained_on, known)
            by_name = {(sample.label, sample.name): sample for sample in samples}
            for name, some in (
                ("worst_false_rejects", labelled.false_rejects),
                ("worst_misses", labelled.misses),
                ("strongest_finds", labelled.found),
            ):
                shown[name] = tuple(looks.at_sample(by_name[p.label, p.name], p.sha256) for p in some[:worst])
        station = None if store is None else _station(store, looks, worst)
    made = Report(
        f"Report on {bundle.name or bundle}",
        told,
        calibration,
        opened.calibration_history if calibration else (),
        labelled,
        str(data) if data else f"{good} and {bad}",
        station=station,
        **shown,
    )
    content = made.html().encode("utf-8", "backslashreplace")
    with new_file(out, overwrite=overwrite) as work:
        work.write_bytes(content)
    if calibration is None:
        people.print(f"{bundle}: no thresholds yet, so the report has no promise and no verdict", markup=False)
    people.print(f"{out}: {len(content) / 1e6:.2g} MB", markup=False)
    print_json(as_json, {"report": str(out), **made.as_json()})


class _Looks:
    """Looks at parts again to show where they are wrong and which good part is nearest."""

    def __init__(
        self, bundle: Bundle, engine: Engine, calibration: Calibration | None, area: InspectedArea | None
    ) -> None:
        self.bundle, self._engine = bundle, engine
        self._judge = None if calibration is None else Judge(calibration.limits, bundle.contract, area)
        self._p_value = PValues(() if calibration is None else calibration.scores)

    def at_sample(self, sample: Sample, sha256: str) -> ShownPart:
        """A labelled part."""
        from mapl_edge.calibrate.shown_part import ShownPart, pictures_of

        image = picture_from_file(sample.path)
        reading = self._engine.infer(prepare(image, self.bundle.contract))
        judged = self._judge(reading, image.shape[:2]) if self._judge else None
        score = judged.score if judged else reading.score
        return ShownPart(
            name=sample.name,
            label=sample.label,
            verdict=judged.outcome.value if judged else "",
            score=score,
            p_value=self._p_value(score),
            sha256=sha256,
            nearest=reading.nearest,
            regions=tuple(region.as_json() for region in judged.regions) if judged else (),
            pictures=pictures_of(image, reading, judged, self.bundle),
        )

    def at_entry(self, entry: Entry) -> ShownPart | None:
        """A part of a store, with the verdict that it got there; None where retention has just deleted its picture."""
        from mapl_edge.calibrate.shown_part import ShownPart, pictures_of, resized

        assert entry.stored_picture is not None
        try:
            image, sha256 = picture_from_file(entry.stored_picture), sha256_of(entry.stored_picture)
            stored_map = picture_from_file(entry.stored_map) if entry.stored_map else None
        except (PictureError, OSError):
            return None
        h, w = image.shape[:2]
        pictures, nearest = [("part", resized(image, w, h))], None
        note = f"{entry.camera}, {utc_text(entry.captured_at)}"
        try:
            if entry.bundle != self.bundle.digest:
                raise ContractMismatch(f"judged by another bundle ({entry.bundle[:12]})")
            reading = self._engine.infer(prepare(image, self.bundle.contract))
            judged = self._judge(reading, (h, w)) if self._judge else None
        except ContractMismatch as exc:  # a camera of another size has masks of its own
            note += f", {exc}"
            if stored_map is not None:
                pictures.append(("heat map that was stored", resized(stored_map, *stored_map.shape[1::-1])))
        else:
            nearest, pictures = reading.nearest, list(pictures_of(image, reading, judged, self.bundle))
        return ShownPart(
            name=entry.picture or f"seq {entry.seq}",
            label="",
            verdict=entry.verdict.value,
            score=entry.score,
            p_value=entry.p_value,
            sha256=sha256,
            nearest=nearest,
            regions=tuple(entry.regions),
            pictures=tuple(pictures),
            note=note,
        )


def _samples(data: Path | None, good: Path | None, bad: Path | None) -> list[Sample]:
    if data is not None:
        return labelled_samples(data)
    if good is None or bad is None:
        return []
    check_good_by_name(good)
    return [*good_samples(good), *bad_samples(bad, partial(people.print, markup=False))]


def _check_labels(samples: Iterable[Sample], digests: dict[Sample, str]) -> None:
    good = {digests[sample]: sample.path for sample in samples if sample.is_good and sample in digests}
    for sample in samples:
        twin = None if sample.is_good else good.get(digests.get(sample, ""))
        if twin is not None:
            raise DataError(f"{sample.path} is given as defective, but as a good part too ({twin}); mend one of them")


def _station(folder: Path, looks: _Looks, worst: int) -> Station:
    from mapl_edge.calibrate.station_record import Station
    from mapl_edge.runtime.history import open_history

    with open_history(folder) as past:
        accounts = tuple((str(account), account.balanced or account.running) for account in past.accounts())
        rejects, reviews = (tuple(_last(past, looks, each, worst)) for each in (Outcome.FAIL, Outcome.REVIEW))
        return Station(str(folder), past.counts_by_day(), accounts, rejects, reviews)


def _last(past: History, looks: _Looks, outcome: Outcome, last: int) -> Iterator[Any]:
    """Newest first."""
    from mapl_edge.runtime.history import Wanted

    for entry in reversed(list(past.entries(Wanted(last, outcome, with_picture=True)))):
        shown = looks.at_entry(entry)
        if shown is not None:
            yield shown
