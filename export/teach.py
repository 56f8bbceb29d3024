"""Teach: add good parts to a bundle's memory on the station, without training and without torch; and take them off.

    part.mapl/
      teach/base/         what the bundle was exported with and teaching replaces: graphs, index, golden.npz, manifest
      teach/0001.npz      a delta: entries for the memory, the parts' prepared pictures, golden answers that it changes
      teach/0001.json     who taught what and when, scores before and after, digest of the bundle before

A taught bundle is the base with all its deltas, made anew each time, and nothing else goes into its manifest: so taking
the last delta off gives the very bytes that were there before, and with them the digest, the limits that belong to it
and the engines that were made for it. The bundle is written beside its place and changes places with the old one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from mapl_edge.bundle import (
    CALIBRATION,
    DECODER,
    GOLDEN,
    MANIFEST,
    MEMORY,
    MODEL,
    SEAL,
    SIGNATURE,
    Bundle,
    Golden,
    memory_name,
    open_bundle,
    write_manifest,
)
from mapl_edge.calibration import Calibration, Limits, history_from_file, write_calibration
from mapl_edge.engine import Engine, Reading
from mapl_edge.engine_record import Graph, OpenEngine, plain_engine
from mapl_edge.errors import BundleError, DataError, ParityError, Uncalibrated
from mapl_edge.export.known_parts import KnownParts, Part, keep_defect
from mapl_edge.export.memory_graph import Entries, PlaceEncoder, Seen, add_entries, memory_in, onnx_session
from mapl_edge.files import new_folder, sha256_of
from mapl_edge.judge import judge
from mapl_edge.parity import Parity, require_parity
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.search import NEIGHBOURS, RECALL, SearchIndex, index_with, write_index
from mapl_edge.user import user_name
from mapl_edge.verdict import Outcome, utc_text

TEACH = "teach"
BASE = f"{TEACH}/base"
REPLACED = (MODEL, DECODER, MEMORY, GOLDEN)  # files that teaching writes anew
PATCHES = 50  # of one part, by default
EXACT = "onnxruntime-fp32"  # engines whose scores in calibration.yaml are taken as they are
TIE = 1e-5  # relative: a place this near to a new entry may find it; rounding decides

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
    more = _entries(encoder, pictures, old_vectors, patches, first_source)
    with _replaced(bundle) as work, ExitStack() as engines:
        _keep_base(bundle, work)
        for index, picture in enumerate(pictures, start=first_source):
            _write_jpeg(work / memory_name(index), picture)
        delta: dict[str, AnyArray] = {name: getattr(more, name) for name in Entries.__slots__}
        _write_graphs(bundle, work, [*_deltas(bundle), delta])
        reference = _Reference(work, encoder, old_vectors, encoder.vectors(more))
        golden, answers, kept = _golden_answers(bundle.golden(), pictures, reference)
        _require_found(work, encoder, reference, pictures)
        draft = Bundle(work, bundle.manifest, "")
        proofs = tuple(
            require_parity(engines.enter_context(_opened(draft, graph, open_engine)), golden)
            for graph in get_args(Graph)
        )
        _savez(work / f"{TEACH}/{number:04d}.npz", delta | kept | {"pictures": pictures})
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
        _write_golden(bundle, work)
        _write_taught_manifest(work)
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
    gone = {memory_name(int(index)) for one in off for index in np.unique(_delta(bundle, one["number"])["source"])}
    with _replaced(bundle, {f"{TEACH}/{one['number']:04d}{end}" for one in off for end in (".npz", ".json")}) as work:
        for name in gone:
            (work / name).unlink(missing_ok=True)
        if kept:
            _write_graphs(bundle, work, [_delta(bundle, one["number"]) for one in kept])
            _write_golden(bundle, work)
            _write_taught_manifest(work)
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


def lessons(bundle: Bundle) -> list[dict[str, Any]]:
    """The records of all deltas, first to last."""
    names = sorted(name for name in bundle.manifest.files if name.startswith(f"{TEACH}/") and name.endswith(".json"))
    names = [name for name in names if not name.startswith(f"{BASE}/")]
    return [json.loads((bundle.path / name).read_text(encoding="utf-8")) for name in names]


_WORKERS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the taught bundle says of a picture; `before` is the score with the entries of before."""

    score: float
    map: FloatArray
    before: float
    finds_new: bool


