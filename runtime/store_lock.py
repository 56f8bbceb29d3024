"""Lock: a file that a process holds for as long as it lives, however it ends; so that others see who is gone."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from mapl_edge.files import files_errors


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock file in our hands."""

    path: Path
    handle: int

    def release(self) -> None:
        """Let go and delete the file."""
        os.close(self.handle)  # first: Windows deletes no open file
        self.path.unlink(missing_ok=True)


def held_lock(path: Path) -> HeldLock:
    """Make and hold a lock file.

    Raises:
        BlockingIOError: a living process holds it.
    """
    with files_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        hold(handle)
    except BaseException:
        os.close(handle)
        raise
    return HeldLock(path, handle)


if sys.platform == "win32":
    import msvcrt

    def hold(handle: int) -> None:
        """See below."""
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            raise BlockingIOError from exc
else:
    import fcntl

    def hold(handle: int) -> None:
        """Hold an open file until it is closed or the process ends; BlockingIOError: somebody holds it."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
