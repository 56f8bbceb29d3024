"""A stderr that nothing waits for: of a station it may lead to a stopped terminal, a full pipe or one that is gone."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

MOST_TEXTS = 1000  # that wait for whoever reads; what comes on top is lost
CLOSE_S = 1.0  # how long the end waits for them


@contextmanager
def unhurried_stderr() -> Iterator[None]:
    """Meanwhile what is written to `sys.stderr` is written in a thread, in order; what nobody takes is lost."""
    before = sys.stderr
    sys.stderr = unhurried = _Unhurried(before)
    try:
        yield
    finally:
        sys.stderr = before
        unhurried.end()


class _Unhurried(io.TextIOBase):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._texts: SimpleQueue[str | None] = SimpleQueue()  # which a signal's handler may use too
        self._thread = threading.Thread(target=self._work, name="stderr", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._texts.qsize() < MOST_TEXTS:
            self._texts.put(text)
        return len(text)

    def end(self) -> None:
        """Write what waits, for so long."""
        self._texts.put(None)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        while (text := self._texts.get()) is not None:
            with suppress(OSError, ValueError, AttributeError):  # of a stream that is broken, closed or was never there
                self._out(text)

    def _out(self, text: str) -> None:
        try:
            number = self._stream.fileno()
        except io.UnsupportedOperation:
            self._stream.write(text)
            return
        rest = text.encode(self.encoding, "replace")
        while rest:  # past the stream's buffer, whose lock would hold up the interpreter's end
            rest = rest[os.write(number, rest) :]
