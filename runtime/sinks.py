"""Sinks: where verdicts go."""

from __future__ import annotations

import copy
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol, runtime_checkable

from mapl_edge.errors import OutputError
from mapl_edge.files import files_errors, write_stdout
from mapl_edge.runtime.background import Background
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.sources import Shot
from mapl_edge.runtime.spool import Spool
from mapl_edge.runtime.store_lock import hold
from mapl_edge.verdict import Verdict

logger = logging.getLogger(__name__)
STDOUT = threading.Lock()  # lines are whole
MOST_WAITING = 64  # inspections that wait for a sink
CLOSE_S = 5.0  # how long a sink may take for what waits when the run ends
LONGEST_LINE = 1 << 16  # bytes; a verdict is far shorter, whatever its file name or error
BEHIND_ALL = 1 << 40  # bytes


class Sink(Protocol):
    """Takes every inspection in order."""

    def emit(self, inspection: Inspection) -> None:
        """Take one. The inspection may be kept."""
        ...

    def close(self) -> None:
        """Bring everything to its place; calling it twice is harmless."""
        ...


@runtime_checkable
class LateSink(Sink, Protocol):
    """A sink that also wants the real results of shots that were answered LATE."""

    def late(self, inspection: Inspection) -> None:
        """Take one for the record. The shot's verdict has gone out long before, and stands."""
        ...


@runtime_checkable
class ExpectingSink(Sink, Protocol):
    """A sink that wants to know of a shot before it is inspected, so that none can vanish."""

    def expect(self, shot: Shot) -> None:
        """A verdict for this shot is about to come. Cheap: it is on the frame path."""
        ...


class JsonLines:
    """One JSON object a line per verdict, in a file; each line is on its way to the disk at once, and whole.

    On a disk that is full or does not answer, lines wait in memory and the run goes on; see `Spool`.

    Args:
        out: the file.
        station: what all lines share: run, camera, digests.
        append: go on in a file that exists, as a station does after each start; a line that a power cut left
            half-written is taken off first. Otherwise the file must be new.
        elsewhere: the verdicts are kept elsewhere too, so lines that do not fit into memory are lost here; else they
            end the run.

    Raises:
        OutputError: the file exists, another run writes it, or it cannot be written at all.
    """

    def __init__(self, out: Path, station: dict[str, str], *, append: bool = False, elsewhere: bool = False) -> None:
        self._out, self._station = out, station
        with files_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            self._file = out.open("r+b" if append and out.exists() else "x+b", buffering=0)
            self._hold()
            self._take_off_half_a_line()
        self._lock, self._users = threading.Lock(), [self]
        self._spool = Spool(line_writer(self._file), str(out), elsewhere=elsewhere)

    def beside(self, station: dict[str, str]) -> JsonLines:
        """The lines of another camera in the same file, which is closed with the last of them; from any thread."""
        other = copy.copy(self)
        other._station = station
        self._users.append(other)
        return other

    def _hold(self) -> None:
        """Keep other runs out; on a disk that has no locks, nobody can.

        Windows lets nobody read what is locked: a byte that no line reaches. Elsewhere where the file stands is all the
        same, and some file systems do not reach so far.
        """
        if sys.platform == "win32":
            self._file.seek(BEHIND_ALL)
        try:
            hold(self._file.fileno())
        except BlockingIOError as exc:
            self._file.close()
            raise OutputError(f"{self._out}: another run writes it; end that one, or name another out") from exc
        except OSError:
            pass

    def _take_off_half_a_line(self) -> None:
        """Leave the file at its end, behind a whole line; a file that is not ours is not touched."""
        size = self._file.seek(0, os.SEEK_END)
        start = max(0, size - LONGEST_LINE)
        self._file.seek(start)
        tail = self._file.read()
        half = tail[tail.rfind(b"\n") + 1 :]
        if not b'{"seq": '.startswith(half[:8]) or len(half) == LONGEST_LINE:
            self._file.close()
            raise OutputError(
                f"{self._out} does not end in a line of verdicts, so it is not continued; name another out"
            )
        self._file.truncate(size - len(half))
        self._file.seek(size - len(half))

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self._spool.put(partial(_line, inspection.verdict, self._station))

    def close(self) -> None:
        """See `Sink`.

        Raises:
            OutputError: lines that waited could not be written.
        """
        with self._lock:
            if self in self._users:
                self._users.remove(self)
            if self._users or self._spool.closed:
                return
            try:
                self._spool.close()
                with files_errors(self._out):
                    os.fsync(self._file.fileno())
            finally:
                if not self._spool.stuck:  # a thread that hangs in the file keeps it
                    self._file.close()


