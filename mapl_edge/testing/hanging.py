"""HangingEngine: an engine that hangs, raises or dies when it is told to, for tests of what must go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mapl_edge.arrays import UInt8Array
from mapl_edge.engine import Reading
from mapl_edge.testing.engine import FakeEngine

HANG_S = 60.0  # a test that forgets to release it fails, it does not stand still


class HangingEngine(FakeEngine):
    """A `FakeEngine` whose calls hang from `hang()` until `release()`, as one does in a driver that has lost its GPU.

    What it holds in its hands is answered after the release, so a late answer can be told from none.

    Args:
        before: called with the number of the call, from 0, before anything else: to hang, raise or move a clock there.
        score: see `FakeEngine`.

    Attributes:
        is_hanging: set while a call hangs; wait for it instead of sleeping.
        has_answered: set by each answer; clear it to wait for the next.
    """

    name = "hanging"

    def __init__(
        self,
        before: Callable[[int], None] = lambda call: None,
        score: Callable[[UInt8Array], float] = lambda picture: float(picture.mean()) / 255,
    ) -> None:
        super().__init__(score)
        self._before = before
        self._condition = threading.Condition()
        self._hangs = False
        self.is_hanging = threading.Event()
        self.has_answered = threading.Event()

    def hang(self) -> None:
        """From now on a call does not return; it may be called inside one, by `before`."""
        with self._condition:
            self._hangs = True

    def release(self) -> None:
        """Let the call that hangs, and those to come, return."""
        with self._condition:
            self._hangs = False
            self.is_hanging.clear()
            self._condition.notify_all()

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Engine`."""
        self._before(self.calls)
        with self._condition:
            if self._hangs:
                self.is_hanging.set()
                released = self._condition.wait_for(lambda: not self._hangs, HANG_S)
                assert released, f"nobody released the engine within {HANG_S:.0f} s"
        reading = super().infer(picture)
        self.has_answered.set()
        return reading
