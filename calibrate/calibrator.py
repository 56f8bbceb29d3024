"""Calibrate a bundle from pictures of good parts, and of defects if there are any, that training never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import DEFECTS, Bundle
from mapl_edge.calibrate.decision import Decision, Wish, decide
from mapl_edge.calibrate.limits import MIN_NORMALS, NormalLimit
from mapl_edge.calibration import (
    Calibration,
    calibration_from_file,
    documents_of,
    history_from_file,
    write_calibration,
)
from mapl_edge.camera_health import Measures, measure, reference_from_measures
from mapl_edge.dataset import BadPictures, Sample
from mapl_edge.engine import Reading
from mapl_edge.errors import BundleError, ContractMismatch, DataError
from mapl_edge.files import sha256_of
from mapl_edge.gauge import Gauge, Mark
from mapl_edge.masks import InspectedArea, Masks
from mapl_edge.part_statistics import PartStatistics, part_statistics
from mapl_edge.place import PlaceReference, Profiles, profiles_of, reference_from_profiles
from mapl_edge.prepare import prepare
from mapl_edge.user import user_name
from mapl_edge.verdict import utc_text


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibrating did.

    Attributes:
        decision: as calibration.yaml holds it now.
        n_left_out: pictures that training had seen.
        n_copies: pictures that are another one's copy.
        n_taught: good ones among those left out that were taught: chosen for their high scores, so that without them
            the limit promises more than it keeps.
    """

    decision: Decision
    n_left_out: int
    n_copies: int = 0
    n_taught: int = 0


def calibrate_bundle(
    bundle: Bundle,
    samples: Sequence[Sample],
    look: Callable[[UInt8Array], Reading],
    max_false_reject: float = 0.05,
    confidence: float = 0.95,
    bad: BadPictures | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    engine: str = "",
) -> tuple[NormalLimit, int]:
    """Score good parts, set the limit, write calibration.yaml; `calibrate_parts` without defects.

    Returns:
        The limit, and how many pictures were left out because training saw them.
    """
    done = calibrate_parts(bundle, samples, (), look, Wish(max_false_reject, confidence), bad, progress, engine)
    return done.decision.normal, done.n_left_out


