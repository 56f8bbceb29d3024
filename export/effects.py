"""Effects: what teaching does to the parts whose label is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.calibration import Calibration, Limits
from mapl_edge.engine import Engine
from mapl_edge.export.known_parts import KnownParts, Part
from mapl_edge.gauge import Gauge, Mark, defect_marks, good_marks
from mapl_edge.parity import FP32_TOLERANCE
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.verdict import Outcome

EXACT = "onnxruntime-fp32"  # engines whose scores in calibration.yaml are taken as they are

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Effect:
    """What teaching does to one part.

    Attributes:
        kind: taught, good or defect.
        mark_before, mark_after: what the limits look at.
        before, after: PASS, REVIEW or FAIL, by the limits before and after; None without limits.
    """

    kind: str
    name: str
    mark_before: Mark
    mark_after: Mark
    before: Outcome | None = None
    after: Outcome | None = None

    @property
    def score_before(self) -> float:
        """The score before."""
        return self.mark_before.score

    @property
    def score_after(self) -> float:
        """The score now."""
        return self.mark_after.score

    @property
    def changes(self) -> bool:
        """Whether the part would go another way."""
        return self.before is not self.after

    @property
    def moves(self) -> bool:
        """Whether score or level differ by more than those of two engines of one bundle may."""
        pairs = zip(self.mark_before, self.mark_after, strict=True)
        return any(
            not abs(after - before) <= FP32_TOLERANCE * max(1.0, abs(before))  # NaN moves too
            for before, after in pairs
            if before is not None and after is not None
        )

    @property
    def is_missed_now(self) -> bool:
        """A known defect that was stopped before and would pass now."""
        return self.kind == "defect" and self.after is Outcome.PASS and self.before is not Outcome.PASS

    def judged(self, old: Limits, new: Limits) -> Effect:
        """With the verdicts of both limits."""
        return replace(self, before=self.mark_before.verdict(old), after=self.mark_after.verdict(new))

    def as_json(self) -> dict[str, Any]:
        """Plain values; without levels where there is no pixel limit."""
        (score_before, level_before), (score_after, level_after) = self.mark_before, self.mark_after
        levels = {"level_before": level_before, "level_after": level_after}
        return {
            "kind": self.kind,
            "name": self.name,
            "score_before": score_before,
            "score_after": score_after,
            **(levels if level_before is not None or level_after is not None else {}),
            "before": self.before and self.before.value,
            "after": self.after and self.after.value,
        }

    def __str__(self) -> str:
        verdicts = [verdict.value if verdict else "no limit" for verdict in (self.before, self.after)]
        scores = f"score {self.score_before:.4g} -> {self.score_after:.4g}"
        return f"{self.kind} {self.name}: {verdicts[0]} -> {verdicts[1]} ({scores})"


def recorded_marks(calibration: Calibration | None) -> dict[str, Mark]:
    """By SHA-256, what calibration.yaml holds of its parts."""
    if calibration is None:
        return {}
    good = zip(calibration.pictures.values(), good_marks(calibration), strict=False)  # none, or one each
    return dict(good) | dict(zip(calibration.defects.values(), defect_marks(calibration), strict=False))


def is_exact(calibration: Calibration | None) -> bool:
    """Whether its scores came from an engine that teaching need not ask again."""
    return calibration is not None and calibration.engine.startswith(EXACT)


def mark_of(part: Part, engine: Engine, gauge: Gauge) -> Mark:
    """What an engine says of a part."""
    image = picture_from_file(part.path)
    return gauge(engine.infer(prepare(image, gauge.contract)), image.shape[:2])


class KnownEffects:
    """What teaching does to the known parts, looked at by whichever threads lend a hand.

    Args:
        known: the parts.
        marks: of before, by SHA-256.
        taught: pictures that are taught, prepared, uint8 (N, H, W, 3). A good part among them keeps its mark of before:
            left out, the limit would come from the others alone, as if those with the highest scores had not been.
        taught_before: SHA-256 of those taught before, which keep theirs too.
        gauge: what counts of a reading.
        engines: of the bundle before, for parts without a mark (None where each has one), and of the new one.
    """

    def __init__(
        self,
        known: KnownParts,
        marks: dict[str, Mark],
        taught: UInt8Array,
        taught_before: Collection[str],
        gauge: Gauge,
        engines: tuple[Engine | None, Engine],
    ) -> None:
        self._labelled = [*(("good", part) for part in known.good), *(("defect", part) for part in known.defects)]
        self._look = partial(_effect_on, marks=marks, taught=taught, known=taught_before, gauge=gauge, engines=engines)
        self._found: list[Future[Effect]] = [Future() for _ in self._labelled]
        self._left = deque(range(len(self._labelled)))

    def lend_a_hand(self) -> None:
        """Look at parts until none is left that nobody looks at."""
        while True:
            try:
                index = self._left.popleft()
            except IndexError:
                return
            try:
                self._found[index].set_result(self._look(self._labelled[index]))
            except BaseException as exc:  # handed to whoever waits, who raises it
                self._found[index].set_exception(exc)

    def stop(self) -> None:
        """Look at no further part; nobody may wait then."""
        self._left.clear()

    def wait(self, progress: Progress) -> list[tuple[Effect, Part]]:
        """All effects, in the order of the parts; `progress` is called as progress(what, done, total)."""
        effects: list[tuple[Effect, Part]] = []
        for done, ((_, part), found) in enumerate(zip(self._labelled, self._found, strict=True), 1):
            effects.append((found.result(), part))
            progress("scoring known parts", done, len(self._labelled))
        return effects


def _effect_on(
    labelled: tuple[str, Part],
    marks: dict[str, Mark],
    taught: UInt8Array,
    known: Collection[str],
    gauge: Gauge,
    engines: tuple[Engine | None, Engine],
) -> Effect:
    (kind, part), (old, new) = labelled, engines
    image = picture_from_file(part.path)
    picture, picture_hw = prepare(image, gauge.contract), image.shape[:2]
    before = marks.get(part.digest)
    if before is None:
        assert old is not None, "a part without a mark"
        before = gauge(old.infer(picture), picture_hw)
    if kind == "good" and (part.digest in known or any(np.array_equal(picture, one) for one in taught)):
        return Effect(kind, part.name, before, before)
    return Effect(kind, part.name, before, gauge(new.infer(picture), picture_hw))


def of_kind(effects: Sequence[tuple[Effect, Part]], kind: str) -> list[tuple[Effect, Part]]:
    """Those on good parts, or on defects."""
    return [(effect, part) for effect, part in effects if effect.kind == kind]
