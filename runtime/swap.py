"""Swap: an inspector that is exchanged between two frames. Each verdict says what it was judged with."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mapl_edge.masks import InspectedArea
from mapl_edge.runtime.inspector import Inspection, Inspects
from mapl_edge.runtime.sources import Shot
from mapl_edge.verdict import ErrorCode, Outcome

MOST_BEFORE = 4  # swaps ago; by then an engine that was stuck has been given up


def _nobody(seq: int) -> None:
    """Nobody needs to know."""


@dataclass(frozen=True, slots=True, eq=False)
class Judging:
    """What the shots of one camera are judged with.

    Attributes:
        engine: what `inspector` asks; whoever owns it closes it once no camera uses it.
        digests: of bundle and calibration, as they stand in verdicts.
        area: what has the masks; it suits the camera's pictures.
        begin: is told the number of the first shot, in the camera's thread; cheap, since that shot waits for it.
    """

    inspector: Inspects
    engine: object
    digests: Mapping[str, str]
    area: InspectedArea | None = None
    begin: Callable[[int], None] = _nobody

    def sign(self, inspection: Inspection) -> Inspection:
        """Say in the verdict what it was judged with."""
        return replace(inspection, verdict=replace(inspection.verdict, judged_by=self.digests))


class SwapInspector:
    """Judges one camera's shots with what is in force, and goes over to something else between two of them.

    See `Inspects`; `swap` and `uses` are called from any thread.

    Attributes:
        last: the newest shot.
    """

    def __init__(self, first: Judging) -> None:
        self._lock = threading.Lock()
        self._now, self._next = first, first
        self._was_late = False  # a shot of what is in force, whose result may still come
        self._before: deque[Judging] = deque(maxlen=MOST_BEFORE)
        self.last: Shot | None = None

    def swap(self, after: Judging) -> None:
        """Judge with it from the next shot on; one that still waited for its first shot never gets any."""
        with self._lock:
            self._next = after

    def uses(self, engine: object) -> bool:
        """Whether a shot may still be given to this engine."""
        with self._lock:
            return engine in (self._now.engine, self._next.engine)

    def inspect(self, shot: Shot) -> Inspection:
        """See `Inspects`."""
        with self._lock:
            begins = self._next is not self._now
            if begins:
                if self._was_late:
                    self._before.append(self._now)
                self._now, self._was_late = self._next, False
            now = self._now
        if begins:
            now.begin(shot.seq)
        inspection = now.sign(now.inspector.inspect(shot))
        verdict = inspection.verdict  # of an engine that was given up as stuck a result may come as well
        self._was_late |= verdict.outcome is Outcome.LATE or verdict.code is ErrorCode.ENGINE
        self.last = shot
        return inspection

    def late_results(self) -> Sequence[Inspection]:
        """See `Inspects`; also of shots from before the last swaps."""
        return [way.sign(each) for way in (*self._before, self._now) for each in way.inspector.late_results()]
