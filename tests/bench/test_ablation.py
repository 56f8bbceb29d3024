"""The ablation: its rows, their means and differences to the full model."""

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import ablation
from settings import ABLATION, OURS, Settings
from trials import LINE, Plan


def result(auroc: float, pixel_ap: float | None, disturbed: float | None = None) -> dict[str, Any]:
    """What a row reads of a contender's result."""
    return {
        "clean": {"image_auroc": auroc, "pixel_ap": pixel_ap},
        "interference": None if disturbed is None else {"image_auroc": disturbed},
    }


RESULTS = {
    ("a", "no_sa"): result(0.8, 0.3), ("a", OURS): result(0.9, 0.5),
    ("b", "no_sa"): result(0.6, 0.1), ("b", OURS): result(0.8, 0.4),
    (LINE, OURS): result(0.1, 0.1), ("a", "no_msff"): result(0.7, None),
}  # fmt: skip


def summary_of(results: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The summary of a plan with two real sets and the line."""
    plan = Plan(dict.fromkeys(("a", "b", LINE)), ablation.CONTENDERS, Settings(), Path("out"))
    return {"machines": [], **ablation.summarised(results, plan)}


def text_of(summary: dict[str, Any]) -> str:
    """The table as a reader sees it."""
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the test
    console.print(*ablation.tables_of(summary))
    return console.export_text()


def test_rows_are_compared_with_the_full_model() -> None:
    """Per set and in the mean over the real sets; what is missing somewhere has no mean."""
    rows = {row["contender"]: row for row in summary_of(RESULTS)["rows"]}

    assert list(rows) == [OURS, "no_msff", "no_sa"]
    assert rows[OURS]["mean"] == {
        "image_auroc": pytest.approx(0.85),
        "pixel_ap": pytest.approx(0.45),
        "disturbed_image_auroc": None,
    }
    assert rows["no_sa"]["difference"]["mean"]["image_auroc"] == pytest.approx(-0.15)
    assert rows["no_sa"]["difference"]["sets"]["b"]["pixel_ap"] == pytest.approx(-0.3)
    assert rows["no_msff"]["mean"]["image_auroc"] is None
    assert rows["no_msff"]["difference"]["sets"]["a"]["image_auroc"] == pytest.approx(-0.2)
    assert rows["no_msff"]["difference"]["sets"]["a"]["pixel_ap"] is None


def test_without_the_full_model_there_are_no_differences() -> None:
    """The figures themselves are still worth showing."""
    (row,) = summary_of({("a", "no_sa"): result(0.8, 0.3)})["rows"]

    assert row["sets"]["a"]["image_auroc"] == 0.8
    assert set(row["difference"]["sets"]["a"].values()) == {None}


def test_the_table_shows_rows_by_sets() -> None:
    """Both figures in a cell, a dash where nothing was measured."""
    text = text_of(summary_of(RESULTS))

    assert "no spatial attention" in text
    for cell in ("0.9000 / 0.5000", "0.8500 / 0.4500", "-0.1500 / -0.2500", "0.7000 / -", "mean of 2 real"):
        assert cell in text, cell
    assert "disturbed" not in text


def test_interference_adds_a_figure() -> None:
    """The row without interference in training is worth little without it."""
    text = text_of(summary_of({("a", OURS): result(0.9, 0.5, 0.85)}))

    assert "0.9000 / 0.5000 / 0.8500" in text
    assert "disturbed image AUROC" in text


def test_an_empty_table_can_be_printed() -> None:
    """A report may be asked for before the first result."""
    assert "mean of 2 real" in text_of(summary_of({}))


@pytest.mark.parametrize("name", ABLATION)
def test_each_row_changes_one_thing(name: str) -> None:
    """Else nobody could say what the difference is due to."""
    full, row = (Settings().config(contender).model_dump() for contender in (OURS, name))

    assert {key for key in full if full[key] != row[key]} == set(ABLATION[name])
    assert len(ABLATION[name]) == 1
