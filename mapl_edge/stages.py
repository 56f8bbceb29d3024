"""Stages: where the seconds of a long command went."""

from __future__ import annotations

from mapl_edge.clock import Clock, SystemClock


class Stages:
    """Seconds by stage, in the order in which they ended; each begins where the one before ended."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._now = (clock or SystemClock()).monotonic
        self._since = self._now()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """A stage has ended; one that comes again adds to what it took."""
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
