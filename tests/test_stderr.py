"""stderr: nothing waits for whoever should read it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from mapl_edge.bundle import Bundle
from mapl_edge.stderr import MOST_TEXTS, unhurried_stderr

COMMAND = Path(sys.executable).with_name("mapl-edge")


@pytest.fixture(params=["full", "broken"])
def deaf(request: pytest.FixtureRequest) -> Iterator[int]:
    """The end of a pipe that nobody reads any more."""
    read, write = os.pipe()
    if request.param == "full":
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, b" ")
        os.set_blocking(write, True)
    else:
        os.close(read)
    yield write
    os.close(write)
    if request.param == "full":
        os.close(read)


def test_a_stream_that_nobody_reads_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, deaf: int) -> None:
    """Neither who writes nor the end; and what waits is bounded."""
    monkeypatch.setattr("mapl_edge.stderr.CLOSE_S", 0.05)
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(deaf), "w"))
    with unhurried_stderr():
        for _ in range(3 * MOST_TEXTS):
            print("camera 0 is back", file=sys.stderr)
        assert sys.stderr._texts.qsize() <= MOST_TEXTS  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [io.StringIO(), open(os.devnull, "w"), None], ids=["text", "file", "none"])  # noqa: SIM115
def test_what_is_read_is_whole_and_in_order(monkeypatch: pytest.MonkeyPatch, stream: TextIO | None) -> None:
    """By the end; and without a stderr nothing fails."""
    monkeypatch.setattr(sys, "stderr", stream)
    with unhurried_stderr():
        for number in range(100):
            print(number, file=sys.stderr)

    assert sys.stderr is stream
    if isinstance(stream, io.StringIO):
        assert stream.getvalue() == "".join(f"{number}\n" for number in range(100))


def test_verdicts_and_the_exit_code_come_without_a_reader(bundle: Bundle, deaf: int) -> None:
    """A terminal that was stopped by Ctrl-S, a supervisor that died."""
    arguments = ["--source", "line:?size=96&parts=3", "--budget-ms", "60000", "--threads", "1"]
    run = subprocess.run(
        [COMMAND, "run", str(bundle.path), *arguments], stdout=subprocess.PIPE, stderr=deaf, timeout=60, check=True
    )
    wrong = subprocess.run([COMMAND, "run", "no.mapl"], stdout=subprocess.PIPE, stderr=deaf, timeout=60, check=False)

    assert run.stdout.count(b"\n") == 3
    assert wrong.returncode == 5
