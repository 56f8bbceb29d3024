"""Teach: add good parts to a bundle's memory on the station, without training and without torch; and take them off.

What a lesson leaves in the bundle, `mapl_edge.export.lessons` tells.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.bundle import (
    CALIBRATION,
    MANIFEST,
    SIGNATURE,
    Bundle,
    memory_name,
    open_bundle,
)
from mapl_edge.calibration import Calibration, Limits, history_from_file, write_calibration
from mapl_edge.engine import Engine, Reading
from mapl_edge.engine_record import Graph, OpenEngine, plain_engine
from mapl_edge.errors import BundleError, DataError, Uncalibrated
from mapl_edge.export.known_parts import KnownParts, Part, keep_defect
from mapl_edge.export.lessons import (
    BASE,
    TEACH,
    delta_of,
    deltas_of,
    keep_base,
    lessons,
    replaced,
    save_arrays,
    write_golden,
    write_graphs,
    write_taught_manifest,
)
from mapl_edge.export.memory_graph import Entries, PlaceEncoder, memory_in
from mapl_edge.export.taught_reference import (
    WORKERS,
    Reference,
    entries_from_pictures,
    golden_answers,
    require_found,
)
from mapl_edge.files import sha256_of
from mapl_edge.judge import judge
from mapl_edge.parity import Parity, require_parity
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.user import user_name
from mapl_edge.verdict import Outcome, utc_text

PATCHES = 50  # of one part, by default
EXACT = "onnxruntime-fp32"  # engines whose scores in calibration.yaml are taken as they are

Decide = Callable[[Calibration, str, dict[str, tuple[str, float]], dict[str, tuple[str, float]]], Calibration]
"""New limits: (calibration in force, digest of the new bundle, good parts, defects) → calibration."""
Progress = Callable[[str, int, int], None]
Sign = Callable[[Bundle], None]


@dataclass(frozen=True, slots=True)
class Effect:
    """What teaching does to one part.

    Attributes:
        kind: taught, good or defect.
        before, after: PASS, REVIEW or FAIL, by the limits before and after; None without limits.
    """

    kind: str
    name: str
    score_before: float
    score_after: float
    before: Outcome | None
    after: Outcome | None

    @property
    def changes(self) -> bool:
        """Whether the part would go another way."""
        return self.before is not self.after

    @property
    def is_missed_now(self) -> bool:
        """A known defect that was stopped before and would pass now."""
        return self.kind == "defect" and self.after is Outcome.PASS and self.before is not Outcome.PASS

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        verdicts = {key: None if (v := getattr(self, key)) is None else v.value for key in ("before", "after")}
        return asdict(self) | verdicts

    def __str__(self) -> str:
        verdicts = [verdict.value if verdict else "no limit" for verdict in (self.before, self.after)]
        scores = f"score {self.score_before:.4g} -> {self.score_after:.4g}"
        return f"{self.kind} {self.name}: {verdicts[0]} -> {verdicts[1]} ({scores})"


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
        seconds: from the open bundle to the new one in its place.
    """

    number: int
    digest_before: str
    digest: str
    entries: int
    effects: tuple[Effect, ...]
    fused: Parity
    split: Parity
    calibration: Calibration | None
    seconds: float


