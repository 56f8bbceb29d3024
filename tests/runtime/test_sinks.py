"""Verdict lines: whole, at once, and never over something that exists."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.errors import OutputError
from mapl_edge.frame import Frame
from mapl_edge.runtime import Inspection, Inspector, JsonLines
from mapl_edge.testing import FakeEngine, ManualClock


@pytest.fixture
def inspection() -> Inspection:
    """One verdict."""
    clock = ManualClock()
    frame = Frame(np.zeros((32, 32, 3), np.uint8), 0, clock.monotonic(), clock.utc(), "Teil-ä")
    return Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.5), clock).inspect(frame)


def test_each_verdict_is_on_disk_before_the_next(tmp_path: Path, inspection: Inspection) -> None:
    """Whoever follows the file sees it at once."""
    out = tmp_path / "new" / "verdicts.jsonl"
    sink = JsonLines(out, {"run": "r1"})

    for n in range(1, 4):
        sink.emit(inspection)
        lines = out.read_text(encoding="utf-8").splitlines()
        assert len(lines) == n
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


def test_a_full_device_is_one_clear_error(inspection: Inspection) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    sink = JsonLines.__new__(JsonLines)
    sink._out, sink._station, sink._file = Path("/dev/full"), {}, open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    sink._lock = threading.Lock()

    with pytest.raises(OutputError, match="the disk is full"):
        sink.emit(inspection)


def test_a_short_write_leaves_only_whole_lines(
    tmp_path: Path, inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up in the middle of a line, the half line is taken back."""
    out = tmp_path / "verdicts.jsonl"
    sink = JsonLines(out, {})
    sink.emit(inspection)

    class Short:
        """A file whose device takes ten more bytes."""

        def __init__(self, real: object) -> None:
            self._real = real

        def write(self, data: bytes) -> int:
            return os.write(self._real.fileno(), data[:10])  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    sink._file = Short(sink._file)  # type: ignore[assignment]
    with pytest.raises(OutputError, match="the disk is full"):
        sink.emit(inspection)

    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 1
