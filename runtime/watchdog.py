"""Watchdog: keeps an engine at work for one camera or several.

Each engine has a thread of its own, and a second one beside it; one that is stuck, dies or only fails is replaced.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from weakref import WeakKeyDictionary

from mapl_edge.aside import Aside
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.engine import Engine
from mapl_edge.errors import MaplEdgeError
from mapl_edge.runtime.inspector import Inspection, Inspector
from mapl_edge.runtime.sources import Shot
from mapl_edge.verdict import ErrorCode

logger = logging.getLogger(__name__)
CLOSE_S = 2.0  # how long an engine may take to end its call when the run ends
LOOK_S = 0.5  # time between looks at the engine while no shot comes
CALLS = 16  # newest answers of the engine, the fastest of which tells what can still be in time
OpenEngine = Callable[[], Engine]
"""Makes an engine, loaded or not; called in the thread that will use it."""
InspectorOf = Callable[[Engine], Inspector]
"""Makes a camera's inspector of an engine; called in the engine's thread."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When an engine is given up, and how often one is started again.

    Attributes:
        stuck_s: so long inside one call.
        load_s: so long getting ready.
        failures: so many calls in a row that end in an error, where it or another may be started.
        restarts: of one engine within `window_s`; then the next one takes over, and the first after the last.
    """

    stuck_s: float = 5.0
    load_s: float = 120.0
    failures: int = 3
    restarts: int = 3
    window_s: float = 600.0


@dataclass(slots=True, eq=False)
class Job:
    """One shot that a camera wants inspected by its deadline.

    Attributes:
        deadline: seconds on the monotonic clock; infinite where the camera has none.
        inspector_of: makes the camera's inspector of an engine, once for each engine.
        late: is told what was found when nobody waited any more.
        worker: who took it; None while it waits for its turn.
        taken: when, in seconds on the monotonic clock.
        inspection: what was found.
        withdrawn: nobody waits for it.
    """

    shot: Shot
    deadline: float
    inspector_of: InspectorOf
    late: Callable[[Inspection], None]
    worker: Worker | None = None
    taken: float | None = None
    inspection: Inspection | None = None
    withdrawn: bool = False


Wait = Callable[[threading.Condition, Callable[[], bool], float], object]
"""Waits until something was told, or so many seconds; tests bring one that goes by their own clock."""


def _wait(changed: threading.Condition, told: Callable[[], bool], timeout_s: float) -> bool:
    return changed.wait_for(told, min(timeout_s, 1e6))


class Watchdog:
    """One engine at a time, from a list in order of preference, for the cameras that share it. A context manager.

    Of the shots that wait the one with the earliest deadline is next. One that would be late even if the engine took no
    longer than the fastest of its last calls waits until no other does, so a camera that is behind takes no other's
    time; one whose deadline has passed never reaches the engine. The watchdog looks when a camera asks, and from `open`
    to `close` twice a second, so that an engine that got stuck or died is replaced while the line stands still, and the
    next shot finds one that is ready. Whoever calls `ask`, `look`, `next_look_at`, `wait` or `withdraw` holds
    `changed`.

    Args:
        engines: the first is started at once, the others when it is lost.
        patience: when an engine is given up, and how often one is started again.

    Attributes:
        changed: the lock on everything here, waiting jobs and workers included.
        worker: the engine in service; None while none may be started.
        problem: what became of the last one that was lost, and whether another may be started.
    """

    def __init__(
        self,
        engines: Sequence[OpenEngine],
        patience: Patience = Patience(),
        clock: Clock | None = None,
        wait: Wait = _wait,
    ) -> None:
        self._engines, self._patience = engines, patience
        self.now, self._wait = (clock or SystemClock()).monotonic, wait
        self.changed = threading.Condition()
        self._waiting: list[Job] = []
        self._calls: deque[float] = deque(maxlen=CALLS)  # seconds that the engine in service took, with an answer
        self._told = 0  # counts what the workers said
        self._index = 0  # of the engine in service, or of the last one
        self._restarts: list[deque[float]] = [deque() for _ in engines]  # when, by engine
        self._tried: set[int] = set()
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._guard = threading.Thread(target=self._look_on, name="watchdog", daemon=True)
        self.worker: Worker | None = None
        self.problem = ""
        self._used_up = f"; all {patience.restarts} restarts within {patience.window_s:g} s are used up"

    def open(self) -> None:
        """Start the first engine and wait until it is ready.

        Raises:
            BackendError: it does not load.
        """
        with self.changed:
            self.look()
            while self.worker is not None and self.worker.phase is Phase.LOADING:
                self.wait(self.worker.gives_up_at(self._patience) - self.now())
                self._give_up_if_stuck()
            if self.worker is None:
                raise self._error or MaplEdgeError(self.problem)
        self._guard.start()

    def close(self) -> None:
        """Send the worker home; one that is inside a call that does not end is left to its fate."""
        with self.changed:
            worker, self.worker = self.worker, None
            self._closed.set()
            if worker is not None:
                worker.dismissed = True
                self.changed.notify_all()
        if worker is not None:
            worker.join(CLOSE_S)
        if self._guard.ident is not None:
            self._guard.join(CLOSE_S)

    def __enter__(self) -> Watchdog:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, job: Job) -> None:
        """Let a job wait for its turn; asking twice is harmless."""
        if job.worker is None and job not in self._waiting:
            self._waiting.append(job)
            self.changed.notify_all()

    def withdraw(self, job: Job) -> None:
        """Nobody waits for it any more: it does not reach the engine, and what is found all the same is late."""
        job.withdrawn = True
        if job in self._waiting:
            self._waiting.remove(job)
        if job.inspection is not None:
            job.late(job.inspection)

    def wait(self, timeout_s: float) -> None:
        """Wait until a worker has said something, at most so long."""
        before = self._told
        self._wait(self.changed, lambda: self._told != before, max(0.0, timeout_s))

    def look(self) -> Worker | None:
        """Give up an engine that is stuck, start another where there is none and one may be; the one in service."""
        self._give_up_if_stuck()
        if self.worker is None and not self._closed.is_set():
            index = self._next()
            if index is not None:
                self._start(index)
            elif not self.problem.endswith(self._used_up):
                self.problem += self._used_up
        return self.worker

    def next_look_at(self, worker: Worker) -> float:
        """When to look at a worker again, in seconds on the monotonic clock; patience ends no sooner."""
        return min(worker.gives_up_at(self._patience), self.now() + self._patience.stuck_s)

    def _look_on(self) -> None:
        """Now and then, so that no shot wakes it; patience is counted by `now`."""
        while not self._closed.wait(LOOK_S):
            with self.changed:
                self.look()

    # What workers say, from their threads.

    def ready(self, worker: Worker) -> None:
        """It has loaded."""
        with self.changed:
            self._tell(worker, Phase.IDLE)

    def next_job(self, worker: Worker) -> Job | None:
        """The job with the earliest deadline that can be met, waiting for one; None when the worker shall go home."""
        with self.changed:
            while worker.phase is not Phase.GONE and not worker.dismissed:
                now = self.now()
                due = [job for job in self._waiting if now < job.deadline]
                if due:
                    soonest = now + min(self._calls, default=0.0)
                    job = min(due, key=lambda job: (job.deadline < soonest, job.deadline, job.shot.t_mono))
                    self._waiting.remove(job)
                    job.worker, job.taken = worker, now
                    worker.move(Phase.BUSY, now)
                    return job
                self.changed.wait()
        return None

    def found(self, worker: Worker, job: Job, inspection: Inspection) -> None:
        """It has inspected a shot."""
        with self.changed:
            if job.withdrawn:
                job.late(inspection)
            else:
                job.inspection = inspection
            if worker is self.worker and inspection.reading is not None:
                self._calls.append(self.now() - worker.since)
            worker.failures = worker.failures + 1 if inspection.verdict.code is ErrorCode.ENGINE else 0
            self._tell(worker, Phase.IDLE)
            if worker is self.worker and worker.failures >= self._patience.failures and self._next() is not None:
                worker.dismissed = True
                self._lose(f"{worker.name} failed {worker.failures} times in a row: {inspection.verdict.error}")

    def died(self, worker: Worker, error: BaseException) -> None:
        """It has ended."""
        with self.changed:
            if worker is self.worker:
                self._error = error
                self._lose(f"{worker.name} failed: {type(error).__name__}: {error}")
            self._tell(worker, Phase.GONE)

    def _tell(self, worker: Worker, phase: Phase) -> None:
        if worker.phase is not Phase.GONE:  # the answer of one that was given up changes nothing
            worker.move(phase, self.now())
        self._told += 1
        self.changed.notify_all()

    def _give_up_if_stuck(self) -> None:
        worker, now = self.worker, self.now()
        if worker is not None and now >= worker.gives_up_at(self._patience):
            doing = "did not load" if worker.phase is Phase.LOADING else "gave no answer"
            problem = f"{worker.name} {doing} for {1e3 * (now - worker.since):.0f} ms and was given up"
            worker.move(Phase.GONE, now)
            self._lose(problem)
            self._told += 1
            self.changed.notify_all()

    def _lose(self, problem: str) -> None:
        self.worker, self.problem = None, " ".join(problem.split())
        logger.error("%s", self.problem)

    def _next(self) -> int | None:
        """The same engine while it may start again, then the others in turn."""
        now, n = self.now(), len(self._engines)
        for index in (each % n for each in range(self._index, self._index + n)):
            starts = self._restarts[index]
            while starts and starts[0] <= now - self._patience.window_s:
                starts.popleft()
            if index not in self._tried or len(starts) < self._patience.restarts:
                return index
        return None

    def _start(self, index: int) -> None:
        now = self.now()
        if index in self._tried:
            self._restarts[index].append(now)
        if self._tried:
            logger.warning("starting engine %d of %d again or instead", index + 1, len(self._engines))
        self._tried.add(index)
        self._calls.clear()
        self._index = index
        self.worker = Worker(self, self._engines[index], now, f"engine {index + 1}")


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
    Phase.GONE: set(),
}


class Worker:
    """One engine in a thread of its own, which loads, uses and closes it, and takes jobs from the watchdog.

    What does not wait for the engine is done in a second thread meanwhile; see `Aside`.

    Attributes:
        name: for people; the engine's own once it is loaded.
        phase, since: what it does, and since when, in seconds on the monotonic clock.
        failures: calls in a row that ended in an error.
        dismissed: it shall go home as soon as the call in hand returns.
    """

    def __init__(self, watchdog: Watchdog, open_engine: OpenEngine, now: float, name: str) -> None:
        self.name, self.phase, self.since = name, Phase.LOADING, now
        self.failures, self.dismissed = 0, False
        self._watchdog, self._open = watchdog, open_engine
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

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

    def join(self, timeout_s: float) -> None:
        """Wait for the end of its thread."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        engine: Engine | None = None
        try:
            engine = self._open()
            engine.load()
            self.name = engine.name
            inspectors: WeakKeyDictionary[InspectorOf, Inspector] = WeakKeyDictionary()
            with Aside() as aside:
                self._watchdog.ready(self)
                while (job := self._watchdog.next_job(self)) is not None:
                    inspector = inspectors.get(job.inspector_of)
                    if inspector is None:
                        inspector = inspectors[job.inspector_of] = job.inspector_of(engine)
                    self._watchdog.found(self, job, inspector.inspect(job.shot, aside.do))
        except BaseException as exc:  # told to those who ask, who start another engine
            self._watchdog.died(self, exc)
        finally:
            if engine is not None:
                self._close(engine)

    def _close(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception:
            logger.exception("%s could not be closed", self.name)
