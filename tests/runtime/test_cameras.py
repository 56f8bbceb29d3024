"""Several cameras: each with its own verdicts, and none that holds another."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.config import CameraConfig, StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.errors import CameraError, CameraUnreachable, ConfigError, MaplEdgeError, OutputError, PictureError
from mapl_edge.frame import Frame
from mapl_edge.runtime import (
    Camera,
    DeadlineInspector,
    Inspection,
    Inspector,
    JsonLines,
    RunIdentity,
    SharedSink,
    Shot,
    Sink,
    Source,
    Watchdog,
    open_store,
    run_cameras,
    source_from_uri,
)
from mapl_edge.runtime import camera as live_camera
from mapl_edge.runtime.camera import Device, LiveCamera
from mapl_edge.testing import FakeEngine, HangingDevice, ManualClock
from mapl_edge.verdict import Outcome

inspector_of = partial(Inspector, contract=InputContract(size_hw=(32, 32)), limits=Limits(fail=0.9))


class Pictures:
    """So many grey pictures; see `Source`."""

    live = False

    def __init__(self, n: int, error: Exception | None = None) -> None:
        self._n, self._error, self.closed = n, error, False

    def shots(self) -> Iterator[Shot]:
        """See `Source`; ends in the error, if there is one."""
        for seq in range(self._n):
            yield Frame(np.full((32, 32, 3), 100, np.uint8), seq, time.monotonic(), ManualClock().utc())
        if self._error:
            raise self._error

    def close(self) -> None:
        """See `Source`."""
        self.closed = True


class Kept:
    """A sink that keeps outcomes."""

    def __init__(self, at: Callable[[Inspection], None] = lambda inspection: None) -> None:
        self._at, self.outcomes, self.closed = at, list[Outcome](), 0

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self._at(inspection)
        self.outcomes.append(inspection.verdict.outcome)

    def close(self) -> None:
        """See `Sink`."""
        self.closed += 1


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A fake engine for all cameras."""
    with Watchdog([FakeEngine]) as opened:
        yield opened


def camera(watchdog: Watchdog, name: str, open_source: Callable[[], Source], *sinks: Sink) -> Camera:
    """With an ample budget."""
    return Camera(name, open_source, DeadlineInspector(watchdog, inspector_of, 60_000), sinks)


def test_every_camera_gets_its_own_verdicts_in_one_file_and_store(watchdog: Watchdog, tmp_path: Path) -> None:
    """Each line is whole and says whose it is; each account balances."""
    out, names = tmp_path / "v.jsonl", ("a", "b", "c")
    first = JsonLines(out, {"camera": "a"})
    lines = dict(zip(names, (first, first.beside({"camera": "b"}), first.beside({"camera": "c"})), strict=True))
    stores = {
        name: open_store(tmp_path / "store", RunIdentity("r", name, "b", "c", "fake", Limits(fail=0.9)), StoreConfig())
        for name in names
    }
    cameras = [
        camera(watchdog, name, partial(Pictures, 20 * n), lines[name], stores[name]) for n, name in enumerate(names, 1)
    ]
    summaries = run_cameras(cameras, threading.Event())

    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [summary.frames for summary in summaries] == [20, 40, 60]
    for n, name in enumerate(names, 1):
        assert [v["seq"] for v in verdicts if v["camera"] == name] == list(range(20 * n))
        account = stores[name].ledger()
        assert (account.triggers, account.balanced, account.camera) == (20 * n, True, name)


def test_a_camera_that_fails_ends_alone(watchdog: Watchdog) -> None:
    """The others go on to their end; then it is told by the error."""
    told: list[str] = []
    sinks = [Kept(), Kept()]
    cameras = [
        camera(watchdog, "bad", partial(Pictures, 1, CameraError("other format")), sinks[0]),
        camera(watchdog, "good", partial(Pictures, 50), sinks[1]),
    ]

    with pytest.raises(CameraError, match="other format"):
        run_cameras(cameras, threading.Event(), tell=told.append)

    assert [len(sink.outcomes) for sink in sinks] == [1, 50]
    assert [sink.closed for sink in sinks] == [1, 1]
    assert told == ["camera bad has ended, the others go on: other format"]


@pytest.mark.parametrize(
    "error",
    [PictureError("belt.png", "is cut"), ConfigError("v4l2:0?widht=3", ["widht: unknown key"])],
    ids=["picture", "config"],
)
def test_a_camera_that_can_never_open_ends_alone(watchdog: Watchdog, error: MaplEdgeError) -> None:
    """A mistake of one camera is told, and is the run's error once the others have ended."""
    told: list[str] = []
    sinks = [Kept(), Kept()]

    def wrong() -> Source:
        raise error

    cameras = [camera(watchdog, "bad", wrong, sinks[0]), camera(watchdog, "good", partial(Pictures, 50), sinks[1])]

    with pytest.raises(type(error)):
        run_cameras(cameras, threading.Event(), tell=told.append)

    assert [len(sink.outcomes) for sink in sinks] == [0, 50]
    assert told == [f"camera bad has ended, the others go on: {error}"]


