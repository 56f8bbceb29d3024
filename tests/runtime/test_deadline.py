"""Deadline: every shot gets exactly one verdict, on time, whatever the engine does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.engine import BaseEngine
from mapl_edge.errors import BackendError
from mapl_edge.frame import Frame
from mapl_edge.runtime import Blank, DeadlineInspector, Inspection, Inspector, Patience, Shot, run
from mapl_edge.runtime import watchdog as watchdog_module
from mapl_edge.runtime.watchdog import Watchdog
from mapl_edge.testing import HangingEngine, ManualClock
from mapl_edge.verdict import Action, Outcome, Policy

BUDGET_S = 0.1
PATIENCE = Patience(stuck_s=1.0, restarts=2, window_s=100.0)
REJECT = Policy()
Before = Callable[[int], None]


class Bench:
    """A deadline inspector on a manual clock, which moves only while the engine in service hangs.

    Args:
        faults: one list per engine of the station; each time the engine is opened its `before` is the next of these
            (the last one for ever). An exception instead is raised where the engine is opened.
    """

    def __init__(
        self, *faults: Sequence[Before | Exception], patience: Patience = PATIENCE, policy: Policy = REJECT
    ) -> None:
        self.clock = ManualClock()
        self.opened: list[tuple[int, float, HangingEngine]] = []
        self._faults = faults
        inspector_of = partial(
            Inspector,
            contract=InputContract(size_hw=(32, 32)),
            limits=Limits(fail=0.5),
            clock=self.clock,
            policy=policy,
        )
        engines = [partial(self._open, index) for index in range(len(faults))]
        self.watchdog = Watchdog(engines, patience, self.clock, self._wait)
        self.inspector_of = inspector_of
        self.inspector = DeadlineInspector(self.watchdog, inspector_of, 1e3 * BUDGET_S, policy)
        self.seq = 0

    def shot(self, age_s: float = 0.0) -> Frame:
        """A picture, taken so long ago."""
        self.seq += 1
        image = np.full((32, 32, 3), 10, np.uint8)
        return Frame(image, self.seq - 1, self.clock.monotonic() - age_s, self.clock.utc())

    def inspect(self) -> Inspection:
        """A picture taken now."""
        return self.inspector.inspect(self.shot())

    def late(self) -> Inspection:
        """The next late result, waiting for it."""
        until = time.monotonic() + 10
        while not (found := self.inspector.late_results()):
            assert time.monotonic() < until
            time.sleep(0.001)
        (one,) = found
        return one

    def __enter__(self) -> Bench:
        self.watchdog.open()
        return self

    def __exit__(self, *error: object) -> None:
        for _, _, engine in self.opened:
            engine.release()
        self.watchdog.close()

    def _open(self, index: int) -> HangingEngine:
        count = sum(each == index for each, _, _ in self.opened)
        fault = self._faults[index][min(count, len(self._faults[index]) - 1)]
        engine = HangingEngine()
        if not isinstance(fault, Exception):
            engine = HangingEngine(lambda call: fault(call))
            engine.faults = fault  # type: ignore[attr-defined]
        engine.name = f"{'ABC'[index]}{count}"
        self.opened.append((index, self.clock.monotonic(), engine))
        if isinstance(fault, Exception):
            raise fault
        return engine

    def _wait(self, changed: threading.Condition, told: Callable[[], bool], timeout_s: float) -> None:
        until, due = time.monotonic() + 10, self.clock.monotonic() + timeout_s
        while not changed.wait_for(told, 0.001 if timeout_s else 0) and self.clock.monotonic() < due:
            assert time.monotonic() < until, "the engine neither answers nor hangs"
            if self.opened[-1][2].is_hanging.is_set():
                self.clock.advance(max(0.0, due - self.clock.monotonic()))
                return


def fine(call: int) -> None:
    """An engine that answers."""


def raises(error: Exception) -> Before:
    """An engine whose every call raises."""

    def before(call: int) -> None:
        raise error

    return before


def hangs_in(bench: list[Bench], *calls: int) -> Before:
    """The engine opened last hangs in these calls."""

    def before(call: int) -> None:
        if call in calls:
            bench[0].opened[-1][2].hang()

    return before


@pytest.fixture
def hanging_at() -> Callable[..., Bench]:
    """A bench whose first engine hangs in the calls given each time it is opened; a second one answers if asked for."""

    def make(*calls: int, standby: bool = False, policy: Policy = REJECT) -> Bench:
        holder: list[Bench] = []
        holder.append(Bench([hangs_in(holder, *calls)], *([[fine]] if standby else []), policy=policy))
        return holder[0]

    return make


def test_a_shot_in_time_gets_what_the_engine_says() -> None:
    """The deadline changes nothing about it."""
    with Bench([fine]) as bench:
        inspection = bench.inspect()

    assert inspection.verdict.outcome is Outcome.PASS
    assert inspection.verdict.score == pytest.approx(10 / 255)


def test_late_at_the_deadline_while_the_engine_hangs(hanging_at: Callable[..., Bench]) -> None:
    """The verdict goes out at the deadline of this shot, from its capture, and says why."""
    with hanging_at(0, policy=Policy(on_late=Action.REVIEW)) as bench:
        shot = bench.shot(age_s=0.06)
        verdict = bench.inspector.inspect(shot).verdict

        assert bench.clock.monotonic() == pytest.approx(shot.t_mono + BUDGET_S)
    assert (verdict.outcome, verdict.action, verdict.score) == (Outcome.LATE, Action.REVIEW, None)
    waited = "the part waited 60 ms for the engine; "
    assert verdict.error == f"no answer within 100 ms of capture: {waited}A0 is busy for 40 ms"
    assert verdict.stage_ms.total == pytest.approx(100)


def test_a_late_part_says_whether_it_waited(hanging_at: Callable[..., Bench]) -> None:
    """A slow engine and a long queue want different remedies."""
    with hanging_at(0) as bench:
        taken = bench.inspect().verdict.error
        behind = bench.inspect().verdict.error

    assert taken == "no answer within 100 ms of capture: A0 is busy for 100 ms"
    never = "the part waited 100 ms and never reached the engine; "
    assert behind == f"no answer within 100 ms of capture: {never}A0 is busy for 200 ms"


def test_the_real_result_is_told_as_late_and_changes_nothing(hanging_at: Callable[..., Bench]) -> None:
    """Once, with its own shot; the next shots are the engine's again."""
    with hanging_at(0) as bench:
        first = bench.inspect()
        bench.opened[0][2].release()
        late = bench.late()
        second = bench.inspect()

        assert (first.verdict.outcome, late.verdict.outcome) == (Outcome.LATE, Outcome.PASS)
        assert late.shot is first.shot
        assert second.verdict.outcome is Outcome.PASS
        assert bench.inspector.late_results() == []


