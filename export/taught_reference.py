"""A taught memory's own reference: what to add of a part, and what the bundle must answer with it, by a third way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from mapl_edge.bundle import (
    DECODER,
    MEMORY,
    Golden,
)
from mapl_edge.errors import ParityError
from mapl_edge.export.memory_graph import Entries, PlaceEncoder, Seen, onnx_session
from mapl_edge.search import NEIGHBOURS, RECALL, SearchIndex

TIE = 1e-5  # relative: a place this near to a new entry may find it; rounding decides
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What the taught bundle says of a picture; `before` is the score with the entries of before."""

    score: float
    map: FloatArray
    before: float
    finds_new: bool


class Reference:
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

    def look(self, picture: UInt8Array, *, only_new: bool = False) -> Answer:
        """Read a prepared picture, before and after; with `only_new` not at all where no place finds a new entry."""
        seen = self._encoder(picture)
        before, now = self.nearest(seen)
        finds_new = bool((now >= self._old).any())
        nan = Answer(float("nan"), np.zeros((0, 0), np.float32), float("nan"), False)
        if only_new and not finds_new:
            return nan
        score, plane = self._decoded(seen, now)
        return Answer(score, plane, self._decoded(seen, before)[0] if finds_new and not only_new else score, finds_new)

    def _decoded(self, seen: Seen, index: IntArray) -> tuple[float, FloatArray]:
        score, plane = self._decoder.run(["score", "map"], seen.levels | {"index": index[None]})
        return float(score[0]), plane[0]


def golden_answers(
    golden: Golden, pictures: UInt8Array, reference: Reference
) -> tuple[Golden, list[Answer], dict[str, AnyArray]]:
    """Golden pictures and the taught ones with their answers now; the taught ones' answers; what a delta has to keep.

    Where no place finds a new entry the trained model's own answer stays; the others are answered by `reference`.
    """
    with ThreadPoolExecutor(WORKERS) as workers:
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


def require_found(work: Path, encoder: PlaceEncoder, reference: Reference, pictures: UInt8Array) -> None:
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


def entries_from_pictures(
    encoder: PlaceEncoder, pictures: UInt8Array, vectors: FloatArray, patches: int, first_source: int
) -> Entries:
    """What good parts, prepared, uint8 (N, H, W, 3), bring to the memory: the places farthest from it."""
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


def _squares(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """Squared distances, float32 (Q, K)."""
    found = np.square(queries).sum(1)[:, None] + np.square(vectors).sum(1) - 2 * queries @ vectors.T
    return np.asarray(found, np.float32)
