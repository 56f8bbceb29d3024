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
        self._elapsed_s = 0.0

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed_s

    def utc(self) -> datetime:
        """The start plus what was advanced."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def advance(self, seconds: float) -> None:
        """Move both hands forward; `seconds` must not be negative."""
        if seconds < 0:
            raise ValueError(f"time goes forward only, got {seconds} s")
        self._elapsed_s += seconds
