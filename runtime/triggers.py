"""Triggers: software, or the picture itself, says when a part is there. Each gets exactly one verdict; none is skipped.

`Triggers` takes them from any thread and tells each its verdict; `TriggeredSource` makes one shot of each, from the
first frame after it, or from the frame in which `Presence` sees the part. The clock of a shot starts at its trigger.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.errors import CameraError
from mapl_edge.frame import Frame
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.presence import Presence
from mapl_edge.runtime.sources import Blank, Shot, Source

MAX_WAITING = 8  # as many results as a PLC's handshake holds
LOOK_S = 0.1  # how soon a stop is seen while no trigger comes
STOPPED = "the station stopped before the verdict"


@dataclass(slots=True, eq=False)
class Trigger:
    """One trigger on its way to a verdict; `shot` is what the camera gave for it, None until then."""

    name: str
    seq: int
    t_mono: float
    captured_at: datetime
    answer: Future[Inspection] = field(default_factory=Future)
    shot: Shot | None = None

    def blank(self, problem: str) -> Blank:
        """A shot without a picture."""
        return Blank(self.seq, self.t_mono, self.captured_at, self.name, problem)


class Triggers:
    """The queue of one camera, and a sink that tells each trigger its verdict.

    Args:
        most: triggers that may wait; one more is an overrun, an ERROR verdict in its turn.
    """

    def __init__(self, most: int = MAX_WAITING, clock: Clock | None = None) -> None:
        self._most, self._clock = most, clock or SystemClock()
        self.changed = threading.Condition()
        self.waiting: deque[Trigger] = deque()
        self._asked: dict[int, Trigger] = {}
        self._seq = 0
        self.closed = False

    def trigger(self, name: str = "") -> Future[Inspection]:
        """A part is there; from any thread. The verdict is the future's result; it is made even if that is cancelled.

        Raises:
            CameraError: the camera's run has ended.
        """
        with self.changed:
            return self._queue(Trigger(name, self._seq, self._clock.monotonic(), self._clock.utc()))

    def see(self, frame: Frame, problem: str = "") -> Future[Inspection]:
        """A part is there, and this frame is its picture; with a `problem` it has none, and is an ERROR verdict.

        Raises:
            CameraError: the camera's run has ended.
        """
        with self.changed:
            trigger = Trigger(frame.name, self._seq, frame.t_mono, frame.captured_at)
            trigger.shot = trigger.blank(problem) if problem else frame
            return self._queue(trigger)

    def _queue(self, trigger: Trigger) -> Future[Inspection]:
        """With `changed` held."""
        if self.closed:
            raise CameraError(STOPPED)
        self._seq += 1
        if sum(not isinstance(each.shot, Blank) for each in self.waiting) >= self._most:
            trigger.shot = trigger.blank(f"overrun: {self._most} triggers wait already; slow the line or the trigger")
        self._asked[trigger.seq] = trigger
        self.waiting.append(trigger)
        self.changed.notify_all()
        return trigger.answer

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        with self.changed:
            trigger = self._asked.pop(inspection.verdict.seq, None)
        if trigger is not None and trigger.answer.set_running_or_notify_cancel():
            trigger.answer.set_result(inspection)

    def close(self) -> None:
        """See `Sink`. Triggers that are still without a verdict are told so."""
        with self.changed:
            self.closed = True
            left, self._asked = list(self._asked.values()), {}
            self.waiting.clear()
            self.changed.notify_all()
        for trigger in left:
            if trigger.answer.set_running_or_notify_cancel():
                trigger.answer.set_exception(CameraError(STOPPED))


class TriggeredSource:
    """Shots of a camera when they are asked for; see `Source`. Not live for the loop: every trigger is inspected.

    Args:
        camera: a live one goes on by itself, and its first frame after a trigger is the trigger's; of any other source
            a trigger takes the next picture.
        wait_s: so long a trigger waits for a frame; then it is an ERROR verdict. At most the budget.
        stop: ends the shots within a tenth of a second, also where no trigger comes.
        presence: looks at every frame and triggers by what it sees; None: others trigger.

    Attributes:
        camera_is_live: whether frames come by themselves; the shots never do.
    """

    live = False

    def __init__(
        self,
        camera: Source,
        triggers: Triggers,
        wait_s: float,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._camera, self._triggers, self._wait_s, self._presence = camera, triggers, wait_s, presence
        self._stop, self.camera_is_live = stop or threading.Event(), camera.live
        self._now = (clock or SystemClock()).monotonic
        self._ended: BaseException | None = None
        self._closing = self._done = False
        self.fps = getattr(camera, "fps", None)
        if camera.live:
            self._thread = threading.Thread(target=self._grab, name="grab", daemon=True)
            self._thread.start()

    def shots(self) -> Iterator[Shot]:
        """See `Source`; `seq` counts the triggers, `name` is what came with the trigger."""
        pictures = None if self._camera.live else self._camera.shots()
        while (trigger := self._next(pictures)) is not None:
            shot = trigger.shot
            if shot is None and pictures is not None:
                shot = next(pictures, None)
                if shot is None:
                    return
            if shot is None:
                yield trigger.blank(f"no frame within {1e3 * self._wait_s:g} ms of the trigger; check the camera")
            else:
                name = trigger.name or shot.name
                yield replace(shot, seq=trigger.seq, t_mono=trigger.t_mono, captured_at=trigger.captured_at, name=name)

    def close(self) -> None:
        """See `Source`."""
        with self._triggers.changed:
            self._closing = True
            self._triggers.changed.notify_all()
        self._camera.close()
        if self._presence is not None:
            self._presence.end()

    def _next(self, pictures: Iterator[Shot] | None) -> Trigger | None:
        """The next trigger once it has its frame, or none can come in time; None at the end."""
        triggers = self._triggers
        if self._presence is not None and pictures is not None:
            while not (triggers.waiting or self._stop.is_set()):
                shot = next(pictures, None)
                if shot is None:
                    return None
                self._look(shot)
        with triggers.changed:
            while not (self._closing or triggers.closed or self._stop.is_set()):
                first = triggers.waiting[0] if triggers.waiting else None
                if self._ended is not None and first is None:
                    raise self._ended
                if self._done and first is None:
                    return None
                left = 1e6 if first is None else first.t_mono + self._wait_s - self._now()
                if first is not None and (not self._camera.live or first.shot is not None or left <= 0):
                    return triggers.waiting.popleft()
                triggers.changed.wait(min(left, LOOK_S))
        return None

    def _look(self, shot: Shot) -> None:
        if self._presence is not None and isinstance(shot, Frame):
            for seen in self._presence.look(shot, self._camera.live):
                self._triggers.see(seen.frame, seen.problem)

    def _grab(self) -> None:
        triggers = self._triggers
        try:
            for shot in self._camera.shots():
                self._look(shot)
                with triggers.changed:
                    for trigger in triggers.waiting:
                        if trigger.shot is None and shot.t_mono >= trigger.t_mono:
                            trigger.shot = shot
                    triggers.changed.notify_all()
                    if self._closing:
                        return
        except BaseException as exc:  # handed to the loop, which raises it
            self._ended = exc
        finally:
            with triggers.changed:
                self._done = True
                triggers.changed.notify_all()
