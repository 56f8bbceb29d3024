"""Sinks: where verdicts go."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from mapl_edge.errors import OutputError
from mapl_edge.files import files_errors
from mapl_edge.runtime.inspector import Inspection


class Sink(Protocol):
    """Takes every inspection in order."""

    def emit(self, inspection: Inspection) -> None:
        """Take one. The inspection may be kept."""
        ...

    def close(self) -> None:
        """Bring everything to its place; calling it twice is harmless."""
        ...


class JsonLines:
    """One JSON object a line per verdict, to a new file or to standard output; each line leaves at once and whole.

    Args:
        out: a file that must not exist; None is standard output.
        station: what all lines share: run, camera, digests.

    Raises:
        OutputError: the file exists, or cannot be written; on a full disk the last line is taken back, not cut.
    """

    def __init__(self, out: Path | None, station: dict[str, str]) -> None:
        self._out, self._station = out, station
        self._file: IO[bytes] = sys.stdout.buffer
        if out is not None:
            with files_errors(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                self._file = out.open("xb", buffering=0)

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        line = (inspection.verdict.json_line(**self._station) + "\n").encode()
        if self._out is None:
            try:
                self._file.write(line)
                self._file.flush()
            except BrokenPipeError as exc:
                # Nobody reads any more. Python would complain once again at exit, when it flushes.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise OutputError("standard output was closed by its reader; use --out to keep the verdicts") from exc
            return
        with files_errors(self._out):
            before = self._file.tell()
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "short write")
            except OSError:
                with suppress(OSError):  # a pipe or device has nothing to take back; the first error tells
                    self._file.truncate(before)
                    self._file.seek(before)
                raise

    def close(self) -> None:
        """See `Sink`."""
        if self._out is not None and not self._file.closed:
            with files_errors(self._out):
                os.fsync(self._file.fileno())
                self._file.close()
