"""Verdict lines: whole, at once, and never over something that exists."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Limits
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.errors import OutputError
from mapl_edge.frame import Frame
from mapl_edge.runtime import (
    Inspection,
    Inspector,
    JsonLines,
    QueuedSink,
    RunIdentity,
    StdoutLines,
    open_store,
    spool,
)
from mapl_edge.runtime import sinks as sinks_module
from mapl_edge.runtime.sinks import line_writer
from mapl_edge.runtime.spool import Spool
from mapl_edge.testing import FakeEngine, ManualClock


@pytest.fixture
def inspection() -> Inspection:
    """One verdict."""
    clock = ManualClock()
    frame = Frame(np.zeros((32, 32, 3), np.uint8), 0, clock.monotonic(), clock.utc(), "Teil-ä")
    return Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.5), clock).inspect(frame)


class Disk:
    """What the disk under every verdict file does."""

    def __init__(self) -> None:
        self.full, self.answers = threading.Event(), threading.Event()
        self.answers.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """One that is well until it is told otherwise; a refused line is tried again soon."""
    disk, real = Disk(), os.pwrite

    def pwrite(file: int, data: bytes, at: int) -> int:
        assert disk.answers.wait(30)
        if disk.full.is_set():
            real(file, data[:10], at)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(spool, "RETRY_S", 0.01)
    return disk


class Stubborn:
    """A file that cannot be cut."""

    def __init__(self, real: IO[bytes]) -> None:
        self._real = real

    def truncate(self, size: int) -> int:
        """As a disk with an error does."""
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def numbered(inspection: Inspection, seq: int) -> Inspection:
    """The same verdict of another shot."""
    return replace(inspection, verdict=replace(inspection.verdict, seq=seq))


def seqs(out: Path) -> list[int]:
    """Of the lines in a file, all of which are whole."""
    content = out.read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [json.loads(line)["seq"] for line in content.splitlines()]


def written(out: Path, n: int) -> list[str]:
    """The lines of a file, once they are so many."""
    until = time.monotonic() + 10
    while len(lines := out.read_text(encoding="utf-8").splitlines()) < n:
        assert time.monotonic() < until, f"{len(lines)} lines, expected {n}"
        time.sleep(0.001)
    return lines


def test_each_verdict_is_on_disk_before_the_next(tmp_path: Path, inspection: Inspection) -> None:
    """Whoever follows the file sees it at once, without a next one that pushes it."""
    out = tmp_path / "new" / "verdicts.jsonl"
    sink = JsonLines(out, {"run": "r1"})

    for n in range(1, 200):
        sink.emit(inspection)
        assert len(out.read_text(encoding="utf-8").splitlines()) in (n - 1, n)
    lines = written(out, 199)
    assert json.loads(lines[-1])["run"] == "r1"
    assert json.loads(lines[-1])["picture"] == "Teil-ä"
    sink.close()
    sink.close()


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    """It holds somebody's verdicts."""
    out = tmp_path / "verdicts.jsonl"
    out.write_text("mine")

    with pytest.raises(OutputError, match="exists"):
        JsonLines(out, {})

    assert out.read_text() == "mine"


@pytest.mark.parametrize("half", [b"", b"{", b'{"seq": 12, "pict'], ids=["none", "a byte", "half"])
def test_a_file_is_continued_behind_its_last_whole_line(tmp_path: Path, inspection: Inspection, half: bytes) -> None:
    """A power cut may fall into any byte; a file of months is not read whole for it."""
    out = tmp_path / "verdicts.jsonl"
    whole = b'{"seq": 1, "picture": "x"}\n' * 10_000
    out.write_bytes(whole + half)

    sink = JsonLines(out, {}, append=True)
    sink.emit(inspection)
    sink.close()

    assert out.read_bytes().startswith(whole)
    assert json.loads(out.read_bytes()[len(whole) :])["seq"] == 0


@pytest.mark.parametrize("content", [b"notes of somebody", b"x\nnotes", b"\0" * 100_000], ids=["text", "lines", "long"])
def test_a_file_of_somebody_else_is_not_continued(tmp_path: Path, content: bytes) -> None:
    """A wrong name in station.yaml must not cost them their last line."""
    out = tmp_path / "verdicts.jsonl"
    out.write_bytes(content)

    with pytest.raises(OutputError, match="does not end in a line of verdicts"):
        JsonLines(out, {}, append=True)

    assert out.read_bytes() == content


