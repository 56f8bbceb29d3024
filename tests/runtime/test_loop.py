"""The loop: every shot of a file, the newest of a camera, and a clean end for any reason."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.errors import CameraError, OutputError
from mapl_edge.frame import Frame
from mapl_edge.runtime import Drop, Inspection, Inspector, RunSummary, Shot, run
from mapl_edge.testing import FakeEngine, ManualClock
from mapl_edge.verdict import Outcome, Verdict

CLOCK = ManualClock()


class ListSource:
    """Frames from memory; after them the given error, or the end."""

    def __init__(self, n: int, live: bool = False, error: Exception | None = None) -> None:
        self.live, self._n, self._error = live, n, error
        self.closed = 0
        self.given = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def shots(self) -> Iterator[Shot]:
        for seq in range(self._n):
            assert self.may_go_on.wait(10)
            self.given += 1
            yield Frame(np.full((32, 32, 3), seq % 256, np.uint8), seq, CLOCK.monotonic(), CLOCK.utc())
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1


class ListSink:
    """Keeps verdicts; calls back on each."""

    def __init__(self, on_emit: object = None) -> None:
        self.seqs: list[int] = []
        self.closed = 0
        self._on_emit = on_emit

    def emit(self, inspection: Inspection) -> None:
        self.seqs.append(inspection.verdict.seq)
        if callable(self._on_emit):
            self._on_emit(inspection)

    def close(self) -> None:
        self.closed += 1


def inspector() -> Inspector:
    """Fails above a grey of 50."""
    return Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=50 / 255), CLOCK)


def test_a_file_gets_a_verdict_for_every_shot() -> None:
    """In order, and the summary adds up."""
    source, sink = ListSource(100), ListSink()

    summary = run(source, inspector(), [sink])

    assert sink.seqs == list(range(100))
    assert summary.verdicts == {Outcome.PASS: 51, Outcome.FAIL: 49}
    assert summary.frames == 100
    assert (source.closed, sink.closed) == (1, 1)


def test_max_frames_stops_without_reading_on() -> None:
    """A camera must not be drained."""
    source, sink = ListSource(100), ListSink()

    run(source, inspector(), [sink], max_frames=3)

    assert sink.seqs == [0, 1, 2]
    assert source.given == 3


def test_newest_frame_wins_on_a_live_source() -> None:
    """While the inspector is busy with one frame the others pass; it then sees the last, and the rest are counted."""
    source = ListSource(50, live=True)
    passed = threading.Event()

    class Busy(ListSource):
        def shots(self) -> Iterator[Shot]:
            yield from source.shots()
            passed.set()

    sink = ListSink(lambda inspection: passed.wait(10))

    summary = run(Busy(0, live=True), inspector(), [sink])

    assert sink.seqs[-1] == 49
    assert summary.frames + summary.dropped == 50
    assert summary.dropped > 0


def test_stop_ends_the_run_and_closes_everything() -> None:
    """Set from a signal or another thread; the shot in hand keeps its verdict."""
    stop = threading.Event()
    source = ListSource(1000)
    sink = ListSink(lambda inspection: stop.set() if inspection.verdict.seq == 4 else None)

    summary = run(source, inspector(), [sink], stop)

    assert summary.frames == 5
    assert (source.closed, sink.closed) == (1, 1)


def test_stop_ends_a_live_source_that_gives_nothing() -> None:
    """A camera that stands still must not hold the program."""
    source = ListSource(1, live=True)
    source.may_go_on.clear()
    stop = threading.Event()
    stop.set()

    try:
        summary = run(source, inspector(), [], stop)
    finally:
        source.may_go_on.set()

    assert summary.frames == 0


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
def test_a_source_that_fails_ends_the_run_with_its_reason(live: bool) -> None:
    """After the verdicts of what it gave before."""
    source, sink = ListSource(1, live, CameraError("unplugged")), ListSink()

    with pytest.raises(CameraError, match="unplugged"):
        run(source, inspector(), [sink])

    assert sink.seqs == [0]
    assert source.closed
    assert sink.closed == 1


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
def test_a_sink_that_fails_frees_the_source(live: bool) -> None:
    """A full disk must not leave a grabbing thread behind."""
    before = threading.active_count()

    def full(inspection: Inspection) -> None:
        raise OutputError("the disk is full")

    source = ListSource(10_000, live)
    with pytest.raises(OutputError):
        run(source, inspector(), [ListSink(full)])

    assert source.closed
    assert threading.active_count() == before


def test_drops_are_counted_by_cause() -> None:
    """Frames that nobody took when the run ended are not lost from the books."""
    taken, passed = threading.Event(), threading.Event()

    class Busy(ListSource):
        def shots(self) -> Iterator[Shot]:
            for shot in super().shots():
                yield shot
                assert taken.wait(10)
            passed.set()

    def busy(inspection: Inspection) -> None:
        taken.set()
        assert passed.wait(10)

    summary = run(Busy(50, live=True), inspector(), [ListSink(busy)], max_frames=1)

    assert summary.frames == 1
    assert summary.drops[Drop.STOPPED] == 1
    assert summary.drops[Drop.NEWER] == 48


def test_the_most_frequent_reason_is_counted_without_its_figures() -> None:
    """A reason that names its figures is one kind; other verdicts have none; memory is bounded."""
    summary = RunSummary()
    words = [
        *(f"no frame within {n}.5 ms" for n in range(3)),
        "a broken picture",
        *(f"kind {'x' * n}" for n in range(200)),
    ]

    for error in words:
        summary.count(Verdict(Outcome.ERROR, 0, "", CLOCK.utc(), None, None, error=error))
    summary.count(Verdict(Outcome.PASS, 0, "", CLOCK.utc(), 0.1, 0.5))

    assert summary.most_frequent_reason == ("no frame within 0.5 ms", 3)
    assert summary.verdicts == {Outcome.ERROR: 204, Outcome.PASS: 1}
    assert len(summary.reasons) == len(summary.examples) == 100
    assert RunSummary().most_frequent_reason is None


def test_a_shot_that_was_made_gets_its_verdict_though_stop_was_set_meanwhile() -> None:
    """A part that was triggered must be answered."""
    stop = threading.Event()

    class Stopped(ListSource):
        def shots(self) -> Iterator[Shot]:
            for shot in super().shots():
                if shot.seq == 2:
                    stop.set()
                yield shot

    source, sink = Stopped(10), ListSink()
    run(source, inspector(), [sink], stop)

    assert source.given == 3
    assert sink.seqs == [0, 1, 2]


def test_a_shot_is_expected_before_it_is_inspected() -> None:
    """A sink that keeps accounts must know of a shot that never comes back; the others need not care."""
    heard: list[tuple[str, int]] = []

    class Accounts(ListSink):
        def expect(self, shot: Shot) -> None:
            heard.append(("expect", shot.seq))

        def emit(self, inspection: Inspection) -> None:
            heard.append(("emit", inspection.verdict.seq))

    run(ListSource(2), inspector(), [ListSink(), Accounts()])

    assert heard == [("expect", 0), ("emit", 0), ("expect", 1), ("emit", 1)]
