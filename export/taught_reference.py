"""A taught memory's own reference: what to add of a part, and what the bundle must answer with it, by a third way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from mapl_edge.bundle import (
    DECODER,
    MEMORY,
    Golden,
)
from mapl_edge.engine import Reading
from mapl_edge.errors import ParityError
from mapl_edge.export.memory_graph import Entries, PlaceEncoder, Seen
from mapl_edge.export.onnx_session import Product, onnx_session, product_with
from mapl_edge.search import NEIGHBOURS, RECALL, SearchIndex

TIE = 1e-5  # relative: a place this near to a new entry may find it; rounding decides
BLOCK = 256  # queries compared at a time: their distances stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Answer:
    """What the taught bundle says of a picture.

    Attributes:
        now: with the new entries; None where nobody needs it.
        before: without them; None likewise.
        found: the nearest of all entries to each query, int64 (Q,).
    """

    now: Reading | None
    before: Reading | None
    found: IntArray


class Reference:
    """The new bundle's encoder and decoder with a search of its own: every query against every entry.

    It shares neither the copy of the memory that fused graph and index search nor their way to search it.
    """

    def __init__(self, work: Path, old: FloatArray, new: FloatArray) -> None:
        self._decoder, self._old = onnx_session(work / DECODER), len(old)
        self.vectors = np.concatenate([old, new])
        self._compare = _comparison_with(self.vectors)

    def nearest(self, seen: Seen) -> tuple[IntArray, IntArray]:
        """The nearest entry to each query, int64 (Q,): of those before, and of all."""
        before, now = (np.empty(len(seen.queries), np.int64) for _ in range(2))
        for start in range(0, len(seen.queries), BLOCK):
            distances = self._compare(seen.queries[start : start + BLOCK])
            old = distances[:, : self._old].argmin(1)
            new = self._old + distances[:, self._old :].argmin(1)
            place = np.arange(len(distances))
            before[start : start + BLOCK] = old
            now[start : start + BLOCK] = np.where(distances[place, new] < distances[place, old], new, old)
        return before, now

    def look_if_changed(self, seen: Seen) -> Answer:
        """Like `look`, but not where no place finds a new entry: the answer is that of before then."""
        found = self.nearest(seen)[1]
        return Answer(self._decoded(seen, found) if (found >= self._old).any() else None, None, found)

    def look(self, seen: Seen) -> Answer:
        """Read a picture that the encoder has seen, with the new entries and without them."""
        before, now = self.nearest(seen)
        return Answer(self._decoded(seen, now), self._decoded(seen, before), now)

    def _decoded(self, seen: Seen, index: IntArray) -> Reading:
        score, plane, nearest = self._decoder.run(["score", "map", "nearest"], seen.levels | {"index": index[None]})
        return Reading(float(score[0]), plane[0], int(nearest[0]))


def golden_answers(
    golden: Golden, looks: Sequence[Answer], pictures: UInt8Array, taught: Sequence[Answer]
) -> tuple[Golden, dict[str, AnyArray]]:
    """Golden pictures and the taught ones with their answers now; what a delta has to keep.

    Where no place finds a new entry the trained model's own answer stays; the others get the reference's.

    Args:
        golden: of the bundle before.
        looks: what the reference says of its pictures (`Reference.look_if_changed`).
        pictures: that were taught, prepared, uint8 (N, H, W, 3).
        taught: what the reference says of them.
    """
    changed = [i for i, look in enumerate(looks) if look.now is not None]
    answers = [look.now for look in (*looks, *taught) if look.now is not None]
    scores, maps = np.array([one.score for one in answers], np.float32), np.stack([one.map for one in answers])
    all_scores, all_maps = (
        np.concatenate([was, new[len(changed) :]]) for was, new in ((golden.scores, scores), (golden.maps, maps))
    )
    all_scores[changed], all_maps[changed] = scores[: len(changed)], maps[: len(changed)]
    whole = Golden(np.concatenate([golden.pictures, pictures]), all_scores, all_maps, golden.pattern)
    return whole, {"changed": np.array(changed, np.int64), "golden_scores": scores, "golden_maps": maps}


def require_found(
    work: Path, reach: float | None, reference: Reference, seen: Sequence[Seen], answers: Sequence[Answer]
) -> None:
    """The index must find in the taught pictures what comparing with every entry finds."""
    index = SearchIndex(work / MEMORY, threads=1, reach=reach)
    for one, answer in zip(seen, answers, strict=True):
        found = index.search(one.queries[None])[0]
        far, near = (np.square(one.queries - reference.vectors[which]).sum(1) for which in (found, answer.found))
        right = float((far <= near + TIE * np.square(one.queries).sum(1)).mean())
        if right < RECALL:
            raise ParityError(
                f"{MEMORY} finds the nearest entry at {right:.1%} of a taught part's places, expected at least "
                f"{RECALL:.0%}; nothing was taught: train again with this part"
            )
    index.close()


def entries_from_seen(
    encoder: PlaceEncoder, pictures: Sequence[Seen], vectors: FloatArray, patches: int, first_source: int
) -> Entries:
    """What good parts bring to the memory: the places farthest from it, whose `vectors` are given."""
    found: list[Entries] = []
    for source, seen in enumerate(pictures, start=first_source):
        chosen = _farthest_first(seen, vectors, patches)
        of_part = seen.entries(chosen, source)
        codes = encoder.vectors(of_part)
        vectors = np.concatenate([vectors, codes])
        if len(of_part.spread):
            squares = np.square(codes).sum(1, keepdims=True) + _comparison_with(vectors)(codes)
            near = np.sort(squares, 1)[:, 1 : 1 + NEIGHBOURS]  # the first is the patch itself
            of_part = replace(of_part, spread=np.sqrt(near).mean(1).clip(1).astype(np.float32))
        found.append(of_part)
    more = found[0]
    for few in found[1:]:
        more = more.and_also(few)
    return more


def _farthest_first(seen: Seen, vectors: FloatArray, count: int) -> IntArray:
    """Places farthest from all vectors and from those chosen before them; fewer where the rest is in the memory."""
    lengths = np.square(seen.queries).sum(1)
    distance, negligible = lengths + _comparison_with(vectors)(seen.queries).min(1), TIE * lengths
    chosen: list[int] = []
    while len(chosen) < min(count, len(distance)):
        farthest = int(distance.argmax())
        if chosen and distance[farthest] <= negligible[farthest]:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.square(seen.queries - seen.queries[farthest]).sum(1))
    return np.array(chosen, np.int64)


def _comparison_with(vectors: FloatArray) -> Product:
    """What compares every query with every vector, float32 (K, S): (Q, S) → |q - v|² less |q|², (Q, K)."""
    multiply = product_with(np.concatenate([-2 * vectors, np.square(vectors).sum(1, keepdims=True)], 1).T)
    return lambda queries: multiply(np.concatenate([queries, np.ones((len(queries), 1), np.float32)], 1))