def test_an_answer_after_the_deadline_is_late_though_nobody_looked_before() -> None:
    """An engine that keeps the whole machine busy must not buy itself time."""
    holder: list[Bench] = []

    def slow(call: int) -> None:
        holder[0].clock.advance(0.2)

    holder.append(Bench([slow]))
    with holder[0] as bench:
        verdict = bench.inspect().verdict
        late = bench.late()

    assert verdict.outcome is Outcome.LATE
    assert late.verdict.seq == verdict.seq


def test_shots_behind_a_stuck_one_are_late_at_their_own_deadlines(hanging_at: Callable[..., Bench]) -> None:
    """They never reach the engine, so that it is not late with them too."""
    with hanging_at(0) as bench:
        bench.inspect()
        second = bench.inspect()
        assert bench.clock.monotonic() == pytest.approx(second.shot.t_mono + BUDGET_S)
        bench.opened[0][2].release()
        bench.late()

        assert second.verdict.outcome is Outcome.LATE
        assert bench.inspect().verdict.outcome is Outcome.PASS
        assert bench.opened[0][2].calls == 2


def test_a_shot_that_comes_too_late_is_not_given_to_the_engine() -> None:
    """It could only make the next one late."""
    with Bench([fine]) as bench:
        verdict = bench.inspector.inspect(bench.shot(age_s=0.2)).verdict

        assert verdict.outcome is Outcome.LATE
        assert bench.opened[0][2].calls == 0


def test_a_blank_is_an_error_at_once(hanging_at: Callable[..., Bench]) -> None:
    """There is nothing to wait for, even while the engine is stuck."""
    with hanging_at(0) as bench:
        bench.inspect()
        before = bench.clock.monotonic()
        blank = Blank(1, before, bench.clock.utc(), "x.png", "truncated")
        verdict = bench.inspector.inspect(blank).verdict

        assert (verdict.outcome, verdict.error) == (Outcome.ERROR, "truncated")
        assert bench.clock.monotonic() == before


