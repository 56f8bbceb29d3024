"""Deadline: a verdict for every shot on time, whatever the engine does.

What the engine finds later is told, and changes nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.engine import Engine
from mapl_edge.runtime.inspector import Inspection, Inspector, unjudged
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.runtime.watchdog import OpenEngine, Patience, Phase, Report, Wait, Watchdog
from mapl_edge.verdict import ErrorCode, Outcome, Policy


def _report_within(reports: queue.SimpleQueue[Report], timeout_s: float) -> Report | None:
    try:
        return reports.get(timeout=min(timeout_s, 1e6))
    except queue.Empty:
        return None


class DeadlineInspector:
    """An inspector that answers at the deadline at the latest; see `Inspects`. A context manager.

    An `Inspector` (prepare, infer, judge) does the work in the engine's own thread, and this waits for it with a bound.
    One shot is with the engine at a time: while it is stuck in one, the next ones wait for it until their own
    deadlines, are LATE, and never reach it.

    Args:
        engines: in order of preference; the first is started at once, the others when it is lost.
        inspector_of: makes an inspector of an engine.
        budget_ms: from capture (`shot.t_mono`) to verdict.
        policy: what LATE and ERROR mean to the gate; the inspector has its own for what it finds.
        patience: when an engine is given up, and how often one is started again.
    """

    def __init__(
        self,
        engines: Sequence[OpenEngine],
        inspector_of: Callable[[Engine], Inspector],
        budget_ms: float,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        patience: Patience = Patience(),  # noqa: B008 - frozen
        clock: Clock | None = None,
        wait: Wait = _report_within,
    ) -> None:
        self._budget_ms, self._policy = budget_ms, policy
        self._now = (clock or SystemClock()).monotonic
        self._watchdog = Watchdog(engines, inspector_of, patience, self._now, wait)
        self._late: list[Inspection] = []

    def inspect(self, shot: Shot) -> Inspection:
        """Judge one shot: the engine's verdict, or LATE at the deadline, or ERROR at once where none can come."""
        started = self._now()
        if isinstance(shot, Blank):
            return self._unjudged(shot, Outcome.ERROR, shot.problem, started, ErrorCode.PICTURE)
        deadline = shot.t_mono + self._budget_ms / 1e3
        self._hear(0.0)
        asked = None
        while True:
            worker = self._watchdog.look()
            if worker is None or asked not in (None, worker):
                problem = self._watchdog.problem  # nothing can come
                return self._unjudged(shot, Outcome.ERROR, problem, started, ErrorCode.ENGINE)
            now = self._now()
            if now >= deadline:
                problem = f"no answer within {self._budget_ms:g} ms of capture: {worker.state(now)}"
                return self._unjudged(shot, Outcome.LATE, problem, started, ErrorCode.DEADLINE)
            if asked is None and worker.phase is Phase.IDLE:
                asked = worker
                worker.give(shot, now)
            answer = self._hear(min(deadline, self._watchdog.next_look_at(worker)) - now, shot)
            if answer is not None:
                if self._now() <= deadline:
                    return answer
                self._late.append(answer)

    def late_results(self) -> Sequence[Inspection]:
        """See `Inspects`."""
        self._hear(0.0)
        late, self._late = self._late, []
        return late

    def close(self) -> None:
        """Close the engine, unless it is stuck; calling it twice is harmless."""
        self._watchdog.close()

    def __enter__(self) -> DeadlineInspector:
        self._watchdog.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hear(self, timeout_s: float, shot: Shot | None = None) -> Inspection | None:
        """Take reports, waiting so long for the first; the inspection of `shot`, if it is among them."""
        answer = None
        while (report := self._watchdog.report(timeout_s)) is not None:
            timeout_s = 0.0
            if report.inspection is not None:
                if report.shot is shot:
                    answer = report.inspection
                else:
                    self._late.append(report.inspection)
        return answer

    def _unjudged(self, shot: Shot, outcome: Outcome, problem: str, started: float, code: ErrorCode) -> Inspection:
        return unjudged(shot, outcome, problem, started, self._now(), self._policy, code)
