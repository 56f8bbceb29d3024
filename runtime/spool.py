"""Spool: lines on their way to where a disk may be full and a reader may sleep. Verdicts go on meanwhile.

A thread writes them, so what hangs there holds nobody up; what is refused waits in memory and is tried again.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from mapl_edge.errors import OutputError

logger = logging.getLogger(__name__)

SPOOL_BYTES = 16 << 20  # of lines that wait; about 20,000 verdicts
PATIENCE_S = 0.05  # how long `put` waits for its line, while all is well
RETRY_S = 1.0  # time between attempts at a disk that refuses
CLOSE_S = 5.0  # how long the last lines may take
Make = Callable[[], bytes]
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
}
"""What may pass by itself or when somebody makes room; anything else ends the spool."""


class Spool:
    """Lines in memory, and the thread that writes them in their order; from any thread.

    Args:
        write: writes one line whole, or raises and leaves nothing of it.
        where: for people.
        elsewhere: the verdicts are kept elsewhere too, so a line beyond `SPOOL_BYTES` is lost, counted and told; else
            it is an error.
        tell: gets a line when trouble begins, and one when it is over.

    Attributes:
        lost: lines that did not fit.
        closed: `close` was called.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        where: str,
        *,
        elsewhere: bool = False,
        tell: Callable[[str], None] = logger.warning,
    ) -> None:
        self._write, self._where, self._elsewhere, self._tell = write, where, elsewhere, tell
        self._lines: deque[bytes | Make] = deque()
        self._bytes = self._put = self._written = self.lost = 0
        self._trouble = ""  # empty: all is well
        self._since = 0.0
        self._failed: BaseException | None = None
        self.closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def put(self, make: Make) -> None:
        """Queue a line. Waits until the one before is written, no longer than `PATIENCE_S` and only while all is well.

        At a line's pace that one was written long ago, so nobody waits here for another thread to wake up. Then the
        writing thread makes the line too; one that must wait is made here, as what it says takes more memory.

        Raises:
            OutputError: no more fits, or writing has failed for good.
        """
        with self._changed:
            self._check()
            if self._lines and not self._trouble:
                before = self._put
                self._changed.wait_for(lambda: self._written >= before or self._trouble or self._failed, PATIENCE_S)
                self._check()
                if self._written < before and not self._trouble:
                    self._begin_trouble("it does not answer")
            line = make() if self._lines or self._trouble else make
            size = _size(line)
            if self._bytes + size > SPOOL_BYTES:
                if not self._elsewhere:
                    raise OutputError(
                        f"cannot write {self._where}: {self._trouble or 'it is too slow'}; "
                        f"{len(self._lines)} lines wait in memory, and no more fit"
                    )
                self.lost += 1
                return
            self._lines.append(line)
            self._bytes += size
            self._put += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits.

        Raises:
            OutputError: some lines could not be written.
        """
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        if self._lines or self._failed is not None:
            why = self._trouble or self._failed or "it does not answer"
            raise OutputError(f"cannot write {self._where}: {why}; {len(self._lines)} lines are lost")

    @property
    def stuck(self) -> bool:
        """The thread has not come back."""
        return self._thread.is_alive()

    # With `_changed` held.

    def _check(self) -> None:
        if isinstance(self._failed, OutputError):
            raise self._failed
        if self._failed is not None:
            raise OutputError(f"cannot write {self._where}: {self._failed}") from self._failed

    def _begin_trouble(self, why: str) -> None:
        if not self._trouble:
            self._since = time.monotonic()
            self._tell(f"{self._where}: {why}; lines wait in memory, verdicts go on")
        self._trouble = why

    def _end_trouble(self) -> None:
        lost = f"; {self.lost} lines did not fit into memory and are lost here" if self.lost else ""
        self._tell(f"{self._where}: written again after {time.monotonic() - self._since:.1f} s, nothing waits{lost}")
        self._trouble = ""

    # The writing thread.

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._lines and not self.closed:
                        self._changed.wait(RETRY_S)
                    if not self._lines:
                        return
                    first, is_last_try = self._lines[0], self.closed
                line = first if isinstance(first, bytes) else first()
                try:
                    self._write(line)
                except OSError as exc:
                    if exc.errno not in REFUSALS:
                        raise
                    with self._changed:
                        self._begin_trouble(REFUSALS[exc.errno])
                        self._lines[0] = line
                        self._bytes += len(line) - _size(first)
                        self._changed.notify_all()
                        if is_last_try:  # the disk may have room since one that began before
                            return
                        self._changed.wait_for(lambda: self.closed, RETRY_S)
                    continue
                with self._changed:
                    self._lines.popleft()
                    self._bytes -= _size(first)
                    self._written += 1
                    if self._trouble and not self._lines:
                        self._end_trouble()
                    self._changed.notify_all()
        except BaseException as exc:  # handed to whoever puts next
            with self._changed:
                self._failed = exc
                self._changed.notify_all()


def _size(line: bytes | Make) -> int:
    """Of one that is not made yet there is at most one."""
    return len(line) if isinstance(line, bytes) else 0