def test_an_engine_that_raises_now_and_then_gives_error_verdicts_and_stays() -> None:
    """What an engine says of one part is no reason to lose it."""

    number = count()

    def two_of_three(call: int) -> None:
        if next(number) % 3:
            raise BackendError("out of memory")

    with Bench([two_of_three], policy=Policy(on_error=Action.PASS)) as bench:
        verdicts = [bench.inspect().verdict for _ in range(12)]

    assert {(v.outcome, v.error, v.action) for v in verdicts[1:3]} == {(Outcome.ERROR, "out of memory", Action.PASS)}
    assert [v.outcome for v in verdicts] == [Outcome.PASS, Outcome.ERROR, Outcome.ERROR] * 4
    assert len(bench.opened) == 1


def test_an_engine_that_only_fails_is_replaced_while_another_may_be_started(caplog: pytest.LogCaptureFixture) -> None:
    """A GPU that is lost raises at every call and never dies; the last engine that may be started stays."""
    lost = raises(BackendError("CUDA error 719"))

    def lost_later(call: int) -> None:
        if call >= 3:
            lost(call)

    with Bench([lost], [lost_later, lost]) as bench:
        verdicts = [bench.inspect().verdict for _ in range(3 * PATIENCE.failures + 3)]
        first = [engine for index, _, engine in bench.opened if index == 0]
        eventually(lambda: all(engine.closed for engine in first))
        more = [bench.inspect().verdict.outcome for _ in range(20)]

    assert [v.outcome for v in verdicts] == [Outcome.ERROR] * 3 * PATIENCE.failures + [Outcome.PASS] * 3
    assert {v.error for v in verdicts[:-3]} == {"CUDA error 719"}
    assert caplog.messages[0] == "A0 failed 3 times in a row: CUDA error 719"
    assert set(more) == {Outcome.ERROR}
    assert [index for index, _, _ in bench.opened] == [0, 0, 0, 1, 1, 1]


def test_an_engine_that_dies_is_an_error_and_another_starts() -> None:
    """A fault of ours on the frame path must not stop the station."""
    with Bench([raises(RuntimeError("segment lost")), fine]) as bench:
        first, second = bench.inspect().verdict, bench.inspect().verdict

    assert first.outcome is Outcome.ERROR
    assert first.error == "A0 failed: RuntimeError: segment lost"
    assert second.outcome is Outcome.PASS
    assert [index for index, _, _ in bench.opened] == [0, 0]


def test_a_stuck_engine_is_given_up_and_the_same_started_again(hanging_at: Callable[..., Bench]) -> None:
    """After `stuck_s`, not before; what it answers later still is late."""
    with hanging_at(0) as bench:
        while len(bench.opened) == 1:
            assert bench.inspect().verdict.outcome is Outcome.LATE
        given_up_at = bench.opened[1][1]
        bench.opened[0][2].release()

        assert given_up_at == pytest.approx(PATIENCE.stuck_s, abs=BUDGET_S)
        assert bench.late().verdict.seq == 0
        assert not bench.opened[1][2].closed


def test_the_shot_in_a_stuck_engine_is_an_error_once_it_is_given_up() -> None:
    """With a budget longer than the patience there is nothing left to wait for."""
    holder: list[Bench] = []
    holder.append(Bench([hangs_in(holder, 0), fine], patience=Patience(stuck_s=0.05)))
    with holder[0] as bench:
        verdict = bench.inspect().verdict
        assert bench.clock.monotonic() == pytest.approx(0.05)

        assert (verdict.outcome, verdict.error) == (Outcome.ERROR, "A0 gave no answer for 50 ms and was given up")
        assert bench.inspect().verdict.outcome is Outcome.PASS


def test_the_next_engine_takes_over_when_one_has_used_up_its_restarts() -> None:
    """And keeps the place: the one that failed is not tried again while this works."""
    dies = raises(RuntimeError("no GPU"))
    with Bench([dies], [fine]) as bench:
        outcomes = [bench.inspect().verdict.outcome for _ in range(6)]
        bench.clock.advance(1000)
        outcomes.append(bench.inspect().verdict.outcome)

    assert outcomes == [Outcome.ERROR] * 3 + [Outcome.PASS] * 4
    assert [index for index, _, _ in bench.opened] == [0, 0, 0, 1]


