"""Tables in a log file or pipe: narrow, and nothing in them is broken that somebody searches for."""

from __future__ import annotations

import pytest
from rich.table import Table

from mapl_edge.cli.common import print_wide

TIME, PATH = "2026-11-23T06:52:04.123Z", "parts/" + "x" * 150 + ".png"


def told(capsys: pytest.CaptureFixture[str], *rows: tuple[str, ...]) -> str:
    """What a table with these rows looks like in a pipe."""
    table = Table(*(f"column {i}" for i in range(len(rows[0]))))
    for row in rows:
        table.add_row(*row)
    print_wide(table)
    return capsys.readouterr().err


def test_a_sentence_takes_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures and times beside it none."""
    text = told(capsys, (TIME, "1.25 (1.20 to 1.30)", "why it is so " * 20), (TIME, "-", ""))

    assert max(map(len, text.splitlines())) <= 120
    assert text.count(TIME) == 2
    assert "1.25 (1.20 to 1.30)" in text
    assert text.count("why") == 20


def test_what_cannot_be_broken_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    """A path stays whole; a sentence beside it still has thirty characters."""
    text = told(capsys, (TIME, PATH, "three words here and then some more of them"))

    assert TIME in text
    assert PATH in text
    assert "three words here and then some" in text


def test_a_small_table_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    """No wider than what stands in it."""
    assert max(map(len, told(capsys, ("1", "2")).splitlines())) < 30
