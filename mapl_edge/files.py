"""Files that are whole or absent: results are built beside their place and renamed into it.

`files_errors` is the one door through which the operating system's refusals become OutputError.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mapl_edge.errors import OutputError

LEFT_S = 86400.0  # so long nobody writes one file
DEAD_AFTER_S = 1.0  # a folder under construction is held long before


@contextmanager
def new_folder(out: Path, marker: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on leaving without an error it becomes `out` in one step.

    Where `out` is replaced, the two change places in one step too (Linux, and file systems that can: ext4, XFS, Btrfs,
    tmpfs); elsewhere there is a moment between two renames in which a kill leaves the old one beside its place.
    `marker` is a file that every folder of this kind holds; with `overwrite`, only such a folder is replaced. What a
    killed process has left of the same folder is removed first.

    Raises:
        OutputError: `out` exists (and `overwrite` is false), or the disk refuses.
    """
    check_absent(out, marker, overwrite=overwrite)
    with files_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent, out.name)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        handle = _hold(work)
        try:
            work.chmod(0o755)
            yield work
            for path in (work, *work.rglob("*")):
                if path.is_dir() or path.stat().st_nlink == 1:  # a second name of a file that lies elsewhere is safe
                    _sync(path)
            if out.exists() and (out.is_symlink() or not _exchange(work, out)):
                old = work.with_suffix(".old")
                os.rename(out, old)
                try:
                    os.rename(work, out)
                except OSError:
                    os.rename(old, out)
                    raise
                if old.is_symlink():
                    old.unlink()
                else:
                    shutil.rmtree(old)
            elif not out.exists():
                os.rename(work, out)
            _sync(out.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if handle is not None:
                os.close(handle)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what `new_folder` was building in `folder` when it was killed: the folder `name`, or any.

    What a living process builds is held by it and stays. Where folders cannot be held (Windows, some network disks),
    nothing is deleted.
    """
    for left in folder.glob(f".{'*' if name is None else glob.escape(name)}.????????.partial"):
        handle = _hold(left)
        if handle is None:
            continue
        if time.time() - os.fstat(handle).st_mtime > DEAD_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
        os.close(handle)


def unfinished(name: str) -> str:
    """What `new_file` calls a file of this name while it is written: a pattern, as for a shell."""
    return f".{glob.escape(name)}.????????.partial{glob.escape(Path(name).suffix)}"


@contextmanager
def new_file(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path beside `out` to write to; on leaving without an error it becomes `out` in one rename.

    What was left a day ago by a process that was killed is removed.

    Raises:
        OutputError: `out` exists (and `overwrite` is false), or the disk refuses.
    """
    check_absent(out, overwrite=overwrite)
    with files_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=f".partial{out.suffix}", dir=out.parent)
        os.close(handle)
        work = Path(name)
        for left in out.parent.glob(unfinished(out.name)):
            with suppress(OSError):  # another one removes it too
                if time.time() - left.stat().st_mtime > LEFT_S:
                    left.unlink()
        try:
            work.chmod(0o644)
            yield work
            _sync(work)
            os.replace(work, out)
            _sync(out.parent)
        finally:
            work.unlink(missing_ok=True)


def check_absent(out: Path, marker: str | None = None, *, overwrite: bool = False) -> None:
    """Raise OutputError when `out` exists and may not be replaced. Called early, so that no work is lost.

    A folder without `marker` in it holds something of somebody else's and is never replaced.
    """
    with files_errors(out):
        exists = out.exists()
    if exists and not overwrite:
        raise OutputError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if marker is not None and exists and not (out / marker).is_file():
        raise OutputError(f"{out} exists and has no {marker} in it, so it is not ours to replace; choose another --out")


@contextmanager
def files_errors(out: Path) -> Iterator[None]:
    """Translate the operating system's refusal to write `out` into OutputError."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space or write elsewhere",
        errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
        errno.EROFS: "the file system is read-only; write elsewhere",
        errno.EACCES: "permission denied; write elsewhere or change the folder's owner",
        errno.EPERM: "permission denied; write elsewhere or change the folder's owner",
        errno.ENOTDIR: "a part of this path is a file, expected a folder; write elsewhere",
        errno.ENOENT: "its folder cannot be made there; write elsewhere",
        errno.EEXIST: "it exists; choose another name",
        errno.EISDIR: "this is a folder, expected a file; choose another name",
        errno.ENAMETOOLONG: "this name is too long; choose a shorter one",
        errno.EPIPE: "its reader has closed it; write to a file with --out to keep everything",
        errno.EBADF: "it is closed; write to a file with --out",
        errno.EIO: "the disk reports an input/output error; check it",
    }
    try:
        yield
    except OSError as exc:
        if exc.errno not in reasons:
            raise
        in_the_way = exc.errno == errno.EEXIST and exc.filename is not None and Path(exc.filename) != out
        raise OutputError(f"cannot write {out}: {reasons[errno.ENOTDIR if in_the_way else exc.errno]}") from exc


def write_stdout(line: bytes) -> None:
    """Write to standard output and flush.

    Raises:
        OutputError: it is closed, its reader has gone, or its disk is full.
    """
    with files_errors(Path("standard output")):
        if sys.stdout is None:
            raise OSError(errno.EBADF, "closed")
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except OSError:
            # Python flushes once more when it ends and would complain in its own words.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def files_below(folder: Path) -> Iterator[str]:
    """Every file in a folder, all levels deep: its path inside, with slashes. Not into linked folders."""
    here = [(os.fspath(folder), "")]
    while here:
        path, name = here.pop()
        with os.scandir(path) as found:
            for one in found:
                if one.is_dir(follow_symlinks=False):
                    here.append((one.path, f"{name}{one.name}/"))
                elif one.is_file():
                    yield f"{name}{one.name}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step (renameat2, Linux 3.15); False where this machine cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


if sys.platform == "win32":

    def _hold(folder: Path) -> int | None:
        return None
else:
    import fcntl

    def _hold(folder: Path) -> int | None:
        """A handle that holds the folder until it is closed or the process ends; None where it cannot be held."""
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