def calibrate_parts(
    bundle: Bundle,
    good: Sequence[Sample],
    defects: Sequence[Sample],
    look: Callable[[UInt8Array], Reading],
    wish: Wish,
    bad: BadPictures | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    engine: str = "",
    masks: Masks | None = None,
) -> Calibrated:
    """Score parts, set the limits, write calibration.yaml.

    Pictures that training saw are left out: their scores are lower than those of new parts, and a limit from them
    would promise what it cannot keep.

    Args:
        bundle: an open bundle; its calibration.yaml is written whole or not at all.
        good, defects: parts; there may be no defects.
        look: camera picture, uint8 (H, W, 3) BGR → reading.
        wish: what the limits shall keep.
        bad: what to do with unusable pictures.
        progress: called as progress(what, done, total).
        engine: name of the engine that `look` asks.
        masks: on all these pictures, which must be of one size then.

    Raises:
        ConfigError, ContractMismatch: the masks do not fit the pictures.
        DataError: a picture is given as good and as defective; fewer than ten good ones remain (names one that was
            trained on, if that is why); no defect remains; or the scores cannot carry the wish.
    """
    trained_on = set(bundle.manifest.trained_on)
    digests = {sample.path: sha256_of(sample.path) for sample in (*good, *defects) if sample.path.is_file()}
    _check_labels(good, defects, digests)
    labelled = {path.stem for path in (bundle.path / DEFECTS).glob("*")}
    for sample in good:
        if digests.get(sample.path) in labelled:
            raise DataError(
                f"{sample.path} is given as a good part, but was labelled a defect (mapl-edge teach --bad); leave it "
                f"out, or remove it from {bundle.path / DEFECTS}"
            )
    fresh = [sample for sample in good if digests.get(sample.path) not in trained_on]
    fresh_defects = [sample for sample in defects if digests.get(sample.path) not in trained_on]
    seen = len(good) - len(fresh)
    n_fresh = len(fresh) + len(fresh_defects)
    fresh, fresh_defects = _once_each(fresh, digests), _once_each(fresh_defects, digests)
    n_copies = n_fresh - len(fresh) - len(fresh_defects)
    if seen and len(fresh) < MIN_NORMALS:
        example = next(sample.path for sample in good if sample not in fresh)
        raise DataError(
            f"training saw {seen} of these {len(good)} pictures (such as {example}), {len(fresh)} remain, "
            f"expected at least {MIN_NORMALS}; give pictures of good parts that were not trained on"
        )
    if defects and not fresh_defects:
        raise DataError(f"training saw all {len(defects)} defective pictures (such as {defects[0].path}); give others")
    bad = bad or BadPictures()
    marks: dict[Sample, Mark] = {}
    measured: list[Measures] = []
    statistics: dict[Sample, PartStatistics | None] = {}
    profiles: dict[Sample, Profiles] = {}
    gauge = Gauge(bundle.contract, None, wish.regions)
    for what, some in (("scoring good parts", fresh), ("scoring defects", fresh_defects)):
        for done, (sample, image) in enumerate(bad.read(some), start=1):
            picture_hw = image.shape[:2]
            if masks is not None:
                gauge = gauge if gauge.area else replace(gauge, area=masks.area(bundle.contract, picture_hw))
                _check_size(sample, gauge.area, picture_hw)
            reading = look(image)
            marks[sample] = gauge(reading, picture_hw)
            if some is fresh:
                measured.append(measure(image, bundle.contract.roi_xywh))
                picture = prepare(image, bundle.contract)
                statistics[sample] = part_statistics(picture, reading)
                profiles[sample] = profiles_of(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8))
            progress(what, done, len(some))
    used, used_defects = ([sample for sample in some if sample in marks] for some in (fresh, fresh_defects))
    scores, defect_scores = (tuple(float(marks[s].score) for s in some) for some in (used, used_defects))
    levels, defect_levels = (_levels(marks[s] for s in some) for some in (used, used_defects))
    decision = decide(scores, defect_scores, wish, levels if wish.regions is not None else None)
    place = reference_from_profiles(profiles[sorted(used, key=lambda sample: marks[sample].score)[len(used) // 2]])
    write_calibration(
        Calibration(
            version=previous_version(bundle) + 1,
            created_at=utc_text(datetime.now(timezone.utc)),
            created_by=user_name(),
            model_digest=bundle.digest,
            limits=decision.limits,
            promise=decision.promise,
            rule=decision.rule,
            target_recall=wish.target_recall if decision.rule == "recall" else None,
            costs=wish.costs if decision.rule == "cost" else None,
            review_promise=None if decision.review is None else decision.review.promise,
            pixel_promise=None if decision.pixel is None else decision.pixel.promise,
            masks="" if masks is None else masks.digest,
            picture_hw=None if gauge.area is None else gauge.area.picture_hw,
            misses=decision.misses,
            pictures={sample.name: digests[sample.path] for sample in used},
            defects={sample.name: digests[sample.path] for sample in used_defects},
            scores=scores,
            levels=levels,
            defect_scores=defect_scores,
            defect_levels=defect_levels,
            engine=engine,
            camera=reference_from_measures(measured),
            baseline=_columns([statistics[sample] for sample in used], [profiles[sample] for sample in used], place),
            place=place,
        ),
        bundle.calibration_path,
    )
    n_taught = len(bundle.taught & {digests.get(sample.path) for sample in good})
    return Calibrated(decision, len(good) + len(defects) - n_fresh, n_copies, n_taught)


def _once_each(samples: Sequence[Sample], digests: Mapping[Path, str]) -> list[Sample]:
    """The first of several with the same content: copies are no further parts."""
    first = {digests.get(sample.path, str(sample.path)): sample for sample in reversed(samples)}
    return [sample for sample in samples if first[digests.get(sample.path, str(sample.path))] is sample]


def _levels(marks: Iterable[Mark]) -> tuple[float, ...]:
    return tuple(mark.level for mark in marks if mark.level is not None)


def _columns(
    rows: Sequence[PartStatistics | None], profiles: Sequence[Profiles], place: PlaceReference
) -> dict[str, tuple[float, ...]]:
    """Rows by statistic; none where a part has no statistics."""
    whole = [row.moved(place.shift(each)) for row, each in zip(rows, profiles, strict=True) if row is not None]
    if len(whole) < len(rows):
        return {}
    return {name: tuple(getattr(row, name) for row in whole) for name in PartStatistics.__slots__}


def roll_back(bundle: Bundle, version: int) -> Calibration:
    """Put an earlier version in force again, as a new version; the history keeps all.

    Raises:
        BundleError: there is no such version, it is in force, or the file cannot be read.
        ContractMismatch: it was made for another bundle.
    """
    path, in_force, wanted = bundle.calibration_path, bundle.calibration, None
    found: list[int] = []
    for one in documents_of(path):  # the newest first; older ones, which need not be readable, are left alone
        found.append(one.version)
        if one.version == version:
            wanted = one
            break
    versions = ", ".join(map(str, reversed(found)))
    if wanted is None:
        raise BundleError(
            f"{path}: no version {version}, found {versions}; see mapl-edge calibrate {path.parent} --show"
        )
    if wanted == in_force:
        raise BundleError(f"{path}: version {version} is in force already; found {versions}")
    if wanted.model_digest != bundle.digest:
        raise ContractMismatch(
            f"{path}: version {version} was made for bundle {wanted.model_digest[:12]}, this one is "
            f"{bundle.digest[:12]}; choose another version or calibrate again"
        )
    again = wanted.model_copy(
        update={
            "version": previous_version(bundle) + 1,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "note": f"rollback to version {version}",
        }
    )
    write_calibration(again, path)
    return again


def _check_size(sample: Sample, area: InspectedArea | None, picture_hw: tuple[int, int]) -> None:
    assert area is not None
    try:
        area.check(picture_hw)
    except ContractMismatch as exc:
        raise ContractMismatch(f"{sample.path}: {exc}") from exc


def _check_labels(good: Sequence[Sample], defects: Sequence[Sample], digests: dict[Path, str]) -> None:
    by_digest = {digests[sample.path]: sample.path for sample in good if sample.path in digests}
    for sample in defects:
        twin = by_digest.get(digests.get(sample.path, ""))
        if twin is not None:
            raise DataError(f"{sample.path} is given as defective, but as a good part too ({twin}); mend one of them")


def previous_version(bundle: Bundle) -> int:
    """The highest that calibration.yaml holds; 0 where there is none."""
    try:
        return max(one.version for one in history_from_file(bundle.calibration_path))
    except BundleError:
        pass
    try:
        return calibration_from_file(bundle.calibration_path).version
    except BundleError:  # none yet, or one that nobody can read: this one replaces it
        return 0
