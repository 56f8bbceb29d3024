"""Triggers: exactly one verdict for each, whatever camera, queue and clients do."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.errors import CameraError, OutputError
from mapl_edge.frame import Frame
from mapl_edge.runtime import DeadlineInspector, Inspector, RunSummary, Shot, Watchdog, run, source_from_uri
from mapl_edge.runtime.trigger_socket import TriggerSocket
from mapl_edge.runtime.triggers import TriggeredSource, Triggers
from mapl_edge.testing import HangingEngine, ManualClock
from mapl_edge.verdict import Outcome

inspector_of = partial(Inspector, contract=InputContract(size_hw=(32, 32)), limits=Limits(fail=0.9))


class Live:
    """A camera that gives a frame every few milliseconds, until it is told to be silent; see `Source`."""

    live = True

    def __init__(self) -> None:
        self._closing, self.silent = threading.Event(), threading.Event()

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        seq = 0
        while not self._closing.wait(0.005):
            if not self.silent.is_set():
                yield Frame(np.full((32, 32, 3), 9, np.uint8), seq, time.monotonic(), ManualClock().utc())
                seq += 1

    def close(self) -> None:
        """See `Source`."""
        self._closing.set()


class Station:
    """A triggered camera at work in a thread."""

    def __init__(self, camera: Live, engine: HangingEngine, most: int = 8, budget_ms: float = 10_000) -> None:
        self.triggers, self.engine = Triggers(most), engine
        self._watchdog = Watchdog([lambda: engine])
        self._watchdog.open()
        self.source = TriggeredSource(camera, self.triggers, budget_ms / 1e3)
        inspector = DeadlineInspector(self._watchdog, inspector_of, budget_ms)
        self.stop, self.summary = threading.Event(), RunSummary()
        args = self.source, inspector, [self.triggers], self.stop, None, self.summary
        self._thread = threading.Thread(target=run, args=args, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop it."""
        self.engine.release()
        self.stop.set()
        self.source.close()
        self._thread.join(10)
        self._watchdog.close()
        assert not self._thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., Station]]:
    """Starts a station, and ends it."""
    stations: list[Station] = []

    def make(camera: Live | None = None, **options: float) -> Station:
        stations.append(Station(camera or Live(), HangingEngine(), **options))  # type: ignore[arg-type]
        return stations[-1]

    yield make
    for station in stations:
        station.end()


def test_each_trigger_has_its_one_verdict_from_a_frame_after_it(start: Callable[..., Station]) -> None:
    """By its own number and name; the clock starts at the trigger."""
    station = start()
    answers = [station.triggers.trigger(f"part-{n}") for n in range(5)]
    inspections = [answer.result(10) for answer in answers]

    assert [(i.verdict.seq, i.verdict.name, i.verdict.outcome) for i in inspections] == [
        (n, f"part-{n}", Outcome.PASS) for n in range(5)
    ]
    assert station.summary.frames == 5


def test_too_many_triggers_are_error_verdicts_in_their_turn(start: Callable[..., Station]) -> None:
    """None is skipped, none is silent."""
    station = start(most=3)
    station.engine.hang()
    first = station.triggers.trigger("first")
    assert station.engine.is_hanging.wait(10)
    answers = [station.triggers.trigger(str(n)) for n in range(5)]
    station.engine.release()
    verdicts = [answer.result(10).verdict for answer in answers]

    assert first.result(10).verdict.outcome is Outcome.PASS
    assert [v.outcome for v in verdicts] == [Outcome.PASS] * 3 + [Outcome.ERROR] * 2
    assert verdicts[-1].error == "overrun: 3 triggers wait already; slow the line or the trigger"
    assert [v.seq for v in verdicts] == [1, 2, 3, 4, 5]


def test_a_camera_without_a_frame_is_an_error_at_the_deadline(start: Callable[..., Station]) -> None:
    """The gate has its answer in time."""
    camera = Live()
    camera.silent.set()
    station = start(camera, budget_ms=100)
    before = time.monotonic()
    verdict = station.triggers.trigger().result(10).verdict

    assert (verdict.outcome, verdict.error) == (
        Outcome.ERROR,
        "no frame within 100 ms of the trigger; check the camera",
    )
    assert time.monotonic() - before < 5


def test_the_deadline_counts_from_the_trigger(start: Callable[..., Station]) -> None:
    """An engine that hangs makes LATE verdicts of all that wait."""
    station = start(budget_ms=100)
    station.engine.hang()
    verdicts = [answer.result(10).verdict for answer in [station.triggers.trigger() for _ in range(3)]]

    assert {v.outcome for v in verdicts} == {Outcome.LATE}


