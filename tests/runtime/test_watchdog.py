"""Watchdog: one engine for several cameras, the earliest deadline first; the rest is in test_deadline.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.frame import Frame
from mapl_edge.runtime import DeadlineInspector, Inspection, Inspector, Patience, Watchdog
from mapl_edge.runtime.watchdog import Job
from mapl_edge.testing import HangingEngine, ManualClock
from mapl_edge.verdict import Outcome


def shot(level: int = 10, age_s: float = 0.0) -> Frame:
    """A picture of one grey level, taken so long ago."""
    return Frame(np.full((32, 32, 3), level, np.uint8), level, time.monotonic() - age_s, ManualClock().utc())


def inspector_of(fail: float = 0.5) -> Callable[..., Inspector]:
    """A camera's way to judge."""
    return partial(Inspector, contract=InputContract(size_hw=(32, 32)), limits=Limits(fail=fail))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@settings(max_examples=20, deadline=None)
@given(budgets_s=st.lists(st.integers(20, 200), min_size=2, max_size=6, unique=True))
def test_the_earliest_deadline_is_next(budgets_s: list[int]) -> None:
    """Whoever asked first: a camera with a tight budget does not wait for those with an ample one."""
    read: list[int] = []
    engine = HangingEngine(score=lambda picture: read.append(int(picture[0, 0, 0])) or 0.0)  # type: ignore[func-returns-value]
    engine.hang()
    with Watchdog([lambda: engine]) as watchdog:
        threads = []
        for seq, budget_s in enumerate([10, *budgets_s]):  # the first one is inside the engine while the others come
            inspector = DeadlineInspector(watchdog, inspector_of(), 1e3 * budget_s)
            threads.append(threading.Thread(target=inspector.inspect, args=(shot(budget_s),)))
            threads[-1].start()
            eventually(lambda seq=seq: len(watchdog._waiting) == seq and engine.is_hanging.is_set())
        engine.release()
        for thread in threads:
            thread.join(10)

    assert read == [10, *sorted(budgets_s)]


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_no_order_answers_more_shots_in_time(calls: list[int]) -> None:
    """By trying all orders: a shot that would be late all the same does not make the next one late too."""
    clock, ends = ManualClock(), dict[int, float]()
    engine = HangingEngine(
        before=lambda call: clock.advance(1.0),
        score=lambda picture: ends.update({int(picture[0, 0, 0]): clock.monotonic()}) or 0.0,  # type: ignore[func-returns-value]
    )
    engine.hang()
    judge = inspector_of()
    with Watchdog([lambda: engine], clock=clock) as watchdog:
        jobs = [Job(shot(level), 2.5 + n, judge, lambda late: None) for level, n in enumerate(calls)]  # from 2 on
        jobs.insert(0, Job(shot(200), float("inf"), judge, lambda late: None))  # inside the engine while they come
        for job in jobs:
            clock.advance(1.0 if job is jobs[0] else 0.0)
            with watchdog.changed:
                watchdog.ask(job)
            assert engine.is_hanging.wait(10)
        engine.release()
        eventually(lambda: all(job.inspection or clock.monotonic() >= job.deadline for job in jobs))

    in_time = sum(ends.get(level, 99.0) <= 2.5 + n for level, n in enumerate(calls))
    best = max(sum(2.0 + i <= 2.5 + n for i, n in enumerate(order, 1)) for order in permutations(calls))
    assert in_time == best


def test_a_shot_that_will_be_late_is_inspected_while_no_other_waits() -> None:
    """Its true score is for the record; without others it costs nobody anything."""
    clock = ManualClock()
    engine = HangingEngine(before=lambda call: clock.advance(1.0))
    judge = inspector_of()
    with Watchdog([lambda: engine], clock=clock) as watchdog:
        for deadline in (float("inf"), clock.monotonic() + 1.5):
            job = Job(shot(), deadline, judge, lambda late: None)
            with watchdog.changed:
                watchdog.ask(job)
            eventually(lambda job=job: job.inspection is not None)

    assert engine.calls == 2


def test_each_camera_judges_by_its_own_limits_with_one_engine() -> None:
    """The engine is shared, what is decided is not."""
    engine = HangingEngine()
    with Watchdog([lambda: engine]) as watchdog:
        mild, strict = (DeadlineInspector(watchdog, inspector_of(fail), 1e4) for fail in (0.5, 0.001))
        outcomes = [camera.inspect(shot()).verdict.outcome for camera in (mild, strict, mild)]

    assert outcomes == [Outcome.PASS, Outcome.FAIL, Outcome.PASS]
    assert engine.calls == 3


def test_a_late_result_goes_to_the_camera_that_asked() -> None:
    """And to no other, though they share the engine."""
    engine = HangingEngine()
    with Watchdog([lambda: engine]) as watchdog:
        one, other = (DeadlineInspector(watchdog, inspector_of(), 50.0) for _ in range(2))
        engine.hang()
        late = one.inspect(shot(1))
        engine.release()
        told: list[Inspection] = []
        eventually(lambda: bool(told.extend(one.late_results()) or told))

        assert late.verdict.outcome is Outcome.LATE
        assert [inspection.verdict.seq for inspection in told] == [1]
        assert other.late_results() == []


def test_a_stuck_engine_is_replaced_once_for_all_cameras() -> None:
    """Each of them sees that it is stuck; only one other is started."""
    opened: list[HangingEngine] = []

    def open_engine() -> HangingEngine:
        opened.append(HangingEngine())
        if len(opened) == 1:
            opened[0].hang()
        return opened[-1]

    with Watchdog([open_engine], Patience(stuck_s=0.1)) as watchdog:
        cameras = [DeadlineInspector(watchdog, inspector_of(), 1e4) for _ in range(4)]
        answers: list[Outcome] = []
        threads = [
            threading.Thread(target=lambda c=c: answers.append(c.inspect(shot()).verdict.outcome)) for c in cameras
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        opened[0].release()

    assert len(opened) == 2
    assert sorted(answers) == [Outcome.ERROR, Outcome.PASS, Outcome.PASS, Outcome.PASS]


def test_without_a_deadline_a_shot_comes_last() -> None:
    """It can wait, the others cannot; and it is never LATE."""
    with Watchdog([HangingEngine]) as watchdog:
        outcome = DeadlineInspector(watchdog, inspector_of(), float("inf")).inspect(shot(age_s=1e6)).verdict.outcome

    assert outcome is Outcome.PASS
