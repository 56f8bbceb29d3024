"""Progress in a log file: lines, and not too many."""

from __future__ import annotations

from mapl_edge.cli.common import LINE_EVERY_S, ProgressLines
from mapl_edge.testing import ManualClock


def test_long_work_has_a_line_now_and_then() -> None:
    """One for each interval that has gone by, with how far the work has come."""
    lines: list[str] = []
    clock = ManualClock()
    progress = ProgressLines(lines.append, clock)

    for done in range(101):
        progress("training", done, 100)
        clock.advance(LINE_EVERY_S / 40)

    assert lines == ["training: 40 of 100", "training: 80 of 100"]


def test_short_work_has_none() -> None:
    """What is done within the interval would only fill the log."""
    lines: list[str] = []
    clock = ManualClock()
    progress = ProgressLines(lines.append, clock)

    for done in range(3):
        progress("filling the memory", done, 2)
        clock.advance(LINE_EVERY_S / 4)

    assert lines == []


def test_each_kind_of_work_has_its_own_lines() -> None:
    """One kind that was told of just now does not silence another that takes long."""
    lines: list[str] = []
    clock = ManualClock()
    progress = ProgressLines(lines.append, clock)
    progress("reading pictures", 0, 9)
    progress("training", 0, 9)

    clock.advance(LINE_EVERY_S)
    progress("reading pictures", 8, 9)
    progress("training", 1, 9)

    assert lines == ["reading pictures: 8 of 9", "training: 1 of 9"]
