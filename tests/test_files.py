"""Whole or absent: whatever happens while a result is written, nothing half-made stays and nothing old is lost."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mapl_edge.errors import OutputError
from mapl_edge.files import (
    LEFT_S,
    _exchange,
    check_absent,
    files_below,
    new_file,
    new_folder,
    remove_leftovers,
    sha256_of,
)

MARKER = "a.txt"
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


new_marked_folder = partial(new_folder, marker=MARKER)


def write_folder(out: Path, text: str = "new", *, overwrite: bool = False) -> None:
    """Make a folder with two files, one of them the marker."""
    with new_folder(out, MARKER, overwrite=overwrite) as work:
        (work / MARKER).write_text(text)
        (work / "deep").mkdir()
        (work / "deep" / "b.txt").write_text(text)


def write_file(out: Path, text: str = "new", *, overwrite: bool = False) -> None:
    """Make a file."""
    with new_file(out, overwrite=overwrite) as work:
        work.write_text(text)


def write_badly(new: Any, out: Path, error: BaseException, *, overwrite: bool = False) -> None:
    """Begin, write a little, fail."""
    with new(out, overwrite=overwrite) as work:
        (work / MARKER if work.is_dir() else work).write_text("half")
        raise error


def content(path: Path) -> str:
    """What a folder made by `write_folder`, or a file, says."""
    return (path / MARKER if path.is_dir() else path).read_text()


def everything_in(folder: Path) -> list[str]:
    """All names, hidden ones too."""
    return sorted(os.listdir(folder))


Write = Callable[..., None]
both = pytest.mark.parametrize(
    ("write", "new"), [(write_folder, new_marked_folder), (write_file, new_file)], ids=["folder", "file"]
)


@both
def test_result_appears_whole(write: Write, new: Any, tmp_path: Path) -> None:
    """Parents are made, others may read it, and nothing lies beside it."""
    out = tmp_path / "deep" / "out.mapl"

    write(out)

    assert content(out) == "new"
    assert everything_in(out.parent) == ["out.mapl"]
    assert out.stat().st_mode & 0o444 == 0o444


@both
def test_result_is_absent_until_it_is_whole(write: Write, new: Any, tmp_path: Path) -> None:
    """A reader that polls for the name never sees half of it."""
    with new(tmp_path / "out") as work:
        assert not (tmp_path / "out").exists()
        assert work.parent == tmp_path, "a rename is atomic only inside one file system"


@both
@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_error_leaves_nothing_behind(write: Write, new: Any, error: BaseException, tmp_path: Path) -> None:
    """Neither a result nor .partial crumbs, and the error itself comes through."""
    with pytest.raises(type(error)):
        write_badly(new, tmp_path / "out", error)
    assert everything_in(tmp_path) == []


KILLED = """
import os, pathlib, signal, sys
from mapl_edge.files import new_folder
with new_folder(pathlib.Path(sys.argv[1]), "a.txt") as work:
    (work / "half").write_text("half")
    os.utime(work, (0, 0))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def leftover(tmp_path: Path) -> Path:
    """What a process left that was killed while it wrote `out`."""
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out"], check=False)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    return left


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be held on Windows")
def test_what_a_kill_left_goes_when_it_is_written_again(leftover: Path, tmp_path: Path) -> None:
    """Half a model of each power cut would fill the disk."""
    write_folder(tmp_path / "other")
    assert leftover.is_dir(), "it belongs to another result"

    write_folder(tmp_path / "out")

    assert everything_in(tmp_path) == ["other", "out"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be held on Windows")
def test_what_is_being_written_is_no_leftover(leftover: Path, tmp_path: Path) -> None:
    """However long it takes."""
    with new_folder(tmp_path / "large", MARKER) as work:
        (work / MARKER).write_text("new")
        os.utime(work, (0, 0))
        remove_leftovers(tmp_path)

        assert work.is_dir()
    assert everything_in(tmp_path) == ["large"]


@both
def test_error_keeps_the_old_result(write: Write, new: Any, tmp_path: Path) -> None:
    """--overwrite replaces at the very end only."""
    write(tmp_path / "out", "old")

    with pytest.raises(ValueError, match="broken"):
        write_badly(new, tmp_path / "out", ValueError("broken"), overwrite=True)
    assert content(tmp_path / "out") == "old"
    assert everything_in(tmp_path) == ["out"]


@both
def test_existing_result_is_not_replaced(write: Write, new: Any, tmp_path: Path) -> None:
    """Yesterday's model is worth more than a typing error."""
    write(tmp_path / "out", "old")

    with pytest.raises(OutputError, match="out exists; choose another --out, or replace it with --overwrite"):
        write(tmp_path / "out")
    assert content(tmp_path / "out") == "old"


@both
def test_overwrite_replaces(write: Write, new: Any, tmp_path: Path) -> None:
    """The whole old result goes, not only the files that the new one has too."""
    write(tmp_path / "out", "old")
    if (tmp_path / "out").is_dir():
        (tmp_path / "out" / "only-in-the-old-one").write_text("")

    write(tmp_path / "out", overwrite=True)

    assert content(tmp_path / "out") == "new"
    assert everything_in(tmp_path) == ["out"]
    assert not (tmp_path / "out" / "only-in-the-old-one").exists()


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, errno.EIO, errno.EINVAL],
    ids=errno.errorcode.get,
)
def test_failed_exchange_keeps_the_old_folder(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between moving the old folder away and the new one in, the disk may refuse; the old one must come back."""
    write_folder(tmp_path / "out", "old")
    rename = os.rename

    def refuse_the_new_one(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(code, os.strerror(code))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new_one)
    monkeypatch.setattr("mapl_edge.files._exchange", lambda *_: False)
    with pytest.raises((OutputError, OSError)):
        write_folder(tmp_path / "out", overwrite=True)

    assert (tmp_path / "out").is_dir(), f"the old folder is gone, left: {everything_in(tmp_path)}"
    assert content(tmp_path / "out") == "old"
    assert everything_in(tmp_path) == ["out"]


def test_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renames would leave a moment without the folder, in which a kill loses it."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    if not _exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot exchange two names")
    write_folder(tmp_path / "out", "old")
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("renamed"))

    write_folder(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") != "old"
    assert everything_in(tmp_path) == ["one", "other", "out"]


REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "too long",
}


@both
@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
def test_refusal_while_writing_is_told(write: Write, new: Any, code: int, tmp_path: Path) -> None:
    """One line names the place and the reason, nothing is left, no traceback is shown."""
    out = tmp_path / "out"

    with pytest.raises(OutputError, match=f"cannot write {out}: .*{REFUSALS[code]}"):
        write_badly(new, out, OSError(code, os.strerror(code)))
    assert everything_in(tmp_path) == []


@both
@pytest.mark.parametrize("call", ["fsync", "mkdtemp or mkstemp", "rename or replace"])
def test_disk_that_fills_up_is_told(
    write: Write, new: Any, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may fill at the first byte or at the last; the old result stays."""
    out = tmp_path / "out"
    write(out, "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call.startswith("mk"):
        monkeypatch.setattr("tempfile.mkdtemp" if new is new_marked_folder else "tempfile.mkstemp", full)
    else:
        names = {"fsync": "fsync", "rename or replace": "rename" if new is new_marked_folder else "replace"}
        monkeypatch.setattr(os, names[call], full)
        monkeypatch.setattr("mapl_edge.files._exchange", lambda *_: False)
    with pytest.raises(OutputError, match="the disk is full"):
        write(out, overwrite=True)

    assert content(out) == "old"
    assert everything_in(tmp_path) == ["out"]


@both
def test_parent_that_is_a_file_is_told(write: Write, new: Any, tmp_path: Path) -> None:
    """`--out notes.txt/model` is a typing error."""
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"notes\.txt/model: .*(is a file|exists)"):
        write(tmp_path / "notes.txt" / "model")
    assert content(tmp_path / "notes.txt") == "mine"


@both
@pytest.mark.parametrize("length", [250, 300], ids="{} characters".format)
def test_name_that_is_too_long_is_told(write: Write, new: Any, length: int, tmp_path: Path) -> None:
    """File systems end names at 255 bytes; that is the user's to mend."""
    with pytest.raises(OutputError, match="too long"):
        write(tmp_path / ("x" * length) / "out" if length > 255 else tmp_path / ("x" * length))


def test_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    """`--out ~/pictures --overwrite` is a typing error that must not cost the pictures."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").write_text("mine")

    with pytest.raises(OutputError, match=r"out exists and has no a\.txt in it, so it is not ours to replace"):
        write_folder(tmp_path / "out", overwrite=True)
    assert everything_in(tmp_path / "out") == ["holiday.jpg"]
    assert everything_in(tmp_path) == ["out"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A folder never replaces a file, whatever is in it."""
    (tmp_path / "out").write_text("old")

    with pytest.raises(OutputError, match=r"out exists .*choose another --out"):
        write_folder(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == "old"
    assert everything_in(tmp_path) == ["out"]


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A file never replaces a folder, whatever is in it."""
    write_folder(tmp_path / "out", "old")

    with pytest.raises(OutputError, match="this is a folder, expected a file"):
        write_file(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == "old"
    assert everything_in(tmp_path) == ["out"]


def test_link_to_a_folder_can_be_overwritten(tmp_path: Path) -> None:
    """Stations keep `current.mapl` as a link to the version in use; what it pointed to stays as it was."""
    write_folder(tmp_path / "version-1", "old")
    (tmp_path / "current").symlink_to("version-1")

    write_folder(tmp_path / "current", overwrite=True)

    assert content(tmp_path / "current") == "new"
    assert content(tmp_path / "version-1") == "old"
    assert everything_in(tmp_path) == ["current", "version-1"]


@both
@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_folder_without_permission_is_told(write: Write, new: Any, tmp_path: Path) -> None:
    """The message says whose folder it is."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)

    with pytest.raises(OutputError, match="permission denied; choose another --out"):
        write(locked / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where mounting is impossible."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not AS_ROOT or shutil.which("mount") is None:
        pytest.skip("needs root and mount to make a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@both
def test_full_disk_keeps_the_old_result(write: Write, new: Any, small_disk: Path) -> None:
    """The same with a real disk that is full: one line, the old result, no crumbs."""
    write(small_disk / "out", "old")

    with pytest.raises(OutputError, match=rf"{re.escape(str(small_disk))}/out: the disk is full"):
        write(small_disk / "out", "x" * 100_000, overwrite=True)
    assert content(small_disk / "out") == "old"
    assert everything_in(small_disk) == ["out"]


def test_check_absent_tells_before_the_work(tmp_path: Path) -> None:
    """An hour of training should not end in "it exists"."""
    write_folder(tmp_path / "out")
    check_absent(tmp_path / "free", MARKER)
    check_absent(tmp_path / "out", MARKER, overwrite=True)

    with pytest.raises(OutputError, match="exists; choose another --out"):
        check_absent(tmp_path / "out", MARKER)
    with pytest.raises(OutputError, match="not ours to replace"):
        check_absent(tmp_path, MARKER, overwrite=True)


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    """The digest can be checked with sha256sum (FIPS 180-4, the example "abc")."""
    (tmp_path / "abc").write_bytes(b"abc")

    digest = sha256_of(tmp_path / "abc")

    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_new_files_and_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name of a file that lies elsewhere has nothing to flush, and bundles have hundreds of them."""
    old = tmp_path / "old.txt"
    old.write_text("old")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))

    with new_marked_folder(tmp_path / "out") as work:
        (work / MARKER).write_text("new")
        (work / "deep").mkdir()
        os.link(old, work / "deep" / "linked.txt")

    assert sorted(flushed) == sorted([MARKER, "deep", work.name, tmp_path.name])


def test_files_below_are_those_that_rglob_finds(tmp_path: Path) -> None:
    """Hidden files and links to files belong to a bundle too, what lies in a linked folder does not."""
    for name in ("one", "a/two", "a/b/.three", "elsewhere/four"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    shutil.move(tmp_path / "in/elsewhere", tmp_path / "elsewhere")
    (tmp_path / "in/empty").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/a/five").symlink_to(tmp_path / "elsewhere/four")
    (tmp_path / "in/dangling").symlink_to(tmp_path / "nothing")

    found = sorted(files_below(tmp_path / "in"))

    assert found == ["a/b/.three", "a/five", "a/two", "one"]
    assert found == sorted(
        path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*") if path.is_file()
    )


def test_half_a_file_that_a_kill_left_goes_a_day_later(tmp_path: Path) -> None:
    """What is younger may be somebody else's, who is writing it."""
    old, young, other = (
        tmp_path / f".{name}"
        for name in ("a.yaml.ab12_xyz.partial.yaml", "a.yaml.ab12_xy2.partial.yaml", "b.yaml.ab12_xyz.partial.yaml")
    )
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, path.stat().st_mtime - LEFT_S - 1))

    with new_file(tmp_path / "a.yaml") as work:
        work.write_text("whole")

    assert [path.exists() for path in (old, young, other)] == [False, True, True]