def line_writer(file: FileIO) -> Callable[[bytes], None]:
    """What adds lines to a file at its place; a line that does not go in whole leaves nothing.

    The next one is written where it began even if the disk refuses to take the half line back. Where somebody has cut
    the file short meanwhile, as `logrotate` does with `copytruncate`, lines go on at its new end.
    """
    end = file.tell()

    def write(line: bytes) -> None:
        nonlocal end
        try:
            end = min(end, os.fstat(file.fileno()).st_size)
            if _write_at(file.fileno(), line, end) != len(line):
                raise OSError(errno.ENOSPC, "short write")
        except OSError:
            with suppress(OSError):  # the first error tells
                file.truncate(end)
            raise
        end += len(line)

    return write


def _write_at(handle: int, line: bytes, place: int) -> int:
    """Bytes that went in; Windows knows no writing at a place."""
    if sys.platform == "win32":
        os.lseek(handle, place, os.SEEK_SET)
        return os.write(handle, line)
    return os.pwrite(handle, line, place)


class StdoutLines:
    """The same lines on standard output; several cameras may write there.

    Args:
        elsewhere: the verdicts are kept elsewhere too, so a reader that does not read holds nobody up; see `Spool`.
            Otherwise the run goes at the reader's pace.

    Raises:
        OutputError: nobody reads it any more, or its disk is full.
    """

    def __init__(self, station: dict[str, str], *, elsewhere: bool = False) -> None:
        self._station = station
        self._spool = Spool(_write_to_stdout, "standard output", elsewhere=True) if elsewhere else None

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        if self._spool is None:
            _write_to_stdout(_line(inspection.verdict, self._station))
        else:
            self._spool.put(partial(_line, inspection.verdict, self._station))

    def close(self) -> None:
        """Standard output belongs to the process.

        Raises:
            OutputError: lines wait that nobody has read.
        """
        if self._spool is not None:
            spool, self._spool = self._spool, None
            spool.close()


def _line(verdict: Verdict, station: Mapping[str, str]) -> bytes:
    return (verdict.json_line(**station) + "\n").encode()


def _write_to_stdout(line: bytes) -> None:
    with STDOUT:
        write_stdout(line)


class QueuedSink:
    """Any sink behind a bounded queue with a thread of its own: slow or stuck, it holds neither verdict nor other sink.

    What does not fit, or what the sink fails to take, is dropped for this sink alone, counted and told.

    Args:
        sink: not a store: the record drops nothing, and has a queue of its own.
        name: for people.
        most: inspections that may wait; each may hold a picture.
    """

    def __init__(self, sink: Sink, name: str, most: int = MOST_WAITING) -> None:
        if isinstance(sink, ExpectingSink):
            raise ValueError(f"{name} accounts for every shot, so it must not drop any; give it to run as it is")
        self._sink, self._name = sink, name
        self._background: Background[Callable[[], None]] = Background(lambda take: take(), f"verdicts for {name}", most)
        self._closed = False

    @property
    def dropped(self) -> int:
        """Verdicts that this sink did not get."""
        return self._background.dropped

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self._background.put(partial(self._sink.emit, inspection))

    def late(self, inspection: Inspection) -> None:
        """See `LateSink`."""
        if isinstance(self._sink, LateSink):
            self._background.put(partial(self._sink.late, inspection))

    def close(self) -> None:
        """See `Sink`; a sink that is stuck is left to its fate."""
        if self._closed:
            return
        self._closed = True
        if self._background.close(CLOSE_S):
            self._sink.close()
        else:
            logger.warning("%s is stuck and was not closed", self._name)


class SharedSink:
    """One sink for several cameras: takes one inspection at a time; whoever made the sink inside closes it."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._lock = sink, threading.Lock()

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        with self._lock:
            self._sink.emit(inspection)

    def close(self) -> None:
        """Other cameras go on."""