def test_sinks_of_a_camera_that_does_not_open_are_closed(watchdog: Watchdog) -> None:
    """Whatever its opening raises; lines of others may wait in a file that they share."""
    kept = Kept()

    def broken() -> Source:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_cameras([camera(watchdog, "broken", broken, kept)], threading.Event())

    assert kept.closed == 1


def test_a_camera_that_does_not_open_holds_nobody_and_is_tried_again(watchdog: Watchdog) -> None:
    """Its first verdict comes when it is there."""
    other_has_ended, told = threading.Event(), list[str]()
    attempts: Counter[str] = Counter()

    def open_late() -> Source:
        attempts["late"] += 1
        if not other_has_ended.is_set():
            raise CameraUnreachable("no cable")
        return Pictures(3)

    ends = Kept(lambda inspection: other_has_ended.set() if inspection.verdict.seq == 9 else None)
    late = Kept()
    run_cameras(
        [camera(watchdog, "late", open_late, late), camera(watchdog, "other", partial(Pictures, 10), ends)],
        threading.Event(),
        tell=told.append,
    )

    assert (len(ends.outcomes), len(late.outcomes)) == (10, 3)
    assert attempts["late"] >= 1
    assert all(line.startswith("camera late does not open, attempt ") for line in told)


def test_a_camera_is_tried_as_often_as_its_configuration_says(watchdog: Watchdog) -> None:
    """Also before it was there once."""
    stop = threading.Event()
    attempts = 0

    def away() -> Source:
        nonlocal attempts
        attempts += 1
        if attempts == 10:
            stop.set()
        raise CameraUnreachable("no cable")

    started = time.monotonic()
    run_cameras([replace(camera(watchdog, "away", away), retry_at_most_s=0.001)], stop, tell=lambda line: None)

    assert attempts == 10
    assert time.monotonic() - started < 1, "with 2 s it is 5 s at least"


def test_openings_that_hang_are_few(watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a thread, whichever attempt began it; a camera may be away for months."""
    monkeypatch.setattr(live_camera, "CLOSE_S", 0)
    released, stop = threading.Event(), threading.Event()
    hung = tried = 0
    problems = list[str]()

    def hang() -> Device:
        nonlocal hung
        hung += 1
        released.wait()
        raise EOFError

    def dead() -> Source:
        nonlocal tried
        tried += 1
        if tried == 20:
            stop.set()
        try:
            return LiveCamera("v4l2:hangs", hang, CameraConfig(open_timeout_s=0.001))
        except CameraError as exc:
            problems.append(str(exc))
            raise

    run_cameras([replace(camera(watchdog, "dead", dead), retry_at_most_s=0.001)], stop, tell=lambda line: None)
    released.set()

    assert (tried, hung) == (20, live_camera.MAX_HUNG)
    assert "8 attempts hang inside the camera's library" in problems[-1]


def test_a_stop_is_seen_while_a_camera_opens(watchdog: Watchdog) -> None:
    """However long that may take; what opens later is given back."""
    opening, opens, closed, stop = (threading.Event() for _ in range(4))

    class Late(Pictures):
        def close(self) -> None:
            closed.set()

    def slow() -> Source:
        opening.set()
        assert opens.wait(10)
        return Late(3)

    kept = Kept()
    cameras = [camera(watchdog, "slow", slow, kept)]
    running = threading.Thread(target=run_cameras, args=(cameras, stop), daemon=True)
    running.start()
    assert opening.wait(5)
    stop.set()
    running.join(1)

    assert not running.is_alive()
    assert (kept.closed, kept.outcomes) == (1, [])
    opens.set()
    assert closed.wait(5)


def test_a_camera_that_hangs_holds_nobody(watchdog: Watchdog) -> None:
    """Neither their verdicts nor the end of the run."""
    device = HangingDevice([np.full((32, 32, 3), 9, np.uint8)])
    stop = threading.Event()

    def stops_after_the_last(inspection: Inspection) -> None:
        if inspection.verdict.seq == 29:
            stop.set()

    dead = partial(LiveCamera, "0", lambda: device, CameraConfig(stale_after_s=600), tell=lambda line: None)
    sinks = [Kept(), Kept(stops_after_the_last)]
    summaries = run_cameras(
        [camera(watchdog, "dead", dead, sinks[0]), camera(watchdog, "good", partial(Pictures, 30), sinks[1])], stop
    )
    device.released.set()

    assert summaries[1].frames == len(sinks[1].outcomes) == 30
    assert summaries[0].frames <= 1


def test_a_full_disk_stops_all(watchdog: Watchdog) -> None:
    """A station that cannot say what it saw must not go on."""

    def full(inspection: Inspection) -> None:
        raise OutputError("the disk is full")

    endless = partial(source_from_uri, "line:?size=64")
    cameras = [camera(watchdog, "a", endless, Kept(full)), camera(watchdog, "b", endless, Kept())]

    with pytest.raises(OutputError, match="full"):
        run_cameras(cameras, threading.Event())


def test_a_shared_sink_is_closed_by_its_owner(watchdog: Watchdog) -> None:
    """Not by the first camera that ends."""
    kept = Kept()
    shared = SharedSink(kept)
    run_cameras([camera(watchdog, name, partial(Pictures, 5), shared) for name in "ab"], threading.Event())

    assert (len(kept.outcomes), kept.closed) == (10, 0)