def test_an_engine_that_does_not_open_is_passed_over() -> None:
    """Its library may have gone with the device."""
    with Bench([raises(RuntimeError("no GPU")), BackendError("no device")], [fine]) as bench:
        outcomes = [bench.inspect().verdict.outcome for _ in range(2)]

    assert outcomes == [Outcome.ERROR, Outcome.PASS]
    assert [index for index, _, _ in bench.opened] == [0, 0, 0, 1]


def test_errors_flow_when_all_restarts_are_used_up_until_the_window_has_passed() -> None:
    """At once, without waiting for a deadline; then it is tried again, and once more."""
    with Bench([raises(RuntimeError("no GPU"))] * 1) as bench:
        verdicts = [bench.inspect().verdict for _ in range(10)]
        before = bench.clock.monotonic()
        opened = len(bench.opened)
        bench.clock.advance(PATIENCE.window_s)
        bench.inspect()

    assert {v.outcome for v in verdicts} == {Outcome.ERROR}
    assert verdicts[-1].error is not None
    assert verdicts[-1].error.endswith("no GPU; all 2 restarts within 100 s are used up")
    assert (before, opened, len(bench.opened)) == (0.0, 3, 5)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog looks a hundred times a second, so that nobody waits for it."""
    monkeypatch.setattr(watchdog_module, "LOOK_S", 0.01)


@pytest.mark.usefixtures("soon")
def test_a_stuck_engine_is_replaced_while_the_line_stands_still() -> None:
    """Not before `stuck_s`; the first shot after the break meets one that is loaded, and is not LATE."""
    holder: list[Bench] = []
    holder.append(Bench([hangs_in(holder, 0), fine]))
    with holder[0] as bench:
        assert bench.inspect().verdict.outcome is Outcome.LATE
        bench.clock.advance(0.9 * PATIENCE.stuck_s - BUDGET_S)
        time.sleep(0.1)  # ten looks
        assert len(bench.opened) == 1
        bench.clock.advance(0.2 * PATIENCE.stuck_s)
        eventually(lambda: len(bench.opened) == 2 and bench.watchdog.worker is not None)
        eventually(lambda: bench.opened[1][2].loaded)
        ready_at = bench.clock.monotonic()
        after = bench.inspect().verdict

        assert after.outcome is Outcome.PASS
        assert after.stage_ms.total == 0
        assert bench.clock.monotonic() == ready_at


@pytest.mark.usefixtures("soon")
def test_the_next_engine_is_ready_before_the_next_shot_where_one_does_not_open_again() -> None:
    """All of it while the line stands still; restarts stay bounded."""
    holder: list[Bench] = []
    holder.append(Bench([hangs_in(holder, 0), RuntimeError("no GPU")], [fine]))
    with holder[0] as bench:
        bench.inspect()
        bench.clock.advance(PATIENCE.stuck_s)
        eventually(lambda: len(bench.opened) == 4 and bench.opened[-1][2].loaded)
        time.sleep(0.05)

        assert [index for index, _, _ in bench.opened] == [0, 0, 0, 1]
        assert bench.inspect().verdict.outcome is Outcome.PASS


@pytest.mark.usefixtures("soon")
def test_a_closed_watchdog_starts_nothing(hanging_at: Callable[..., Bench]) -> None:
    """Its run has ended, whatever its engine still does."""
    with hanging_at(0) as bench:
        bench.inspect()
    bench.clock.advance(10 * PATIENCE.stuck_s)
    time.sleep(0.05)

    assert len(bench.opened) == 1


def test_the_first_engine_must_load() -> None:
    """A station that cannot inspect at all says so at its start."""
    bench = Bench([BackendError("no device")], patience=Patience(restarts=0))

    with pytest.raises(BackendError, match="no device"):
        bench.watchdog.open()


def test_the_end_closes_the_engine_and_its_thread() -> None:
    """Nothing is left behind."""
    before = threading.active_count()
    with Bench([fine]) as bench:
        bench.inspect()

    assert bench.opened[0][2].closed
    assert threading.active_count() == before


def test_an_engine_given_up_closes_itself_when_its_call_returns(hanging_at: Callable[..., Bench]) -> None:
    """In its own thread: to free it under a call that runs would crash the station."""
    with hanging_at(0, standby=True) as bench:
        while len(bench.opened) == 1:
            bench.inspect()
        stuck = bench.opened[0][2]
        assert not stuck.closed
        stuck.release()
        until = time.monotonic() + 10
        while not stuck.closed and time.monotonic() < until:
            time.sleep(0.001)

        assert stuck.closed


def test_by_the_real_clock_late_leaves_at_the_deadline() -> None:
    """The one test that waits: the default wait is bounded too."""
    engine = HangingEngine()
    inspector_of = partial(Inspector, contract=InputContract(size_hw=(32, 32)), limits=Limits(fail=0.5))
    with DeadlineInspector([lambda: engine], inspector_of, 50.0) as inspector:
        engine.hang()
        shot = Frame(np.zeros((32, 32, 3), np.uint8), 0, time.monotonic(), ManualClock().utc())
        inspection = inspector.inspect(shot)
        took_s = time.monotonic() - shot.t_mono
        engine.release()

    assert inspection.verdict.outcome is Outcome.LATE
    assert 0.05 <= took_s < 5


STEPS = st.sampled_from(["fine", "slow", "hang", "raise", "die", "release", "blank", "pause", "old"])


class Schedule:
    """Shots with faults between them; see `Source`."""

    def __init__(self, bench: Bench, steps: list[str], live: bool) -> None:
        self.live, self._bench, self._steps = live, bench, steps
        self.given = 0
        self.fault = "fine"

    def before(self, call: int) -> None:
        """What the engine does in this call."""
        fault, self.fault = self.fault, "fine"
        if fault == "slow":
            self._bench.clock.advance(0.15)
        elif fault == "hang":
            self._bench.opened[-1][2].hang()
        elif fault == "raise":
            raise BackendError("raised")
        elif fault == "die":
            raise RuntimeError("died")

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        clock = self._bench.clock
        for step in self._steps:
            if step == "release":
                for _, _, engine in self._bench.opened:
                    engine.release()
            elif step == "pause":
                clock.advance(20.0)
            elif step in ("hang", "slow", "raise", "die"):
                self.fault = step
            self.given += 1
            if step == "blank":
                self._bench.seq += 1
                yield Blank(self._bench.seq - 1, clock.monotonic(), clock.utc(), "", "blank")
            else:
                yield self._bench.shot(age_s=0.3 if step == "old" else 0.0)

    def close(self) -> None:
        """Nothing to close."""


class Record:
    """A sink that keeps everything, with the time of each verdict."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.verdicts: list[tuple[Inspection, float]] = []
        self.lates: list[Inspection] = []

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.verdicts.append((inspection, self._bench.clock.monotonic()))

    def late(self, inspection: Inspection) -> None:
        """See `LateSink`."""
        self.lates.append(inspection)

    def close(self) -> None:
        """Nothing to close."""


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=25), engines=st.integers(1, 3), live=st.booleans())
def test_every_shot_has_exactly_one_verdict(steps: list[str], engines: int, live: bool) -> None:
    """Whatever engines do and whenever: shots = verdicts (+ drops of a live source), and none but LATE leaves late."""
    holder: list[Schedule] = []
    bench = Bench(*[[lambda call: holder[0].before(call)]] * engines)
    source = Schedule(bench, steps, live)
    holder.append(source)
    record = Record(bench)
    with bench:
        summary = run(source, bench.inspector, [record])

    seqs = [inspection.verdict.seq for inspection, _ in record.verdicts]
    unanswered = {i.verdict.seq for i, _ in record.verdicts if i.verdict.outcome in (Outcome.LATE, Outcome.ERROR)}
    late = [inspection.verdict.seq for inspection in record.lates]
    assert source.given == summary.frames + summary.dropped == len(seqs) + summary.dropped
    assert seqs == sorted(set(seqs))
    assert live or seqs == list(range(len(steps)))
    assert len(late) == len(set(late)) == summary.late_results
    assert set(late) <= unanswered
    if not live:  # the clock of a live source goes on while we inspect
        for inspection, at in record.verdicts:
            on_time = at <= inspection.shot.t_mono + BUDGET_S
            assert on_time or inspection.verdict.outcome in (Outcome.LATE, Outcome.ERROR)
    for index in range(engines):
        starts = [at for each, at, _ in bench.opened if each == index][1:]
        for at in starts:
            assert sum(at <= other < at + PATIENCE.window_s for other in starts) <= PATIENCE.restarts


def test_the_hanging_engine_has_the_real_ones_interface() -> None:
    """A double that drifts from the real thing proves nothing."""
    for method in ("load", "infer", "infer_many", "close"):
        assert getattr(HangingEngine, method).__annotations__ == getattr(BaseEngine, method).__annotations__
    assert isinstance(HangingEngine().name, str)