def test_a_folder_gives_the_next_picture_at_each_trigger() -> None:
    """To rehearse with; it ends with the folder."""
    triggers = Triggers()
    source = TriggeredSource(source_from_uri("line:?parts=2&size=64"), triggers, 1.0)
    answers = [triggers.trigger() for _ in range(3)]
    summary = run(source, inspector_of(HangingEngine()), [triggers])

    assert summary.frames == 2
    assert [answer.result(1).verdict.name[:6] for answer in answers[:2]] == ["000000", "000001"]
    with pytest.raises(CameraError, match="stopped before"):
        answers[2].result(1)
    with pytest.raises(CameraError, match="stopped before"):
        triggers.trigger()


def test_an_asker_that_waits_no_longer_delays_nobody(start: Callable[..., Station]) -> None:
    """`asyncio.wait_for` cancels what it gave up: the verdict is made all the same, and nobody is told."""
    station = start()
    station.engine.hang()
    first, left = [station.triggers.trigger(name) for name in ("first", "left")]
    assert station.engine.is_hanging.wait(10)
    assert left.cancel()
    station.engine.release()
    after = station.triggers.trigger("after")

    assert [answer.result(10).verdict.outcome for answer in (first, after)] == [Outcome.PASS] * 2
    assert station.summary.frames == 3


def test_a_run_ends_whoever_waits_no_longer() -> None:
    """Those that wait still are told."""
    triggers = Triggers()
    left, waits = triggers.trigger(), triggers.trigger()
    assert left.cancel()

    triggers.close()

    with pytest.raises(CameraError, match="stopped before"):
        waits.result(1)


def talk(path: Path, words: bytes, answers: int) -> list[dict[str, object]]:
    """Say something on a connection of its own and read so many lines."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(words)
        with client.makefile() as lines:
            return [json.loads(lines.readline()) for _ in range(answers)]


def test_the_socket_answers_each_line_with_one(start: Callable[..., Station], tmp_path: Path) -> None:
    """Verdicts for triggers, one line of error for junk; only its owner may use it."""
    station, path = start(), tmp_path / "cam0.sock"
    with TriggerSocket(path, station.triggers, {"camera": "left"}):
        mode = stat.S_IMODE(path.stat().st_mode)
        first, junk, second = talk(path, b"TRIGGER part-1\nGET / HTTP/1.1\nTRIGGER\n", 3)
        long = talk(path, b"TRIGGER " + b"x" * 1000 + b"\n", 1)[0]
        binary = talk(path, b"\xff\x00\xfe\n", 1)[0]

    assert mode == 0o600
    assert (first["verdict"], first["picture"], first["camera"]) == ("PASS", "part-1", "left")
    assert set(junk) == set(long) == set(binary) == {"error"}
    assert (second["seq"], second["verdict"]) == (1, "PASS")
    assert not path.exists()
    assert station.summary.frames == 2


def test_clients_that_hang_or_vanish_delay_nobody(start: Callable[..., Station], tmp_path: Path) -> None:
    """Their triggers have verdicts all the same."""
    station, path = start(), tmp_path / "cam0.sock"
    with TriggerSocket(path, station.triggers, {}):
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
        for client in clients:
            client.connect(str(path))
        clients[0].sendall(b"TRIGGER")  # half a line, and then nothing
        clients[1].sendall(b"TRIGGER gone\n")
        clients[1].close()
        clients[2].sendall(b"TRIGGER never-reads\n")
        (answer,) = talk(path, b"TRIGGER mine\n", 1)
        until = time.monotonic() + 10
        while station.summary.frames < 3 and time.monotonic() < until:
            time.sleep(0.005)
        for client in clients:
            client.close()

    assert answer["picture"] == "mine"
    assert station.summary.frames == 3


def test_a_socket_left_by_a_killed_station_is_replaced(start: Callable[..., Station], tmp_path: Path) -> None:
    """One that is served, or a file of somebody's, is not."""
    station, path, file = start(), tmp_path / "cam0.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))
    file.write_text("mine")
    with TriggerSocket(path, station.triggers, {}):
        assert talk(path, b"TRIGGER\n", 1)[0]["verdict"] == "PASS"
        with pytest.raises(OutputError, match="another station serves it"):
            TriggerSocket(path, station.triggers, {})
        with pytest.raises(OutputError, match="is no socket"):
            TriggerSocket(file, station.triggers, {})

    assert file.read_text() == "mine"


@pytest.mark.parametrize("stopped_by", ["stop", "close"])
def test_a_camera_that_nobody_triggers_ends_when_it_shall(stopped_by: str) -> None:
    """Ctrl-C on a line that stands still must not wait for a part."""
    stop = threading.Event()
    source = TriggeredSource(Live(), Triggers(), wait_s=1.0, stop=stop)
    seen: list[Shot] = []
    waiting = threading.Thread(target=lambda: seen.extend(source.shots()), daemon=True)
    waiting.start()

    (stop.set if stopped_by == "stop" else source.close)()

    waiting.join(5)
    assert not waiting.is_alive()
    assert seen == []
    assert source.camera_is_live
    assert not source.live
    source.close()
