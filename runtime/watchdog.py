"""Watchdog: keeps an engine at work. Each has a thread of its own; one that is stuck or dies is replaced."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from mapl_edge.engine import Engine
from mapl_edge.errors import MaplEdgeError
from mapl_edge.runtime.inspector import Inspection, Inspector
from mapl_edge.runtime.sources import Shot

logger = logging.getLogger(__name__)
CLOSE_S = 2.0  # how long an engine may take to end its call when the run ends
OpenEngine = Callable[[], Engine]
"""Makes an engine, loaded or not; called in the thread that will use it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When an engine is given up, and how often one is started again.

    Attributes:
        stuck_s: so long inside one call.
        load_s: so long getting ready.
        restarts: of one engine within `window_s`; then the next one takes over, and the first after the last.
    """

    stuck_s: float = 5.0
    load_s: float = 120.0
    restarts: int = 3
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says: it is ready (no shot), what it found, or (`error`) that it has ended."""

    worker: Worker
    shot: Shot | None = None
    inspection: Inspection | None = None
    error: BaseException | None = None


Wait = Callable[["queue.SimpleQueue[Report]", float], "Report | None"]
"""The next report within so many seconds, or None; tests bring one that goes by their own clock."""


class Watchdog:
    """One engine at a time, from a list in order of preference; used by one thread, the loop's.

    It looks when it is asked to, so it needs no thread: a shot that comes finds an engine at work, or on its way.

    Attributes:
        worker: the engine in service; None while none may be started.
        problem: what became of the last one that was lost, and whether another may be started.
    """

    def __init__(
        self,
        engines: Sequence[OpenEngine],
        inspector_of: Callable[[Engine], Inspector],
        patience: Patience,
        now: Callable[[], float],
        wait: Wait,
    ) -> None:
        self._engines, self._inspector_of, self._patience = engines, inspector_of, patience
        self._now, self._wait = now, wait
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._index = 0  # of the engine in service, or of the last one
        self._restarts: list[deque[float]] = [deque() for _ in engines]  # when, by engine
        self._tried: set[int] = set()
        self._error: BaseException | None = None
        self.worker: Worker | None = None
        self.problem = ""
        self._used_up = f"; all {patience.restarts} restarts within {patience.window_s:g} s are used up"

    def open(self) -> None:
        """Start the first engine and wait until it is ready.

        Raises:
            BackendError: it does not load.
        """
        self.look()
        while self.worker is not None and self.worker.phase is Phase.LOADING:
            if self.report(self.worker.gives_up_at(self._patience) - self._now()) is None:
                self._give_up_if_stuck()
        if self.worker is None:
            raise self._error or MaplEdgeError(self.problem)

    def report(self, timeout_s: float) -> Report | None:
        """The next report, waiting at most so long; the phases of the workers follow it."""
        report = self._wait(self._reports, max(0.0, timeout_s))
        if report is None:
            return None
        worker = report.worker
        if report.error is not None:
            worker.move(Phase.GONE, self._now())
            if worker is self.worker:
                self._error = report.error
                self._lose(f"{worker.name} failed: {type(report.error).__name__}: {report.error}")
        elif worker.phase is not Phase.GONE:  # the answer of one that was given up changes nothing
            worker.move(Phase.IDLE, self._now())
        return report

    def look(self) -> Worker | None:
        """Give up an engine that is stuck, start another where there is none and one may be; the one in service."""
        self._give_up_if_stuck()
        if self.worker is None:
            index = self._next()
            if index is not None:
                self._start(index)
            elif not self.problem.endswith(self._used_up):
                self.problem += self._used_up
        return self.worker

    def next_look_at(self, worker: Worker) -> float:
        """When patience with a worker ends, in seconds on the monotonic clock."""
        return worker.gives_up_at(self._patience)

    def close(self) -> None:
        """Send the worker home; one that is inside a call that does not end is left to its fate."""
        if self.worker is not None:
            self.worker.dismiss()
            self.worker.join(CLOSE_S)
            self.worker = None

    def _give_up_if_stuck(self) -> None:
        worker, now = self.worker, self._now()
        if worker is not None and now >= worker.gives_up_at(self._patience):
            doing = "did not load" if worker.phase is Phase.LOADING else "gave no answer"
            problem = f"{worker.name} {doing} for {1e3 * (now - worker.since):.0f} ms and was given up"
            worker.move(Phase.GONE, now)
            worker.dismiss()
            self._lose(problem)

    def _lose(self, problem: str) -> None:
        self.worker, self.problem = None, " ".join(problem.split())
        logger.error("%s", self.problem)

    def _next(self) -> int | None:
        """The same engine while it may start again, then the others in turn."""
        now, n = self._now(), len(self._engines)
        for index in (each % n for each in range(self._index, self._index + n)):
            starts = self._restarts[index]
            while starts and starts[0] <= now - self._patience.window_s:
                starts.popleft()
            if index not in self._tried or len(starts) < self._patience.restarts:
                return index
        return None

    def _start(self, index: int) -> None:
        now = self._now()
        if index in self._tried:
            self._restarts[index].append(now)
        if self._tried:
            logger.warning("starting engine %d of %d again or instead", index + 1, len(self._engines))
        self._tried.add(index)
        self._index = index
        self.worker = Worker(self._engines[index], self._inspector_of, self._reports, now, f"engine {index + 1}")


