"""Background: things to do, one after the other, in a thread of their own. What does not fit is dropped, counted, told.

For what may be slow or stuck and must not hold a verdict: pictures, alarms, sinks that are not the station's record.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")
WAIT_S = 1.0  # longest wait for something to do; the thread is woken when there is something


class Background(Generic[T]):
    """A bounded queue, and the thread that works it off.

    Args:
        work: does one thing; whatever it raises, that thing is dropped and the next is tried.
        where: for people.
        most: how much may wait, in the unit of `size`; one thing always may.
        size: of a thing.

    Attributes:
        dropped: things that did not fit, or whose work failed.
    """

    def __init__(
        self, work: Callable[[T], None], where: str, most: float, size: Callable[[T], float] = lambda thing: 1
    ) -> None:
        self._work_on, self._where, self._most, self._size = work, where, most, size
        self._waiting: deque[T] = deque()
        self._taken = 0.0
        self._busy = self._closing = False
        self._told: set[str] = set()
        self._changed = threading.Condition()
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="background", daemon=True)
        self._thread.start()

    def put(self, thing: T) -> bool:
        """Queue one; False, and dropped, where the queue is full. Waits for nothing."""
        with self._changed:
            if self._waiting and self._taken + self._size(thing) > self._most:
                self._drop("they come faster than they are taken")
                return False
            self._waiting.append(thing)
            self._taken += self._size(thing)
            self._changed.notify_all()
            return True

    def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is queued or in hand; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Work off what is queued for as long as `timeout_s`, then give the rest up; False where the thread hangs."""
        if not self.drained(timeout_s):
            with self._changed:
                self.dropped += len(self._waiting)
                self._waiting.clear()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            stuck = self._busy
        self._thread.join(0 if stuck else timeout_s)
        if self.dropped:
            logger.warning("%s: %d were dropped in all", self._where, self.dropped)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting and not self._closing:
                    self._changed.wait(WAIT_S)
                if not self._waiting:
                    return
                thing = self._waiting.popleft()
                self._taken -= self._size(thing)
                self._busy = True
            try:
                self._work_on(thing)
            except Exception as exc:  # whatever it is, the next one may do
                with self._changed:
                    self._drop(getattr(exc, "strerror", None) or str(exc) or type(exc).__name__)

    def _drop(self, why: str) -> None:
        """Count one; each reason is told once."""
        self.dropped += 1
        if why not in self._told:
            self._told.add(why)
            logger.warning("%s are dropped: %s; verdicts go on", self._where, why)