def test_a_file_that_another_run_writes_is_not_continued(tmp_path: Path, inspection: Inspection) -> None:
    """Each would write over the other's lines."""
    out = tmp_path / "verdicts.jsonl"
    first = JsonLines(out, {})
    out.write_bytes(b'{"seq": 7')  # half a line of the one that writes

    with pytest.raises(OutputError, match=r"verdicts.jsonl: another run writes it; end that one, or name another out"):
        JsonLines(out, {}, append=True)

    assert out.read_bytes() == b'{"seq": 7'
    first.close()
    JsonLines(out, {}, append=True).close()


def test_a_full_disk_keeps_lines_until_there_is_room(
    tmp_path: Path, inspection: Inspection, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once when it begins and once when it is over; nothing is missing then, in order."""
    out = tmp_path / "verdicts.jsonl"
    sink = JsonLines(out, {})
    sink.emit(numbered(inspection, 0))
    written(out, 1)
    disk.full.set()
    for seq in range(1, 500):
        sink.emit(numbered(inspection, seq))
    whole, _ = out.read_bytes().rsplit(b"\n", 1)  # behind them, for a moment, what the disk took of a line it refuses
    assert [json.loads(line)["seq"] for line in whole.splitlines()] == [0]
    disk.full.clear()
    sink.emit(numbered(inspection, 500))
    sink.close()

    assert seqs(out) == list(range(501))
    begun, over = (record.getMessage() for record in caplog.records)
    assert begun == f"{out}: the disk is full; lines wait in memory, verdicts go on"
    assert "written again after" in over


def test_a_try_that_began_before_the_end_is_not_the_last() -> None:
    """The disk refuses a line, gets room, and the run ends before the refusal is heard of: the line is tried again."""
    tried, heard = threading.Event(), threading.Event()
    lines: list[bytes] = []

    def write(line: bytes) -> None:
        if not tried.is_set():
            tried.set()
            assert heard.wait(10)
            raise OSError(errno.ENOSPC, "full")
        lines.append(line)

    spool = Spool(write, "verdicts.jsonl")
    spool.put(lambda: b"1")
    assert tried.wait(10)
    closing = threading.Thread(target=spool.close)
    closing.start()
    while not spool.closed:
        time.sleep(0.001)
    heard.set()
    closing.join(10)

    assert lines == [b"1"]


def test_a_line_is_made_by_whoever_has_time() -> None:
    """While all is well the thread that writes it; one that must wait at once, for then it takes less memory."""
    makers, written_lines, begun, may_write = list[str](), list[bytes](), threading.Event(), threading.Event()

    def made(n: int) -> bytes:
        makers.append(threading.current_thread().name)
        return b"%d" % n

    def write(line: bytes) -> None:
        begun.set()
        assert may_write.wait(10)
        written_lines.append(line)

    spool = Spool(write, "lines", tell=lambda line: None)
    for n in range(3):
        spool.put(partial(made, n))
        assert begun.wait(10)
    assert makers == ["spool", "MainThread", "MainThread"]
    may_write.set()
    spool.close()

    assert written_lines == [b"0", b"1", b"2"]


def test_a_disk_that_hangs_delays_one_verdict_a_little(tmp_path: Path, inspection: Inspection, disk: Disk) -> None:
    """A network drive that does not answer holds its own lines up and nothing else."""
    out = tmp_path / "verdicts.jsonl"
    sink = JsonLines(out, {})
    disk.answers.clear()
    took_s = []
    for seq in range(200):
        started = time.monotonic()
        sink.emit(numbered(inspection, seq))
        took_s.append(time.monotonic() - started)
    disk.answers.set()
    sink.close()

    assert max(took_s[:2]) >= spool.PATIENCE_S  # the one after the line that hangs
    assert sum(took_s) < 0.25 * len(took_s) * spool.PATIENCE_S  # and not each of them; a busy machine may stop us too
    assert seqs(out) == list(range(200))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_beyond_its_bound_memory_takes_no_more(
    tmp_path: Path, inspection: Inspection, disk: Disk, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """An error where these lines are all there is; where a store has the verdicts too, they are counted and told."""
    monkeypatch.setattr(spool, "SPOOL_BYTES", 10_000)
    told: list[str] = []
    out = (tmp_path / "lines").open("w+b", buffering=0)
    lines = spool.Spool(line_writer(out), "lines", elsewhere=elsewhere, tell=told.append)
    disk.full.set()
    line = b"x" * 99 + b"\n"
    for _ in range(100):
        lines.put(lambda: line)

    if not elsewhere:
        with pytest.raises(OutputError, match="the disk is full; 100 lines wait in memory, and no more fit"):
            lines.put(lambda: line)
    else:
        for _ in range(7):
            lines.put(lambda: line)
    disk.full.clear()
    lines.close()

    assert (tmp_path / "lines").read_bytes() == 100 * line
    assert lines.lost == (7 if elsewhere else 0)
    assert ("7 lines did not fit into memory and are lost here" in told[-1]) == elsewhere


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path: Path, inspection: Inspection, disk: Disk) -> None:
    """With how much is lost; what is there is whole. Closing again is harmless."""
    out = tmp_path / "verdicts.jsonl"
    sink = JsonLines(out, {})
    sink.emit(numbered(inspection, 0))
    written(out, 1)
    disk.full.set()
    for seq in range(1, 9):
        sink.emit(numbered(inspection, seq))

    with pytest.raises(OutputError, match=r"verdicts.jsonl: the disk is full; 8 lines are lost"):
        sink.close()
    sink.close()

    assert seqs(out) == [0]


def test_a_full_device_is_told_and_the_run_goes_on() -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    told: list[str] = []
    with open("/dev/full", "r+b", buffering=0) as file:
        lines = spool.Spool(line_writer(file), "lines", tell=told.append)
        for _ in range(3):
            lines.put(lambda: b"{}\n")
        with pytest.raises(OutputError, match="the disk is full; 3 lines are lost"):
            lines.close()

    assert told == ["lines: the disk is full; lines wait in memory, verdicts go on"]


def test_what_will_not_pass_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting would not help, and the fault would be hidden."""

    def broken(*_: object) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(os, "pwrite", broken)
    with (tmp_path / "lines").open("w+b", buffering=0) as file:
        lines = spool.Spool(line_writer(file), "lines")
        lines.put(lambda: b"{}\n")
        with pytest.raises(OutputError, match="Bad file descriptor"):
            lines.put(lambda: b"{}\n")
        with pytest.raises(OutputError, match="1 lines are lost"):
            lines.close()


def test_lines_go_on_at_the_start_of_a_file_that_was_rotated(tmp_path: Path) -> None:
    """`logrotate` with `copytruncate` empties it under the writer; no zeros stand before the next line then."""
    path = tmp_path / "lines"
    with path.open("xb", buffering=0) as file:
        write = line_writer(file)
        write(b"one\n")
        write(b"two\n")
        os.truncate(path, 0)
        write(b"three\n")
        write(b"four\n")

    assert path.read_bytes() == b"three\nfour\n"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(-1, 29), max_size=4)), max_size=20), st.booleans())