def teach_good(
    bundle: Bundle,
    parts: Sequence[Part],
    known: KnownParts,
    open_engine: OpenEngine,
    decide: Decide,
    *,
    patches: int = PATCHES,
    keep_limits: bool = False,
    force: bool = False,
    sign: Sign | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Taught:
    """Add good parts to the memory as one delta, score the known parts again, set the limits again.

    Of a patch memory each part gives the places farthest from what is there, one after the other (farthest first); an
    image memory gets the whole picture.

    Args:
        bundle: an open bundle; replaced whole or not at all.
        parts: pictures of good parts as the camera gives them.
        known: the parts that the limits came from, and the labelled defects.
        open_engine: makes an engine of the bundle's graphs.
        decide: sets limits by the wish of those in force.
        patches: of one part at most.
        keep_limits: leave the limits as they are; pictures may be missing then.
        force: teach though known defects would pass.
        sign: signs the new bundle.
        progress: called as progress(what, done, total).

    Raises:
        DataError: a part was trained on, taught or is a known defect; pictures are missing; a known defect would pass.
        BundleError: the bundle has no split graphs, is signed and `sign` is None, or its graphs cannot be added to.
        ParityError: the new graphs do not agree with each other or with the reference.
        OutputError: the disk refuses.
    """
    started = time.monotonic()
    _check(bundle, parts, known, keep_limits, sign)
    calibration = _calibration_or_none(bundle)
    number = len(lessons(bundle)) + 1
    encoder = PlaceEncoder(bundle.path, bundle.manifest.memory.scope)
    memory = memory_in(bundle.path, bundle.manifest.memory.scope, bundle.manifest.memory.search["entries"])
    old_vectors = encoder.vectors(memory)
    pictures = np.stack([prepare(picture_from_file(part.path), bundle.contract) for part in parts])
    first_source = len([name for name in bundle.manifest.files if name.startswith("memory/")])
    more = entries_from_pictures(encoder, pictures, old_vectors, patches, first_source)
    with replaced(bundle) as work, ExitStack() as engines:
        keep_base(bundle, work)
        for index, picture in enumerate(pictures, start=first_source):
            _write_jpeg(work / memory_name(index), picture)
        delta: dict[str, AnyArray] = {name: getattr(more, name) for name in Entries.__slots__}
        write_graphs(bundle, work, [*deltas_of(bundle), delta])
        reference = Reference(work, encoder, old_vectors, encoder.vectors(more))
        golden, answers, kept = golden_answers(bundle.golden(), pictures, reference)
        require_found(work, encoder, reference, pictures)
        draft = Bundle(work, bundle.manifest, "")
        proofs = tuple(
            require_parity(engines.enter_context(_opened(draft, graph, open_engine)), golden)
            for graph in get_args(Graph)
        )
        save_arrays(work / f"{TEACH}/{number:04d}.npz", delta | kept | {"pictures": pictures})
        known_effects = _effects(bundle, known, calibration, pictures, reference, progress)
        taught_effects = [
            Effect("taught", part.name, answer.before, answer.score, None, None)
            for part, answer in zip(parts, answers, strict=True)
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
        (work / f"{TEACH}/{number:04d}.json").write_text(text, encoding="utf-8")
        write_golden(bundle, work)
        write_taught_manifest(work)
        made = open_bundle(work)
        now = None
        if calibration is not None:
            scored = [
                {e.name: (p.digest, e.score_after) for e, p in some}
                for some in (_of_kind(known_effects, known.good), _of_kind(known_effects, known.defects))
            ]
            now = (
                _kept_limits(calibration, made.digest, number)
                if keep_limits
                else decide(calibration, made.digest, *scored)
            )
            now = now.model_copy(update={"version": _next_version(bundle)})
            write_calibration(now, work / CALIBRATION)
        effects = _judged([*taught_effects, *(effect for effect, _ in known_effects)], calibration, now)
        missed = [effect for effect in effects if effect.is_missed_now]
        if missed and not force:
            raise DataError(
                f"{bundle.path}: nothing was taught, {len(missed)} known defects would pass: "
                f"{'; '.join(map(str, missed[:5]))}; teach fewer places with --patches, or --force it"
            )
        if sign is not None:
            sign(made)
        _require_unchanged(bundle)
    digest, seconds = made.digest, time.monotonic() - started
    return Taught(number, bundle.digest, digest, len(more), tuple(effects), proofs[0], proofs[1], now, seconds)


def teach_bad(
    bundle: Bundle, parts: Sequence[Part], known: KnownParts, open_engine: OpenEngine, decide: Decide
) -> tuple[list[Effect], Calibration | None]:
    """Label parts as defects: keep their pictures in the bundle, tell what the limits do to them.

    The model and its digest stay. The limits are set again by their rule (that of a promise looks at good parts alone),
    with all known defects; where a picture of one is missing they stay, and what they miss is told no more.

    Args:
        bundle: an open bundle; its defects/ and calibration.yaml are written.
        parts, known, open_engine, decide: see `teach_good`.

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
    kept = [keep_defect(bundle, part) for part in parts]
    added = {part.digest for part in kept}
    everything = [*(part for part in known.defects if part.digest not in added), *kept]
    with _opened(bundle, "fused", open_engine) as engine:
        scores = [engine.infer(prepare(picture_from_file(part.path), bundle.contract)).score for part in everything]
    now = None
    if old is not None:
        scored = {part.name: (part.digest, score) for part, score in zip(everything, scores, strict=True)}
        names = {name: digest for name, digest in old.defects.items() if digest not in added} | {
            name: digest for name, (digest, _) in scored.items()
        }
        note = f"{len(kept)} defects labelled"
        if len(names) == len(scored) and len(old.scores) == len(old.pictures):
            pairs = zip(old.pictures.items(), old.scores, strict=True)
            now = decide(old, bundle.digest, {name: (digest, score) for (name, digest), score in pairs}, scored)
        else:
            now = old.model_copy(update={"misses": None, "defects": names, "created_by": user_name()})
        now = now.model_copy(update={"note": note, "version": _next_version(bundle), "engine": old.engine})
        write_calibration(now, bundle.calibration_path)
    effects = [
        Effect("defect", part.name, score, score, None, None)
        for part, score in zip(everything, scores, strict=True)
        if part.digest in added
    ]
    return _judged(effects, old, now), now


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
    if kept and (bundle.path / SIGNATURE).exists() and sign is None:
        raise BundleError(f"{bundle.path}: is signed, and would not be any more; give --sign key.pem")
    gone = {memory_name(int(index)) for one in off for index in np.unique(delta_of(bundle, one["number"])["source"])}
    with replaced(bundle, {f"{TEACH}/{one['number']:04d}{end}" for one in off for end in (".npz", ".json")}) as work:
        for name in gone:
            (work / name).unlink(missing_ok=True)
        if kept:
            write_graphs(bundle, work, [delta_of(bundle, one["number"]) for one in kept])
            write_golden(bundle, work)
            write_taught_manifest(work)
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
        if kept and sign is not None:
            sign(made)
        _require_unchanged(bundle)
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


def _effects(
    bundle: Bundle,
    known: KnownParts,
    calibration: Calibration | None,
    taught: UInt8Array,
    reference: Reference,
    progress: Progress,
) -> list[tuple[Effect, Part]]:
    """Scores of the known parts before and after. A part that was taught is no calibration part any more."""
    recorded: dict[str, float] = {}
    if calibration is not None and calibration.engine.startswith(EXACT):
        recorded = dict(zip(calibration.pictures.values(), calibration.scores, strict=False))

    def effect_on(labelled: tuple[str, Part]) -> Effect | None:
        kind, part = labelled
        picture = prepare(picture_from_file(part.path), bundle.contract)
        if kind == "good" and any(np.array_equal(picture, one) for one in taught):
            return None
        was = recorded.get(part.digest)
        answer = reference.look(picture, only_new=was is not None)
        before = answer.before if was is None else was
        return Effect(kind, part.name, before, answer.score if answer.finds_new else before, None, None)

    labelled = [*(("good", part) for part in known.good), *(("defect", part) for part in known.defects)]
    found: list[tuple[Effect, Part]] = []
    with ThreadPoolExecutor(WORKERS) as workers:
        for done, ((_, part), effect) in enumerate(zip(labelled, workers.map(effect_on, labelled), strict=True), 1):
            found += [(effect, part)] if effect is not None else []
            progress("scoring known parts", done, len(labelled))
    return found


def _of_kind(effects: Sequence[tuple[Effect, Part]], parts: Sequence[Part]) -> list[tuple[Effect, Part]]:
    return [(effect, part) for effect, part in effects if part in parts]


def _judged(effects: Sequence[Effect], old: Calibration | None, new: Calibration | None) -> list[Effect]:
    if old is None or new is None:
        return list(effects)
    return [
        replace(
            effect, before=_verdict(effect.score_before, old.limits), after=_verdict(effect.score_after, new.limits)
        )
        for effect in effects
    ]


def _verdict(score: float, limits: Limits) -> Outcome:
    return judge(Reading(score, np.zeros((1, 1), np.float32), 0), limits)


def _kept_limits(calibration: Calibration, digest: str, number: int) -> Calibration:
    note = (
        f"taught {number:04d}; limits of version {calibration.version} kept: its parts were not scored again, so the "
        "promise is that of the bundle before"
    )
    return calibration.model_copy(
        update={"model_digest": digest, "note": note, "scores": (), "baseline": {}, "created_by": user_name()}
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
    numbers = ", ".join(f"{one['number']:04d}" for one in off)
    again = former[-1].model_copy(
        update={
            "version": _next_version(bundle),
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "defects": defects,
            "misses": former[-1].misses if defects == former[-1].defects else None,
            "note": f"undo of taught {numbers}: version {former[-1].version} again",
        }
    )
    write_calibration(again, made.calibration_path)


def _require_unchanged(bundle: Bundle) -> None:
    if sha256_of(bundle.path / MANIFEST) != bundle.digest:
        raise BundleError(f"{bundle.path}: was changed by somebody else meanwhile; try again")


def _write_jpeg(path: Path, picture: UInt8Array) -> None:
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(jpeg.tobytes())
