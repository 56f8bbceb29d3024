"""Teach: add good parts to a bundle's memory on the station, without training and without torch; and take them off.

What a lesson leaves in the bundle, `mapl_edge.export.lessons` tells.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.bundle import (
    CALIBRATION,
    MANIFEST,
    SIGNATURE,
    TEACH,
    Bundle,
    memory_name,
    open_bundle,
)
from mapl_edge.calibration import Calibration, RegionFilter, history_from_file, write_calibration
from mapl_edge.engine import Engine
from mapl_edge.engine_record import Graph, OpenEngine, plain_engine
from mapl_edge.errors import BundleError, DataError, Uncalibrated
from mapl_edge.export.effects import Effect, KnownEffects, Progress, is_exact, mark_of, of_kind, recorded_marks
from mapl_edge.export.known_parts import KnownParts, Part, keep_defect
from mapl_edge.export.lessons import (
    BASE,
    BaseGraphs,
    delta_of,
    deltas_of,
    entries_of,
    keep_base,
    lessons,
    replaced,
    save_arrays,
    write_golden,
    write_taught_manifest,
)
from mapl_edge.export.memory_graph import Entries, PlaceEncoder
from mapl_edge.export.taught_reference import Reference, entries_from_seen, golden_answers, require_found
from mapl_edge.files import files_below, sha256_of
from mapl_edge.gauge import Gauge, MarkedPart
from mapl_edge.masks import InspectedArea
from mapl_edge.parity import Parity, require_parity
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.stages import Stages
from mapl_edge.user import user_name
from mapl_edge.verdict import utc_text

PATCHES = 50  # of one part, by default
WORKERS = os.cpu_count() or 1

Decide = Callable[[Calibration, str, dict[str, MarkedPart], dict[str, MarkedPart]], Calibration]
"""New limits: (calibration in force, digest of the new bundle, good parts, defects) → calibration."""
Sign = Callable[[Bundle], None]


@dataclass(frozen=True, slots=True)
class Taught:
    """What teaching did.

    Attributes:
        number: of the delta.
        digest_before, digest: of the bundle.
        entries: how many the memory got.
        effects: on the taught parts, the calibration set and the known defects.
        fused, split: parity of both graphs on the golden pictures, the taught ones among them.
        calibration: in force now; None for a bundle without limits.
        bundle: the new one, in its place.
    """

    number: int
    digest_before: str
    entries: int
    effects: tuple[Effect, ...]
    fused: Parity
    split: Parity
    calibration: Calibration | None
    bundle: Bundle

    @property
    def digest(self) -> str:
        """Of the new bundle."""
        return self.bundle.digest


def teach_good(
    bundle: Bundle,
    parts: Sequence[Part],
    known: KnownParts,
    open_engine: OpenEngine,
    decide: Decide,
    *,
    area: InspectedArea | None = None,
    patches: int = PATCHES,
    keep_limits: bool = False,
    threads: int = 0,
    force: bool = False,
    sign: Sign | None = None,
    progress: Progress = lambda what, done, total: None,
    stages: Stages | None = None,
) -> Taught:
    """Add good parts to the memory as one delta, score the known parts again, set the limits again.

    Of a patch memory each part gives the places farthest from what is there, one after the other (farthest first); an
    image memory gets the whole picture.

    Args:
        bundle: an open bundle; replaced whole or not at all.
        parts: pictures of good parts as the camera gives them.
        known: the parts that the limits came from, and the labelled defects.
        open_engine: makes an engine of the bundle's graphs; it is asked about several pictures side by side, so one
            thread a call is enough.
        decide: sets limits by the wish of those in force.
        area: of the masks that the limits were made with.
        patches: of one part at most.
        keep_limits: leave the limits as they are; pictures may be missing then.
        threads: so many pictures side by side; 0: as many as there are cores.
        force: teach though known defects would pass.
        sign: signs the new bundle.
        progress: called as progress(what, done, total).
        stages: is told where the seconds go.

    Raises:
        DataError: a part was trained on, taught or is a known defect; pictures are missing; a known defect would pass.
        BundleError: the bundle has no split graphs, is signed and `sign` is None, or its graphs cannot be added to.
        ContractMismatch: a picture has not the size that the masks are for.
        ParityError: the new graphs do not agree with each other or with the reference.
        OutputError: the disk refuses.
    """
    stages = stages or Stages()
    _check(bundle, parts, known, keep_limits, sign)
    calibration = _calibration_or_none(bundle)
    gauge = _gauge(bundle, calibration, area)
    number = len(lessons(bundle)) + 1
    images = [picture_from_file(part.path) for part in parts]
    pictures = np.stack([prepare(image, bundle.contract) for image in images])
    first_source = len([name for name in bundle.manifest.files if name.startswith("memory/")])
    before_it = _changeable(bundle)
    with ThreadPoolExecutor(threads or WORKERS + 1) as workers, replaced(bundle) as work, ExitStack() as at_end:
        encoder = PlaceEncoder(bundle.path, bundle.manifest.memory.scope)
        seen = [encoder(picture) for picture in pictures]
        golden = bundle.golden()
        seen_golden = workers.map(encoder, golden.pictures)
        base, deltas = BaseGraphs(bundle), deltas_of(bundle)
        old_vectors = encoder.vectors(base.memory.and_also(entries_of(deltas)) if deltas else base.memory)
        more = entries_from_seen(encoder, seen, old_vectors, patches, first_source)
        delta: dict[str, AnyArray] = {name: getattr(more, name) for name in Entries.__slots__}
        stages.end("what the part brings")

        keep_base(bundle, work)
        added = entries_of([*deltas, delta])
        vectors = encoder.vectors(added)
        base.write_fused(work, added, vectors)
        draft = Bundle(work, bundle.manifest, "")
        fused = at_end.enter_context(_opened(draft, "fused", open_engine))
        marks = recorded_marks(calibration) if is_exact(calibration) else {}
        before: Engine | None = None
        if any(part.digest not in marks for part in (*known.good, *known.defects)):
            before = at_end.enter_context(_opened(bundle, "fused", open_engine))
        known_effects = KnownEffects(known, marks, pictures, bundle.manifest.trained_on, gauge, (before, fused))

        def let_go() -> None:  # where something fails, nobody waits for the rest
            known_effects.stop()
            workers.shutdown(cancel_futures=True)

        at_end.callback(let_go)
        workers.submit(known_effects.lend_a_hand)
        for index, picture in enumerate(pictures, start=first_source):
            _write_jpeg(work / memory_name(index), picture)
        base.write_split(work, added, vectors)
        stages.end("new graphs and index")

        reference = Reference(work, old_vectors, encoder.vectors(more))
        taught_looks = workers.map(reference.look, seen)
        golden_looks = workers.map(reference.look_if_changed, seen_golden)
        split = at_end.enter_context(_opened(draft, "split", open_engine))
        at_end.callback(let_go)  # before it is closed
        answers = list(taught_looks)
        finding = workers.submit(require_found, work, draft.search_reach, reference, seen, answers)
        golden, kept = golden_answers(golden, list(golden_looks), pictures, answers)
        proofs = [workers.submit(require_parity, engine, golden) for engine in (split, fused)]
        for _ in range(threads or WORKERS):
            workers.submit(known_effects.lend_a_hand)
        stages.end("golden answers")

        taught_effects = [
            Effect("taught", part.name, gauge(answer.before, image.shape[:2]), gauge(answer.now, image.shape[:2]))
            for part, image, answer in zip(parts, images, answers, strict=True)
            if answer.before is not None and answer.now is not None
        ]
        record = {
            "number": number,
            "at": utc_text(datetime.now(timezone.utc)),
            "by": user_name(),
            "parts": {part.name: part.digest for part in parts},
            "scores": {one.name: [one.score_before, one.score_after] for one in taught_effects},
            "entries": len(more),
            "digest_before": bundle.digest,
            "tools": {name: version(name) for name in ("onnx", "numpy")},
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        save_arrays(work / f"{TEACH}/{number:04d}.npz", delta | kept | {"pictures": pictures})
        (work / f"{TEACH}/{number:04d}.json").write_text(text, encoding="utf-8")
        write_golden(bundle, work)
        made = write_taught_manifest(bundle, work)
        finding.result()
        effects_of_known = known_effects.wait(progress)
        proof_split, proof_fused = (proof.result() for proof in proofs)
        stages.end("proof of both graphs, known parts")

        now = None
        if calibration is not None:
            scored = [
                {e.name: MarkedPart(p.digest, e.mark_after) for e, p in of_kind(effects_of_known, kind)}
                for kind in ("good", "defect")
            ]
            now = (
                _kept_limits(calibration, made.digest, number)
                if keep_limits
                else decide(calibration, made.digest, *scored)
            )
            now = now.model_copy(update={"version": _next_version(bundle)})
            write_calibration(now, work / CALIBRATION)
        effects = [*taught_effects, *(effect for effect, _ in effects_of_known)]
        if calibration is not None and now is not None:
            effects = [effect.judged(calibration.limits, now.limits) for effect in effects]
        missed = [effect for effect in effects if effect.is_missed_now]
        if missed and not force:
            raise DataError(
                f"{bundle.path}: nothing was taught, {len(missed)} known defects would pass: "
                f"{'; '.join(map(str, missed[:5]))}; teach fewer places with --patches, or --force it"
            )
        if sign is not None:
            sign(made)
        _require_unchanged(bundle, before_it)
        stages.end("limits")
    stages.end("into its place")
    made = replace(made, path=bundle.path)
    return Taught(number, bundle.digest, len(more), tuple(effects), proof_fused, proof_split, now, made)


def teach_bad(
    bundle: Bundle,
    parts: Sequence[Part],
    known: KnownParts,
    open_engine: OpenEngine,
    decide: Decide,
    area: InspectedArea | None = None,
) -> tuple[list[Effect], Calibration | None]:
    """Label parts as defects: keep their pictures in the bundle, tell what the limits do to them.

    The model and its digest stay. The limits are set again by their rule (that of a promise looks at good parts alone),
    with all known defects; where a picture of one is missing, or calibration.yaml does not hold what the good parts'
    regions were, they stay, and what they miss is told no more.

    Args:
        bundle: an open bundle; its defects/ and calibration.yaml are written.
        parts, known, open_engine, decide, area: see `teach_good`.

    Returns:
        The new defects, and the limits in force; None for a bundle without.

    Raises:
        DataError: a part was trained on or taught as a good one, or made the limits.
        OutputError: the disk refuses.
    """
    old = _calibration_or_none(bundle)
    for part in parts:
        if old is not None and part.digest in old.pictures.values():
            raise DataError(f"{part.path}: the limits were set with it as a good part; calibrate again without it")
    gauge = _gauge(bundle, old, area)
    with _opened(bundle, "fused", open_engine) as engine:
        added = {part.digest: mark_of(part, engine, gauge) for part in parts}
        kept = [keep_defect(bundle, part) for part in parts]
        everything = [*(part for part in known.defects if part.digest not in added), *kept]
        marks = added | (recorded_marks(old) if is_exact(old) else {})
        of_defects = {p.digest: marks.get(p.digest) or mark_of(p, engine, gauge) for p in everything}
    now = None
    if old is not None:
        marked = {part.name: MarkedPart(part.digest, of_defects[part.digest]) for part in everything}
        names = {name: digest for name, digest in old.defects.items() if digest not in of_defects} | {
            name: part.digest for name, part in marked.items()
        }
        note = f"{len(kept)} defects labelled"
        of_good = recorded_marks(old)
        good = {name: MarkedPart(digest, of_good[digest]) for name, digest in old.pictures.items() if digest in of_good}
        if len(names) == len(marked) and len(good) == len(old.pictures):
            now = decide(old, bundle.digest, good, marked)
        else:
            unknown = {"misses": None, "defect_scores": (), "defect_levels": ()}
            written = {"created_at": utc_text(datetime.now(timezone.utc)), "created_by": user_name()}
            now = old.model_copy(update={**unknown, **written, "defects": names})
            note = "; ".join(filter(None, (old.note, note)))
        now = now.model_copy(update={"note": note, "version": _next_version(bundle), "engine": old.engine})
        write_calibration(now, bundle.calibration_path)
    effects = [
        Effect("defect", part.name, added[part.digest], added[part.digest])
        for part in everything
        if part.digest in added
    ]
    if old is not None and now is not None:
        effects = [effect.judged(old.limits, now.limits) for effect in effects]
    return effects, now


def undo(bundle: Bundle, *, everything: bool = False, sign: Sign | None = None) -> Bundle:
    """Take the last delta off, or all; the limits that belonged to the bundle before are in force again.

    Raises:
        BundleError: nothing was taught; or the bytes that were there before cannot be made again here, since onnx or
            FAISS is of another version than when they were written (never when all is taken off).
        OutputError: the disk refuses.
    """
    past = lessons(bundle)
    if not past:
        raise BundleError(f"{bundle.path}: nothing was taught, so there is nothing to take off")
    off = past if everything else past[-1:]
    kept, expected = past[: -len(off)], off[0]["digest_before"]
    was_signed = (bundle.path / SIGNATURE).exists()
    if was_signed and sign is None and (kept or not (bundle.path / BASE / SIGNATURE).exists()):
        raise BundleError(f"{bundle.path}: is signed, and would not be any more; give --sign key.pem")
    gone = {memory_name(int(index)) for one in off for index in np.unique(delta_of(bundle, one["number"])["source"])}
    before_it = _changeable(bundle)
    with replaced(bundle, {f"{TEACH}/{one['number']:04d}{end}" for one in off for end in (".npz", ".json")}) as work:
        for name in gone:
            (work / name).unlink(missing_ok=True)
        if kept:
            left = entries_of([delta_of(bundle, one["number"]) for one in kept])
            vectors = PlaceEncoder(bundle.path, bundle.manifest.memory.scope).vectors(left)
            BaseGraphs(bundle).write(work, left, vectors)
            write_golden(bundle, work)
            write_taught_manifest(bundle, work)
        else:
            for file in (bundle.path / BASE).iterdir():
                shutil.copyfile(file, work / file.name)
            shutil.rmtree(work / TEACH)
        made = open_bundle(work)
        if made.digest != expected:
            raise BundleError(
                f"{bundle.path}: the bundle before had digest {expected[:12]}, made again here it has "
                f"{made.digest[:12]}; install {off[0]['tools']}, or take everything off with --undo-all"
            )
        _limits_again(bundle, made, off)
        if sign is not None:
            sign(made)
        _require_unchanged(bundle, before_it)
    return replace(made, path=bundle.path)


def _check(bundle: Bundle, parts: Sequence[Part], known: KnownParts, keep_limits: bool, sign: Sign | None) -> None:
    if not bundle.is_split:
        raise BundleError(f"{bundle.path}: has no split graphs, which teaching needs; export the model again")
    if (bundle.path / SIGNATURE).exists() and sign is None:
        raise BundleError(f"{bundle.path}: is signed, and would not be any more; give --sign key.pem")
    defects = {part.digest for part in known.defects}
    for part in parts:
        if part.digest in bundle.manifest.trained_on:
            raise DataError(f"{part.path}: was trained on or taught already; choose another part")
        if part.digest in defects:
            raise DataError(f"{part.path}: is labelled as a defect; if that was wrong, remove it from defects/")
    if len({part.digest for part in parts}) < len(parts):
        raise DataError("a part is given twice; name each once")
    if known.missing and not keep_limits:
        raise DataError(
            f"{len(known.missing)} pictures that the limits came from were not found (such as {known.missing[0]}); "
            "give their folders with --calibration FOLDER, or keep the limits unproved with --keep-limits"
        )


def _calibration_or_none(bundle: Bundle) -> Calibration | None:
    try:
        return bundle.calibration
    except Uncalibrated:
        return None


@contextmanager
def _opened(bundle: Bundle, graph: Graph, open_engine: OpenEngine) -> Iterator[Engine]:
    engine = open_engine(plain_engine(bundle, graph=graph))
    try:
        engine.load()
        yield engine
    finally:
        engine.close()


def _gauge(bundle: Bundle, calibration: Calibration | None, area: InspectedArea | None) -> Gauge:
    """What the limits in force look at."""
    pixel = None if calibration is None else calibration.limits.pixel
    regions = None if pixel is None else RegionFilter(**pixel.model_dump(exclude={"limit"}))
    return Gauge(bundle.contract, area, regions)


def _kept_limits(calibration: Calibration, digest: str, number: int) -> Calibration:
    note = (
        f"taught {number:04d}; limits of version {calibration.version} kept: its parts were not scored again, so the "
        "promise is that of the bundle before"
    )
    return calibration.model_copy(
        update={
            "model_digest": digest,
            "note": note,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "baseline": {},
        }
        | dict.fromkeys(("scores", "levels", "defect_scores", "defect_levels"), ())
    )


def _next_version(bundle: Bundle) -> int:
    return max(one.version for one in history_from_file(bundle.calibration_path)) + 1


def _limits_again(bundle: Bundle, made: Bundle, off: Sequence[dict[str, Any]]) -> None:
    """Put the last limits of the bundle before in force again, with the defects that were labelled since."""
    if not bundle.calibration_path.is_file():
        return
    history = history_from_file(bundle.calibration_path)
    former = [one for one in history if one.model_digest == made.digest]
    if not former:
        return
    defects = {**history[-1].defects, **former[-1].defects}
    labelled: dict[str, Any] = {"misses": None, "defect_scores": (), "defect_levels": ()}  # of those since: unknown
    numbers = ", ".join(f"{one['number']:04d}" for one in off)
    again = former[-1].model_copy(
        update={
            "version": _next_version(bundle),
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "defects": defects,
            **(labelled if defects != former[-1].defects else {}),
            "note": f"undo of taught {numbers}: version {former[-1].version} again",
        }
    )
    write_calibration(again, made.calibration_path)


def _changeable(bundle: Bundle) -> dict[str, tuple[int, int, int]]:
    """What the manifest does not list: limits, labelled defects, engines; each file's number, size and time."""
    names = [name for name in files_below(bundle.path) if name not in bundle.manifest.files]
    found = {name: (bundle.path / name).stat() for name in names if not Path(name).name.startswith(".")}
    return {name: (file.st_ino, file.st_size, file.st_mtime_ns) for name, file in found.items()}


def _require_unchanged(bundle: Bundle, before: dict[str, tuple[int, int, int]]) -> None:
    if sha256_of(bundle.path / MANIFEST) != bundle.digest or _changeable(bundle) != before:
        raise BundleError(f"{bundle.path}: was changed by somebody else meanwhile; try again")


def _write_jpeg(path: Path, picture: UInt8Array) -> None:
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(jpeg.tobytes())