class _Reference:
    """The new bundle's encoder and decoder with a search of its own: every query against every entry.

    It shares neither the copy of the memory that fused graph and index search nor their way to search it.
    """

    def __init__(self, work: Path, encoder: PlaceEncoder, old: FloatArray, new: FloatArray) -> None:
        self._encoder, self._decoder, self._old = encoder, onnx_session(work / DECODER), len(old)
        self.vectors = np.concatenate([old, new])
        self._table = np.concatenate(
            [-2 * self.vectors, np.square(self.vectors).sum(1, keepdims=True)], 1
        ).T  # (S+1, K)

    def nearest(self, seen: Seen) -> tuple[IntArray, IntArray]:
        """The nearest entry to each query, int64 (Q,): of those before, and of all."""
        ones = np.ones((len(seen.queries), 1), np.float32)
        squares = np.concatenate([seen.queries, ones], 1) @ self._table  # (Q, K), without |q|²
        places = np.arange(len(squares))
        before = squares[:, : self._old].argmin(1)
        added = self._old + squares[:, self._old :].argmin(1)
        return before, np.where(squares[places, added] < squares[places, before], added, before)

    def look(self, picture: UInt8Array, *, only_new: bool = False) -> _Answer:
        """Read a prepared picture, before and after; with `only_new` not at all where no place finds a new entry."""
        seen = self._encoder(picture)
        before, now = self.nearest(seen)
        finds_new = bool((now >= self._old).any())
        nan = _Answer(float("nan"), np.zeros((0, 0), np.float32), float("nan"), False)
        if only_new and not finds_new:
            return nan
        score, plane = self._decoded(seen, now)
        return _Answer(score, plane, self._decoded(seen, before)[0] if finds_new and not only_new else score, finds_new)

    def _decoded(self, seen: Seen, index: IntArray) -> tuple[float, FloatArray]:
        score, plane = self._decoder.run(["score", "map"], seen.levels | {"index": index[None]})
        return float(score[0]), plane[0]


def _squares(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """Squared distances, float32 (Q, K)."""
    found = np.square(queries).sum(1)[:, None] + np.square(vectors).sum(1) - 2 * queries @ vectors.T
    return np.asarray(found, np.float32)


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


def _entries(
    encoder: PlaceEncoder, pictures: UInt8Array, vectors: FloatArray, patches: int, first_source: int
) -> Entries:
    found: list[Entries] = []
    for source, picture in enumerate(pictures, start=first_source):
        seen = encoder(picture)
        chosen = _farthest_first(seen, vectors, patches)
        of_part = seen.entries(chosen, source)
        codes = encoder.vectors(of_part)
        vectors = np.concatenate([vectors, codes])
        if len(of_part.spread):
            near = np.sort(_squares(codes, vectors), 1)[:, 1 : 1 + NEIGHBOURS]  # the first is the patch itself
            of_part = replace(of_part, spread=np.sqrt(near).mean(1).clip(1).astype(np.float32))
        found.append(of_part)
    more = found[0]
    for few in found[1:]:
        more = more.and_also(few)
    return more


def _farthest_first(seen: Seen, vectors: FloatArray, count: int) -> IntArray:
    """Places farthest from all vectors and from those chosen before them; fewer where the rest is in the memory."""
    distance = _squares(seen.queries, vectors).min(1)
    negligible = TIE * np.square(seen.queries).sum(1)
    chosen: list[int] = []
    while len(chosen) < min(count, len(distance)):
        farthest = int(distance.argmax())
        if chosen and distance[farthest] <= negligible[farthest]:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.square(seen.queries - seen.queries[farthest]).sum(1))
    return np.array(chosen, np.int64)


@contextmanager
def _replaced(bundle: Bundle, without: set[str] = frozenset()) -> Iterator[Path]:  # type: ignore[assignment]
    """A folder with all of the bundle but what teaching writes; it takes the bundle's place in the end."""
    skip = {*REPLACED, MANIFEST, SEAL, SIGNATURE, *without}
    source = bundle.path.resolve()
    with new_folder(source, MANIFEST, overwrite=True) as work:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_dir():
                (work / name).mkdir(exist_ok=True)
            elif name == CALIBRATION:
                shutil.copyfile(path, work / name)
            elif name not in skip:
                _link(path, work / name)
        yield work


def _link(source: Path, made: Path) -> None:
    """Files of a bundle are never written to, only replaced: a second name is as good as a copy, and costs nothing."""
    try:
        os.link(source, made)
    except OSError:
        shutil.copy2(source, made)


def _keep_base(bundle: Bundle, work: Path) -> None:
    base = work / BASE
    if base.exists():
        return
    base.mkdir(parents=True)
    for name in (*REPLACED, MANIFEST, SEAL, SIGNATURE):
        if (bundle.path / name).exists():
            _link(bundle.path / name, base / name)


def _base_of(bundle: Bundle) -> Path:
    base = bundle.path / BASE
    return base if base.exists() else bundle.path


