"""sd_notify over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.frame import Frame
from mapl_edge.runtime import Inspection, Inspector, SystemdSink
from mapl_edge.testing import FakeEngine, ManualClock

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs AF_UNIX sockets")


@pytest.fixture
def clock() -> ManualClock:
    """Time for watchdog intervals."""
    return ManualClock()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket and what NOTIFY_SOCKET says of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = str(tmp_path / "notify") if request.param == "path" else f"@mapl-edge-test-{os.getpid()}"
        listening.bind(name.replace("@", "\0") if name[0] == "@" else name)
        listening.setblocking(False)
        yield name, listening


def heard(listening: socket.socket) -> list[str]:
    """All that was told since the last time."""
    told = []
    while True:
        try:
            told.append(listening.recv(4096).decode())
        except BlockingIOError:
            return told


def inspection(clock: ManualClock) -> Inspection:
    """Any verdict."""
    inspector = Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.5), clock)
    return inspector.inspect(Frame(np.zeros((32, 32, 3), np.uint8), 0, clock.monotonic(), clock.utc()))


def test_ready_alive_and_stopping_are_told(manager: tuple[str, socket.socket], clock: ManualClock) -> None:
    """Alive only while verdicts flow, and no more often than the manager needs."""
    name, listening = manager
    sink = SystemdSink({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, clock)
    assert heard(listening) == ["READY=1"]

    alive = []
    for _ in range(20):
        sink.emit(inspection(clock))
        alive += heard(listening)
        clock.advance(0.1)
    clock.advance(100)
    quiet = heard(listening)
    sink.close()
    sink.close()

    assert alive == ["WATCHDOG=1"] * 4
    assert quiet == []
    assert heard(listening) == ["STOPPING=1"]


@pytest.mark.parametrize(
    "more",
    [{}, {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}],
    ids=["none", "another-process", "no-number", "zero"],
)
def test_no_watchdog_unless_it_is_ours(
    manager: tuple[str, socket.socket], clock: ManualClock, more: dict[str, str]
) -> None:
    """The service may have another main process, or no WatchdogSec."""
    name, listening = manager
    sink = SystemdSink({"NOTIFY_SOCKET": name, **more}, clock)
    sink.emit(inspection(clock))
    sink.close()

    assert heard(listening) == ["READY=1", "STOPPING=1"]


def test_without_a_manager_nothing_happens(clock: ManualClock) -> None:
    """The usual case: somebody typed the command."""
    sink = SystemdSink({}, clock)
    sink.emit(inspection(clock))
    sink.close()


def test_a_manager_that_is_gone_or_does_not_listen_delays_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """Verdicts matter more than who hears that they flow."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        sink = SystemdSink({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1"}, clock)
        for _ in range(1000):  # more than its buffer holds
            clock.advance(1)
            sink.emit(inspection(clock))
    sink.emit(inspection(clock))
    sink.close()
    SystemdSink({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}, clock).close()
