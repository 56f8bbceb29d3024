"""systemd: tells the service manager, where there is one, that the station is ready, alive and stopping."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.runtime.inspector import Inspection

logger = logging.getLogger(__name__)


class SystemdSink:
    """A sink that speaks sd_notify: READY=1 at its start, WATCHDOG=1 while verdicts flow, STOPPING=1 at its end.

    Put it last: a sink before it that hangs or fails keeps the watchdog from hearing of the verdict.

    Args:
        environment: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up; default: the process's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, clock: Clock | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._now = (clock or SystemClock()).monotonic
        self._socket: socket.socket | None = None
        if self._address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # a manager that does not listen must not delay a verdict
        self._every_s = _watchdog_s(environment) / 4
        self._next = self._now()
        self._tell("READY=1")

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`; a few times in each watchdog interval, not for every verdict."""
        now = self._now()
        if now >= self._next:
            self._next = now + self._every_s
            self._tell("WATCHDOG=1")

    def close(self) -> None:
        """See `Sink`."""
        if self._socket is not None:
            self._tell("STOPPING=1")
            self._socket.close()
            self._socket = None

    def _tell(self, state: str) -> None:
        if self._socket is None or (state == "WATCHDOG=1" and self._every_s == float("inf")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto(state.encode(), address)
        except OSError as exc:  # the manager's loss, not the line's
            logger.warning("systemd was not told %s: %s", state, exc)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """The watchdog's interval; infinite where there is none, or it is meant for another process."""
    with suppress(ValueError):
        if int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid():
            return int(environment.get("WATCHDOG_USEC", "")) / 1e6 or float("inf")
    return float("inf")
