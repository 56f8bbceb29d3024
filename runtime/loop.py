"""The loop that keeps the inspector alive: take a shot, inspect, emit, until the source ends or stop is set."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from mapl_edge.runtime.inspector import Inspector
from mapl_edge.runtime.sinks import Sink
from mapl_edge.runtime.slot import Closed, NewestSlot
from mapl_edge.runtime.sources import Shot, Source
from mapl_edge.verdict import Outcome

WAIT_S = 0.1  # how soon a stop is seen while no frame comes
JOIN_S = 5.0  # how long a grabbing thread may take to end


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        verdicts: how many of each outcome; their sum is the number of shots taken.
        dropped: frames of a live source that a newer one replaced before the inspector was free.
    """

    verdicts: Counter[Outcome] = field(default_factory=Counter)
    dropped: int = 0

    @property
    def frames(self) -> int:
        """Shots that got a verdict."""
        return self.verdicts.total()


def run(
    source: Source,
    inspector: Inspector,
    sinks: Sequence[Sink],
    stop: threading.Event | None = None,
    max_frames: int | None = None,
) -> RunSummary:
    """Inspect every shot of a source, or the newest ones of a live source, and hand the verdicts to the sinks.

    Args:
        source: closed on return, for whatever reason.
        inspector: judges each shot.
        sinks: get every inspection, in this order; closed on return.
        stop: set it from anywhere; the shot in hand still gets its verdict.
        max_frames: stop after so many verdicts.

    Raises:
        CameraError: the source failed.
        OutputError: a sink cannot take a verdict.
    """
    stop = stop or threading.Event()
    summary = RunSummary()
    with ExitStack() as at_end:
        for sink in sinks:
            at_end.callback(sink.close)
        at_end.callback(source.close)
        shots = _newest(source, stop, summary) if source.live else _every(source, stop)
        at_end.callback(shots.close)
        while max_frames is None or summary.frames < max_frames:
            shot = next(shots, None)
            if shot is None:
                break
            inspection = inspector.inspect(shot)
            for sink in sinks:
                sink.emit(inspection)
            summary.verdicts[inspection.verdict.outcome] += 1
    return summary


def _every(source: Source, stop: threading.Event) -> Generator[Shot, None, None]:
    for shot in source.shots():
        if stop.is_set():
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
            pass
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
        thread.join(JOIN_S)
        summary.dropped = slot.dropped