class Phase(Enum):
    """Where a worker is."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


MOVES = {
    Phase.LOADING: {Phase.IDLE, Phase.GONE},
    Phase.IDLE: {Phase.BUSY, Phase.GONE},
    Phase.BUSY: {Phase.IDLE, Phase.GONE},
    Phase.GONE: {Phase.GONE},  # given up first, ended later
}


class Worker:
    """One engine in a thread of its own, which loads, uses and closes it.

    Its phase is kept by the thread that asks; the engine's thread only takes shots and reports.

    Attributes:
        name: for people; the engine's own once it is loaded.
        phase, since: what it does, and since when, in seconds on the monotonic clock.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        inspector_of: Callable[[Engine], Inspector],
        reports: queue.SimpleQueue[Report],
        now: float,
        name: str,
    ) -> None:
        self.name, self.phase, self.since = name, Phase.LOADING, now
        self._open, self._inspector_of, self._reports = open_engine, inspector_of, reports
        self._shots: queue.SimpleQueue[Shot | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def give(self, shot: Shot, now: float) -> None:
        """Let it inspect a shot; it must be idle."""
        self.move(Phase.BUSY, now)
        self._shots.put(shot)

    def gives_up_at(self, patience: Patience) -> float:
        """When it counts as stuck; infinite while it is idle."""
        if self.phase is Phase.IDLE:
            return float("inf")
        return self.since + (patience.load_s if self.phase is Phase.LOADING else patience.stuck_s)

    def state(self, now: float) -> str:
        """What it does and for how long, for people."""
        return f"{self.name} is {self.phase.value} for {1e3 * (now - self.since):.0f} ms"

    def move(self, phase: Phase, now: float) -> None:
        """Go to another phase."""
        assert phase in MOVES[self.phase], f"{self.name}: {self.phase} to {phase}"
        self.phase, self.since = phase, now

    def dismiss(self) -> None:
        """Let the thread end and the engine close as soon as the call in hand returns."""
        self._shots.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end of its thread."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        engine: Engine | None = None
        try:
            engine = self._open()
            engine.load()
            inspector = self._inspector_of(engine)
            self.name = engine.name
            self._reports.put(Report(self))
            while (shot := self._shots.get()) is not None:  # dismiss() ends it
                self._reports.put(Report(self, shot, inspector.inspect(shot)))
        except BaseException as exc:  # told to the thread that asks, which starts another engine
            self._reports.put(Report(self, error=exc))
        finally:
            if engine is not None:
                self._close(engine)

    def _close(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception:
            logger.exception("%s could not be closed", self.name)
