"""Calibrate a bundle from pictures of good parts, and of defects if there are any, that training never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.decision import Decision, Wish, decide
from mapl_edge.calibrate.limits import MIN_NORMALS, NormalLimit, promise_of_any_limit
from mapl_edge.calibration import (
    CALIBRATION_SCHEMA,
    Calibration,
    Limits,
    calibration_from_file,
    history_from_file,
    write_calibration,
)
from mapl_edge.camera_health import Measures, measure, reference_from_measures
from mapl_edge.dataset import BadPictures, Sample
from mapl_edge.engine import Reading
from mapl_edge.errors import BundleError, ContractMismatch, DataError
from mapl_edge.files import sha256_of
from mapl_edge.judge import counted
from mapl_edge.masks import InspectedArea, Masks
from mapl_edge.part_statistics import PartStatistics, part_statistics
from mapl_edge.place import PlaceReference, Profiles, profiles_of, reference_from_profiles
from mapl_edge.placement import placement
from mapl_edge.prepare import prepare
from mapl_edge.regions import region_level
from mapl_edge.user import user_name
from mapl_edge.verdict import utc_text


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibrating did: the decision that calibration.yaml holds now, and how many pictures training had seen."""

    decision: Decision
    n_left_out: int


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
    fresh = [sample for sample in good if digests.get(sample.path) not in trained_on]
    fresh_defects = [sample for sample in defects if digests.get(sample.path) not in trained_on]
    seen = len(good) - len(fresh)
    if seen and len(fresh) < MIN_NORMALS:
        example = next(sample.path for sample in good if sample not in fresh)
        raise DataError(
            f"training saw {seen} of these {len(good)} pictures (such as {example}), {len(fresh)} remain, "
            f"expected at least {MIN_NORMALS}; give pictures of good parts that were not trained on"
        )
    if defects and not fresh_defects:
        raise DataError(f"training saw all {len(defects)} defective pictures (such as {defects[0].path}); give others")
    bad = bad or BadPictures()
    scores: dict[Sample, float] = {}
    measured: list[Measures] = []
    statistics: dict[Sample, PartStatistics | None] = {}
    profiles: dict[Sample, Profiles] = {}
    levels: dict[Sample, float] = {}
    area: InspectedArea | None = None
    for what, some in (("scoring good parts", fresh), ("scoring defects", fresh_defects)):
        for done, (sample, image) in enumerate(bad.read(some), start=1):
            picture_hw = image.shape[:2]
            if masks is not None:
                area = area or masks.area(bundle.contract, picture_hw)
                _check_size(sample, area, picture_hw)
            reading = look(image)
            if area is None and wish.regions is None:
                scores[sample] = reading.score
            else:
                counts, scores[sample] = counted(reading, area, picture_hw)
                if wish.regions is not None and sample.is_good:
                    levels[sample] = region_level(counts, wish.regions, placement(bundle.contract, picture_hw))
            if some is fresh:
                measured.append(measure(image, bundle.contract.roi_xywh))
                picture = prepare(image, bundle.contract)
                statistics[sample] = part_statistics(picture, reading)
                profiles[sample] = profiles_of(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8))
            progress(what, done, len(some))
    used, used_defects = ([sample for sample in some if sample in scores] for some in (fresh, fresh_defects))
    good_levels = [levels[s] for s in used] if wish.regions is not None else None
    decision = decide([scores[s] for s in used], [scores[s] for s in used_defects], wish, good_levels)
    place = reference_from_profiles(profiles[sorted(used, key=scores.__getitem__)[len(used) // 2]])
    write_calibration(
        Calibration(
            version=_previous_version(bundle) + 1,
            created_at=utc_text(datetime.now(timezone.utc)),
            created_by=user_name(),
            model_digest=bundle.digest,
            limits=decision.limits,
            promise=decision.promise,
            rule=decision.rule,
            review_promise=None if decision.review is None else decision.review.promise,
            pixel_promise=None if decision.pixel is None else decision.pixel.promise,
            masks="" if masks is None else masks.digest,
            picture_hw=None if area is None else area.picture_hw,
            misses=decision.misses,
            pictures={sample.name: digests[sample.path] for sample in used},
            defects={sample.name: digests[sample.path] for sample in used_defects},
            scores=tuple(float(scores[sample]) for sample in used),
            engine=engine,
            camera=reference_from_measures(measured),
            baseline=_columns([statistics[sample] for sample in used], [profiles[sample] for sample in used], place),
            place=place,
        ),
        bundle.calibration_path,
    )
    return Calibrated(decision, len(good) + len(defects) - len(fresh) - len(fresh_defects))


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
    path, history = bundle.calibration_path, bundle.calibration_history
    wanted = next((one for one in reversed(history) if one.version == version), None)
    versions = ", ".join(str(one.version) for one in history)
    if wanted is None:
        raise BundleError(f"{path}: no version {version}, found {versions}; see mapl-edge calibrate --show")
    if wanted is history[-1]:
        raise BundleError(f"{path}: version {version} is in force already; found {versions}")
    if wanted.model_digest != bundle.digest:
        raise ContractMismatch(
            f"{path}: version {version} was made for bundle {wanted.model_digest[:12]}, this one is "
            f"{bundle.digest[:12]}; choose another version or calibrate again"
        )
    again = wanted.model_copy(
        update={
            "version": max(one.version for one in history) + 1,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "note": f"rollback to version {version}",
        }
    )
    write_calibration(again, path)
    return again


def set_limits(bundle: Bundle, limits: Limits) -> Calibration:
    """Put limits that a person chose in force, as a new version; the history keeps all.

    What they promise is a bound for all limits at once (see `Tradeoff.bound_for_any_limit`), from the scores that the
    version in force keeps: whoever chose may have looked at them.

    Raises:
        BundleError: the version in force keeps no scores.
    """
    now, path = bundle.calibration, bundle.calibration_path
    if not now.scores:
        raise BundleError(f"{path}: keeps no scores of good parts, so limits of one's own promise nothing; calibrate")
    review, (said, before) = limits.review, map(_limits_text, (limits, now.limits))
    again = now.model_copy(
        update={
            "schema_version": CALIBRATION_SCHEMA,
            "version": _previous_version(bundle) + 1,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "limits": limits,
            "rule": "own",
            "promise": promise_of_any_limit(now.scores, limits.fail, now.promise.confidence),
            "review_promise": None
            if review is None
            else promise_of_any_limit(now.scores, review, now.promise.confidence),
            "misses": None,
            "note": f"set by hand: {said} (before: {before})",
        }
    )
    write_calibration(again, path)
    return again


def _limits_text(limits: Limits) -> str:
    """fail=2.5, review=2."""
    return ", ".join(f"{k}={v:.6g}" for k, v in limits.model_dump(include={"fail", "review"}).items() if v is not None)


def _check_size(sample: Sample, area: InspectedArea, picture_hw: tuple[int, int]) -> None:
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


def _previous_version(bundle: Bundle) -> int:
    try:
        return max(one.version for one in history_from_file(bundle.calibration_path))
    except BundleError:
        pass
    try:
        return calibration_from_file(bundle.calibration_path).version
    except BundleError:  # none yet, or one that nobody can read: this one replaces it
        return 0