def test_whatever_a_disk_refuses_lines_stay_whole(lines: list[tuple[int, list[int]]], truncates: bool) -> None:
    """Each write takes some bytes of a line, or none, until one takes it whole; even if nothing can be taken back."""
    real, takes = os.pwrite, list[int]()

    def pwrite(file: int, data: bytes, at: int) -> int:
        taken = takes.pop(0) if takes else len(data)
        if taken < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[:taken], at)

    with tempfile.TemporaryFile("w+b", buffering=0) as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        stubborn = Stubborn(file) if not truncates else file
        write = line_writer(stubborn)  # type: ignore[arg-type]
        expected = b""
        for number, (length, refused) in enumerate(lines):
            line = (f"{number}".rjust(length + 3, ".") + "\n").encode()
            takes = [taken for taken in refused if taken < len(line)]
            while True:
                try:
                    write(line)
                    break
                except OSError:
                    continue
            expected += line
            if truncates:
                file.seek(0)
                assert file.read() == expected
        file.seek(0)
        assert file.read()[: len(expected)] == expected


def test_a_reader_that_sleeps_holds_nobody_up_where_a_store_has_the_verdicts(inspection: Inspection) -> None:
    """`run --store … | less`: the pipe is full, the line goes on."""
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as pipe, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", type("Pipe", (), {"buffer": pipe})())
        sink = StdoutLines({}, elsewhere=True)
        started = time.monotonic()
        for seq in range(1000):  # more than a pipe's 64 KiB
            sink.emit(numbered(inspection, seq))
        took_s = time.monotonic() - started
        seen = b""
        while seen.count(b"\n") < 1000:
            seen += os.read(read, 1 << 16)
        sink.close()
    os.close(read)

    assert took_s < 5
    assert [json.loads(line)["seq"] for line in seen.splitlines()] == list(range(1000))