def _delta(bundle: Bundle, number: int) -> dict[str, AnyArray]:
    with np.load(bundle.path / f"{TEACH}/{number:04d}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def _deltas(bundle: Bundle) -> list[dict[str, AnyArray]]:
    return [_delta(bundle, one["number"]) for one in lessons(bundle)]


def _write_graphs(bundle: Bundle, work: Path, deltas: Sequence[dict[str, AnyArray]]) -> None:
    """model.onnx, decoder.onnx and memory.faiss: the base's, with the entries of the deltas."""
    base, summary = _base_of(bundle), json.loads((_base_of(bundle) / MANIFEST).read_text(encoding="utf-8"))["memory"]
    memory = memory_in(base, summary["scope"], summary["search"]["entries"])
    more = Entries(*(np.concatenate([delta[name] for delta in deltas]) for name in Entries.__slots__))
    vectors = PlaceEncoder(bundle.path, summary["scope"]).vectors(more)
    add_entries(base / MODEL, work / MODEL, memory, more, vectors if summary["scope"] == "patch" else None)
    add_entries(base / DECODER, work / DECODER, memory, more, None)
    write_index(index_with(base / MEMORY, vectors), work / MEMORY)


def _write_golden(bundle: Bundle, work: Path) -> None:
    """golden.npz: the base's, with what each delta changes and the pictures that were taught."""
    with np.load(_base_of(bundle) / GOLDEN, allow_pickle=False) as arrays:
        golden = dict(arrays)
    for path in sorted((work / TEACH).glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            delta = dict(arrays)
        changed = delta["changed"]
        golden["pictures"] = np.concatenate([golden["pictures"], delta["pictures"]])
        for name in ("scores", "maps"):
            new = delta[f"golden_{name}"]
            golden[name] = np.concatenate([golden[name], new[len(changed) :]])
            golden[name][changed] = new[: len(changed)]
    _savez(work / GOLDEN, golden)


def _savez(path: Path, arrays: dict[str, AnyArray]) -> None:
    """Not compressed, which would take longer than the rest."""
    np.savez(path, allow_pickle=False, **arrays)


def _write_taught_manifest(work: Path) -> None:
    """The base's manifest with what the deltas change: nothing but base and deltas goes into it."""
    fields = json.loads((work / BASE / MANIFEST).read_text(encoding="utf-8"))
    del fields["files"]
    for path in sorted((work / TEACH).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        fields["memory"]["samples"] += record["entries"]
        fields["memory"]["search"]["entries"] += record["entries"]
        digests = list(record["parts"].values())
        fields["trained_on"] = [*fields["trained_on"], *digests]
        fields["held_out"] = {name: one for name, one in fields["held_out"].items() if one not in digests}
    write_manifest(work, **fields)


@contextmanager
def _opened(bundle: Bundle, graph: Graph, open_engine: OpenEngine) -> Iterator[Engine]:
    engine = open_engine(plain_engine(bundle, graph=graph))
    try:
        engine.load()
        yield engine
    finally:
        engine.close()


def _golden_answers(
    golden: Golden, pictures: UInt8Array, reference: _Reference
) -> tuple[Golden, list[_Answer], dict[str, AnyArray]]:
    """Golden pictures and the taught ones with their answers now; the taught ones' answers; what a delta has to keep.

    Where no place finds a new entry the trained model's own answer stays; the others are answered by `reference`.
    """
    with ThreadPoolExecutor(_WORKERS) as workers:
        old = list(workers.map(partial(reference.look, only_new=True), golden.pictures))
        taught = list(workers.map(reference.look, pictures))
    changed = [i for i, answer in enumerate(old) if answer.finds_new]
    answers = [*(old[i] for i in changed), *taught]
    scores, maps = np.array([one.score for one in answers], np.float32), np.stack([one.map for one in answers])
    all_scores, all_maps = (
        np.concatenate([was, new[len(changed) :]]) for was, new in ((golden.scores, scores), (golden.maps, maps))
    )
    all_scores[changed], all_maps[changed] = scores[: len(changed)], maps[: len(changed)]
    whole = Golden(np.concatenate([golden.pictures, pictures]), all_scores, all_maps, golden.pattern)
    return whole, taught, {"changed": np.array(changed, np.int64), "golden_scores": scores, "golden_maps": maps}


def _require_found(work: Path, encoder: PlaceEncoder, reference: _Reference, pictures: UInt8Array) -> None:
    """The index must find in the taught pictures what comparing with every entry finds."""
    index = SearchIndex(work / MEMORY)
    for picture in pictures:
        seen = encoder(picture)
        _, nearest = reference.nearest(seen)
        found = index.search(seen.queries[None])[0]
        far, near = (np.square(seen.queries - reference.vectors[which]).sum(1) for which in (found, nearest))
        right = float((far <= near + TIE * np.square(seen.queries).sum(1)).mean())
        if right < RECALL:
            raise ParityError(
                f"{MEMORY} finds the nearest entry at {right:.1%} of a taught part's places, expected at least "
                f"{RECALL:.0%}; nothing was taught: train again with this part"
            )
    index.close()


def _effects(
    bundle: Bundle,
    known: KnownParts,
    calibration: Calibration | None,
    taught: UInt8Array,
    reference: _Reference,
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
    with ThreadPoolExecutor(_WORKERS) as workers:
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
