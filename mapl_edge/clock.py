"""Clock: where time comes from, so that tests can bring their own (`mapl_edge.testing.ManualClock`)."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Intervals from one hand, stamps for people from the other."""

    def monotonic(self) -> float:
        """Seconds that never go backwards; for intervals."""
        ...

    def utc(self) -> datetime:
        """The time of day in UTC; for people."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def utc(self) -> datetime:
        """See `Clock`."""
        return datetime.now(timezone.utc)
