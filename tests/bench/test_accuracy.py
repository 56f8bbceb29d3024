"""The accuracy benchmark: its sums, its bars, its tables."""

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import accuracy
from settings import Settings
from trials import LINE, Plan


def result(
    auroc: float, disturbed: float | None = None, pixel_ap: float | None = None, **costs: float
) -> dict[str, Any]:
    """What a contender writes, with most figures alike."""

    def figures(value: float) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(accuracy.FIGURES, value) | {"pixel_ap": pixel_ap}
        intervals = {name: v and [v - 0.1, v + 0.1] for name, v in values.items()}
        return {**values, "intervals": intervals, "pictures": ["many"]}

    return {
        "clean": figures(auroc),
        "interference": None if disturbed is None else figures(disturbed),
        "fit_seconds": 12.3,
        "ms_per_frame": 4.56,
        "encoder_ms": 2.4,
        "latency_ratio": 1.9,
        "size_bytes": 7_800_000,
        "peak_rss_mb": 910,
        "size_hw": [64, 64],
        "decided": {"memory": "patch"},
        "settings": {},
        "digest": "0",
        **costs,
    }


def summary_of(results: dict[tuple[str, str], dict[str, Any]], *sets: str) -> dict[str, Any]:
    """The summary of a plan with these sets."""
    plan = Plan(dict.fromkeys(sets), accuracy.CONTENDERS, Settings(), Path("out"))
    machine = {"processor": "abacus", "cores": 2}
    return {"machines": [machine], **accuracy.summarised(results, plan)}


def text_of(summary: dict[str, Any]) -> str:
    """All tables as a reader sees them."""
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the test
    for table in accuracy.tables_of(summary):
        console.print(table)
    return console.export_text()


def test_means_are_over_the_real_sets_and_compared_with_the_baseline() -> None:
    """The synthetic line has its rows but does not count; a contender without all real sets has no mean."""
    results = {
        ("a", "patchcore"): result(0.7, 0.7), ("a", "ours"): result(0.9, 0.8), ("a", "paper"): result(0.1),
        ("b", "patchcore"): result(0.5, 0.5), ("b", "ours"): result(0.8, 0.6),
        (LINE, "patchcore"): result(1.0, 1.0), (LINE, "ours"): result(0.1, 0.1),
    }  # fmt: skip

    summary = summary_of(results, "a", "b", LINE)
    means = {mean["contender"]: mean for mean in summary["means"]}
    differences = {(row["set"], row["contender"]): row for row in summary["differences"]}

    assert len(summary["rows"]) == 7
    assert not any("pictures" in row for row in summary["rows"])
    assert set(means) == {"patchcore", "ours"}
    assert means["ours"]["image_auroc"] == pytest.approx(0.85)
    assert means["ours"]["fall"] == pytest.approx(0.15)
    assert means["ours"]["pixel_ap"] is None
    assert set(differences) == {("a", "ours"), ("a", "paper"), ("b", "ours"), (LINE, "ours"), (None, "ours")}
    assert differences["b", "ours"]["image_auroc"] == pytest.approx(0.3)
    assert differences[None, "ours"]["image_auroc"] == pytest.approx(0.25)
    assert differences[None, "ours"]["disturbed_image_auroc"] == pytest.approx(0.1)
    assert differences["a", "paper"]["disturbed_image_auroc"] is None


def verdicts(results: dict[tuple[str, str], dict[str, Any]], *sets: str) -> list[bool | None]:
    """Of all bars, in their order."""
    return [bar["passed"] for bar in summary_of(results, *sets)["bars"]]


GOOD = {
    ("a", "patchcore"): result(0.90, 0.90, 0.40), ("a", "ours"): result(0.92, 0.90, 0.50),
    (LINE, "patchcore"): result(0.80, 0.80, 0.90), (LINE, "ours"): result(0.79, 0.10, 0.10),
}  # fmt: skip


def test_all_bars_are_passed() -> None:
    """The line may be 0.01 worse, and counts in no mean."""
    assert verdicts(GOOD, "a", LINE) == [True] * 7


@pytest.mark.parametrize(
    ("bar", "name", "changed"),
    [
        (0, "a", result(0.90, 0.88, 0.50)),
        (1, LINE, result(0.789, 0.79, 0.90)),
        (2, "a", result(0.92, 0.90, 0.449)),
        (3, LINE, result(0.80, 0.80, 0.90, fit_seconds=600.1)),
        (4, LINE, result(0.80, 0.80, 0.90, peak_rss_mb=3001)),
        (5, "a", result(0.92, 0.90, 0.50, latency_ratio=2.501)),
        (6, "a", result(0.92, 0.889, 0.50)),
    ],
    ids=["mean AUROC", "worst set", "pixel AP", "seconds", "MB", "latency", "fall"],
)
def test_each_bar_can_be_missed(bar: int, name: str, changed: dict[str, Any]) -> None:
    """By one thing, and no other bar with it."""
    got = verdicts(GOOD | {(name, "ours"): changed}, "a", LINE)

    assert [i for i, passed in enumerate(got) if passed is not True] == [bar]
    assert got[bar] is False


def test_a_limit_itself_is_within_it() -> None:
    """Floating point has no say: 0.92 - 0.89 is more than 0.03 by its dust."""
    at_limits = result(0.92, 0.89, 0.45, fit_seconds=600, peak_rss_mb=3000, latency_ratio=2.5)

    assert verdicts(GOOD | {("a", "ours"): at_limits}, "a", LINE) == [True] * 7


def test_what_is_missing_decides_nothing() -> None:
    """Without a set, without the baseline, without interference; but one set that fails is enough."""
    no_baseline = {key: value for key, value in GOOD.items() if key[1] == "ours"}
    calm = {key: value | {"interference": None} for key, value in GOOD.items()}
    slow = GOOD | {("a", "ours"): result(0.92, 0.90, 0.50, latency_ratio=3.0)}

    assert verdicts(GOOD, "a", "b", LINE) == [None] * 7
    assert verdicts(no_baseline, "a", LINE) == [None, None, None, True, True, True, True]
    assert verdicts(calm, "a", LINE) == [True] * 6 + [None]
    assert verdicts(slow, "a", "b", LINE) == [None] * 5 + [False, None]
    assert verdicts({}, "a", LINE) == [None] * 7


def test_the_tables_show_it_all() -> None:
    """Figures with the interval of the first, time, size and memory, means, differences and bars."""
    text = text_of(summary_of(GOOD, "a", LINE))

    assert "0.9200 (0.820 - 1.020)" in text
    for shown in ("abacus, 2 cores", "+0.0200", "4.6", "1.90", "7.8", "910", "mean of 1 real", "minus patchcore's"):
        assert shown in text, shown
    assert text.count("PASS") == 7
    assert "FAIL" not in text


def test_a_table_of_nothing_can_be_printed() -> None:
    """A report may be asked for before the first result."""
    text = text_of(summary_of({}, LINE))

    assert "PASS" not in text
    assert "FAIL" not in text


def test_without_interference_there_are_no_columns_for_it() -> None:
    """They would hold nothing but dashes."""
    calm = {key: value | {"interference": None} for key, value in GOOD.items()}

    assert "fall" in text_of(summary_of(GOOD, "a", LINE)).split("minus")[0]
    assert "fall" not in text_of(summary_of(calm, "a", LINE)).split("minus")[0]
