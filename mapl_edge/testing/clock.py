"""ManualClock: time that moves only when told to."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone


class ManualClock:
    """A `mapl_edge.clock.Clock` whose hands are moved by `advance`.

    Args:
        start: the first UTC time; the monotonic hand starts at 0 seconds.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self._start = start
        self._elapsed_s = self._set_s = 0.0

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed_s

    def utc(self) -> datetime:
        """The start plus what was advanced, and by how much it was set."""
        return self._start + timedelta(seconds=self._elapsed_s + self._set_s)

    def set_utc(self, seconds: float) -> None:
        """Somebody sets the clock on the wall forward, or back if negative; the monotonic hand does not move."""
        self._set_s += seconds

    def advance(self, seconds: float) -> None:
        """Move both hands forward; `seconds` must not be negative."""
        if seconds < 0:
            raise ValueError(f"time goes forward only, got {seconds} s")
        self._elapsed_s += seconds