class Slow:
    """A sink that hangs until it is let go, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go_on, self.entered, self.seqs, self.closed = threading.Event(), threading.Event(), list[int](), False
        self._error = error

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.entered.set()
        assert self.go_on.wait(30)
        if self._error is not None:
            raise self._error
        self.seqs.append(inspection.verdict.seq)

    def late(self, inspection: Inspection) -> None:
        """See `LateSink`."""
        self.seqs.append(-inspection.verdict.seq)

    def close(self) -> None:
        """See `Sink`."""
        self.closed = True


def test_a_sink_that_hangs_holds_neither_verdict_nor_other_sink(
    inspection: Inspection, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that does not answer loses its own copies, counted and told once; in order otherwise."""
    stuck, well = Slow(), Slow()
    well.go_on.set()
    sinks = [QueuedSink(stuck, "broker", most=5), QueuedSink(well, "screen", most=1000)]
    sinks[0].emit(numbered(inspection, 0))
    assert stuck.entered.wait(10)
    started = time.monotonic()
    for seq in range(1, 200):
        for sink in sinks:
            sink.emit(numbered(inspection, seq))
    took_s = time.monotonic() - started
    stuck.go_on.set()
    for sink in sinks:
        sink.close()

    assert took_s < 5
    assert stuck.seqs == list(range(6))
    assert well.seqs == list(range(1, 200))
    assert [sink.dropped for sink in sinks] == [194, 0]
    assert stuck.closed
    assert caplog.text.count("verdicts for broker are dropped: they come faster than they are taken") == 1
    assert "verdicts for broker: 194 were dropped in all" in caplog.text


def test_a_sink_that_never_comes_back_does_not_hold_the_end(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left behind, and said."""
    monkeypatch.setattr(sinks_module, "CLOSE_S", 0.05)
    stuck = Slow()
    sink = QueuedSink(stuck, "broker")
    for seq in range(3):
        sink.emit(numbered(inspection, seq))
    assert stuck.entered.wait(10)
    sink.close()
    sink.close()
    stuck.go_on.set()

    assert not stuck.closed
    assert sink.dropped == 2
    assert "broker is stuck and was not closed" in caplog.text


def test_a_sink_that_fails_loses_its_own_verdicts_alone(
    inspection: Inspection, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, with its reason; late results go the same way."""
    broken = Slow(OSError(errno.ECONNREFUSED, "Connection refused"))
    broken.go_on.set()
    sink = QueuedSink(broken, "broker")
    for seq in range(1, 4):
        sink.emit(numbered(inspection, seq))
    sink.late(numbered(inspection, 9))
    sink.close()

    assert (sink.dropped, broken.seqs, broken.closed) == (3, [-9], True)
    assert caplog.text.count("verdicts for broker are dropped: Connection refused; verdicts go on") == 1


def test_the_record_is_never_behind_a_queue_that_drops(tmp_path: Path) -> None:
    """Drops are of copies, never of the account."""
    with (
        open_store(tmp_path, RunIdentity("r", "c", "b", "k", "fake", Limits(fail=0.5)), StoreConfig()) as store,
        pytest.raises(ValueError, match="store accounts for every shot"),
    ):
        QueuedSink(store, "store")
