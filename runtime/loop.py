"""The loop that keeps the inspector alive: take a shot, inspect, emit, until the source ends or stop is set."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum

from mapl_edge.runtime.inspector import Inspection, Inspects
from mapl_edge.runtime.sinks import ExpectingSink, LateSink, Sink
from mapl_edge.runtime.slot import Closed, NewestSlot
from mapl_edge.runtime.sources import Shot, Source
from mapl_edge.verdict import Outcome, Verdict

WAIT_S = 0.1  # how soon a stop is seen while no frame comes
JOIN_S = 5.0  # how long a grabbing thread may take to end
MAX_REASONS = 100
_FIGURE = re.compile(r"\d[\d.]*")


class Drop(str, Enum):
    """Why a frame of a live source got no verdict."""

    NEWER = "a newer frame came before the inspector was free"
    STOPPED = "the run ended before it was looked at"


@dataclass
class RunSummary:
    """What a run did. A live source gave as many frames as there are verdicts and drops; any other, as verdicts.

    Attributes:
        verdicts: how many of each outcome; their sum is the number of shots taken.
        drops: frames of a live source that got no verdict, by cause.
        reasons: how many ERROR verdicts of each kind of reason, its figures taken out; at most MAX_REASONS kinds.
        examples: the first reason of each kind.
        late_results: how many real results came after their shot's verdict had gone out.
    """

    verdicts: Counter[Outcome] = field(default_factory=Counter)
    drops: Counter[Drop] = field(default_factory=Counter)
    late_results: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> None:
        """Count a verdict, and why a part was not judged."""
        self.verdicts[verdict.outcome] += 1
        if verdict.outcome is not Outcome.ERROR or not verdict.error:
            return
        kind = _FIGURE.sub("", verdict.error)
        if kind in self.examples or len(self.examples) < MAX_REASONS:
            self.examples.setdefault(kind, verdict.error)
            self.reasons[kind] += 1

    @property
    def most_frequent_reason(self) -> tuple[str, int] | None:
        """Of ERROR verdicts: the first of its kind, and how many there were; None where there was none."""
        return next(((self.examples[kind], n) for kind, n in self.reasons.most_common(1)), None)

    @property
    def frames(self) -> int:
        """Shots that got a verdict."""
        return self.verdicts.total()

    @property
    def dropped(self) -> int:
        """Frames that got none."""
        return self.drops.total()


def run(
    source: Source,
    inspector: Inspects,
    sinks: Sequence[Sink],
    stop: threading.Event | None = None,
    max_frames: int | None = None,
    summary: RunSummary | None = None,
) -> RunSummary:
    """Inspect every shot of a source, or the newest ones of a live source, and hand the verdicts to the sinks.

    Args:
        source: closed on return, for whatever reason.
        inspector: judges each shot; an `Inspector`, or a `DeadlineInspector`, which never waits for ever.
        sinks: get every inspection, in this order; closed on return.
        stop: set it from anywhere; the shot in hand still gets its verdict.
        max_frames: stop after so many verdicts.
        summary: counts on, and is returned; what it holds is true even where the run fails.

    Raises:
        CameraError: the source failed.
        OutputError: a sink cannot take a verdict.
    """
    stop = stop or threading.Event()
    summary = summary or RunSummary()
    expecting = [sink for sink in sinks if isinstance(sink, ExpectingSink)]
    with ExitStack() as at_end:
        for sink in sinks:
            at_end.callback(sink.close)
        shots = shots_of(source, stop, summary)
        at_end.callback(shots.close)
        at_end.callback(source.close)  # first: it wakes a thread that waits for a camera
        while max_frames is None or summary.frames < max_frames:
            shot = next(shots, None)
            if shot is None:
                break
            for told in expecting:
                told.expect(shot)
            inspection = inspector.inspect(shot)
            for sink in sinks:
                sink.emit(inspection)
            summary.count(inspection.verdict)
            _tell_late(inspector.late_results(), sinks, summary)
        _tell_late(inspector.late_results(), sinks, summary)
    return summary


def shots_of(source: Source, stop: threading.Event, summary: RunSummary) -> Generator[Shot, None, None]:
    """The newest shots of a live source, every shot of any other, until it ends or `stop` is set."""
    return _newest(source, stop, summary) if source.live else _every(source, stop)


def _tell_late(results: Sequence[Inspection], sinks: Sequence[Sink], summary: RunSummary) -> None:
    summary.late_results += len(results)
    for result in results:
        for sink in sinks:
            if isinstance(sink, LateSink):
                sink.late(result)


def _every(source: Source, stop: threading.Event) -> Generator[Shot, None, None]:
    shots = source.shots()
    while not stop.is_set():  # asked before the next shot is made: one that is made gets its verdict
        shot = next(shots, None)
        if shot is None:
            return
        yield shot


def _newest(source: Source, stop: threading.Event, summary: RunSummary) -> Generator[Shot, None, None]:
    slot: NewestSlot[Shot] = NewestSlot()

    def grab() -> None:
        try:
            for shot in source.shots():
                slot.put(shot)
            slot.close()
        except Closed:
            summary.drops[Drop.STOPPED] += 1  # the shot that was just made
        except BaseException as exc:  # handed to the other side, which raises it
            slot.close(exc)

    thread = threading.Thread(target=grab, name="grab", daemon=True)
    thread.start()
    try:
        while not stop.is_set():
            shot = slot.take(WAIT_S)
            if shot is not None:
                yield shot
    except Closed:
        pass
    finally:
        slot.close()
        source.close()  # wakes a thread that waits for a camera
        thread.join(JOIN_S)
        newer = slot.dropped + int(getattr(source, "replaced", 0))  # here, and in a camera's own thread
        summary.drops += Counter({Drop.NEWER: newer, Drop.STOPPED: slot.left})
