"""Deadline: a verdict for every shot on time, whatever the engine does.

What the engine finds later is told, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from mapl_edge.clock import Clock
from mapl_edge.runtime.inspector import Inspection, unjudged
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.runtime.watchdog import InspectorOf, Job, OpenEngine, Patience, Watchdog
from mapl_edge.verdict import ErrorCode, Outcome, Policy


class DeadlineInspector:
    """An inspector that answers at the deadline at the latest; see `Inspects`. A context manager.

    An `Inspector` (prepare, infer, judge) does the work in the engine's own thread, and this waits for it with a bound.
    One shot is with the engine at a time: while it is stuck in one, the next ones wait for it until their own
    deadlines, are LATE, and never reach it.

    Args:
        engines: in order of preference; the first is started at once, the others when it is lost. Or a `Watchdog` that
            several cameras share, opened and closed by whoever made it; it has a patience and a clock of its own.
        inspector_of: makes an inspector of an engine.
        budget_ms: from capture (`shot.t_mono`) to verdict; infinite: no deadline, and the last turn.
        policy: what LATE and ERROR mean to the gate; the inspector has its own for what it finds.
        patience: when an engine is given up, and how often one is started again.
    """

    def __init__(
        self,
        engines: Sequence[OpenEngine] | Watchdog,
        inspector_of: InspectorOf,
        budget_ms: float,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        patience: Patience = Patience(),  # noqa: B008 - frozen
        clock: Clock | None = None,
    ) -> None:
        self._shared = isinstance(engines, Watchdog)
        self._watchdog = engines if isinstance(engines, Watchdog) else Watchdog(engines, patience, clock)
        self._inspector_of, self._budget_ms, self._policy = inspector_of, budget_ms, policy
        self._now = self._watchdog.now
        self._late: list[Inspection] = []

    def inspect(self, shot: Shot) -> Inspection:
        """Judge one shot: the engine's verdict, or LATE at the deadline, or ERROR at once where none can come."""
        started = self._now()
        if isinstance(shot, Blank):
            return self._unjudged(shot, Outcome.ERROR, shot.problem, started, ErrorCode.PICTURE)
        watchdog = self._watchdog
        job = Job(shot, shot.t_mono + self._budget_ms / 1e3, self._inspector_of, self._tell_late)
        with watchdog.changed:
            try:
                while True:
                    now = self._now()
                    if job.inspection is not None and now <= job.deadline:
                        answer, job.inspection = job.inspection, None
                        return answer
                    worker = watchdog.look()
                    if worker is None or job.worker not in (None, worker):  # nothing can come
                        return self._unjudged(shot, Outcome.ERROR, watchdog.problem, started, ErrorCode.ENGINE)
                    if now >= job.deadline:
                        problem = f"no answer within {self._budget_ms:g} ms of capture: {_waited(job, now)}"
                        problem += worker.state(now)
                        return self._unjudged(shot, Outcome.LATE, problem, started, ErrorCode.DEADLINE)
                    watchdog.ask(job)
                    watchdog.wait(min(job.deadline, watchdog.next_look_at(worker)) - now)
            finally:
                watchdog.withdraw(job)

    def late_results(self) -> Sequence[Inspection]:
        """See `Inspects`."""
        with self._watchdog.changed:
            late, self._late = self._late, []
        return late

    def close(self) -> None:
        """Close an engine of its own, unless it is stuck; calling it twice is harmless."""
        if not self._shared:
            self._watchdog.close()

    def __enter__(self) -> DeadlineInspector:
        if not self._shared:
            self._watchdog.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tell_late(self, inspection: Inspection) -> None:
        """Called with `changed` held."""
        self._late.append(inspection)

    def _unjudged(self, shot: Shot, outcome: Outcome, problem: str, started: float, code: ErrorCode) -> Inspection:
        return unjudged(shot, outcome, problem, started, self._now(), self._policy, code)


def _waited(job: Job, now: float) -> str:
    """How long a shot that is LATE waited for the engine, for people; nothing where it hardly did."""
    ms = f"{1e3 * ((now if job.taken is None else job.taken) - job.shot.t_mono):.0f} ms"
    if job.taken is None:
        return f"the part waited {ms} and never reached the engine; "
    return "" if ms == "0 ms" else f"the part waited {ms} for the engine; "
