"""Accuracy, time and size of our model beside PatchCore and the paper's settings, on every set there is.

    python bench/accuracy.py --out results [--data data] [--sets bottle line_any] [--contenders ours patchcore]
                             [--interference] [--resume] [--keep-models] [--json] [--steps 500]
                             [--size 256] [--seed 0]
    python bench/accuracy.py --report results

Sets: each folder of --data (default: $MAPL_EDGE_DATA) with train/good and test/good, and `line_any`, the synthetic line
with parts at any angle. Each contender is fitted and measured on each set by bench/contenders.py in a process of its
own, so that memory and time are its own. Results lie in --out as SET.CONTENDER.json, each whole or absent; an
interrupted run goes on with --resume, and --report shows what there is already. A summary goes to --out/results.json,
tables to stderr, with --json the summary to stdout. Bars tell where our model stands; none of them fails the run.

Processes run one after the other: compare the times of contenders only on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from mapl_edge.errors import MaplEdgeError
from settings import BASELINE, OURS
from trials import Plan, Results, carry_out, difference, mean_of, plan_from_arguments, shown, title

CONTENDERS = (BASELINE, OURS, "paper")

# The bars: what our model has to reach. Shares from 0 to 1. Means are over the real sets; "on any set": the line too.
MEAN_AUROC_OVER_BASELINE = 0.0  # to be exceeded
WORST_AUROC_UNDER_BASELINE = 0.01  # on any set
MEAN_PIXEL_AP_OVER_BASELINE = 0.05
TRAIN_SECONDS = 600  # on any set, on the CPU
TRAIN_RSS_MB = 3000  # on any set
LATENCY_RATIO = 2.5  # whole model by encoder alone, on any set
MEAN_FALL = 0.03  # of image AUROC under interference

FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
DISTURBED = ("disturbed_image_auroc", "fall")
MEAN = "mean"
COSTS = ("fit_seconds", "ms_per_frame", "encoder_ms", "latency_ratio", "size_bytes", "peak_rss_mb")


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing to reach.

    Attributes:
        what: for people, with the limit in it.
        value: what was measured; None where something that it needs is missing.
        at: what `value` was measured on: a set, or MEAN; None where nothing was.
        passed: None where it cannot be decided; on any set, one that fails is enough.
    """

    what: str
    value: float | None
    at: str | None
    passed: bool | None


def main() -> None:
    """Measure what is not measured yet, print tables and bars; exit code 1 if a contender could not be measured."""
    carry_out(plan_from_arguments(__doc__, CONTENDERS), "results", summarised, tables_of)


def summarised(results: Results, plan: Plan) -> dict[str, Any]:
    """All figures without single pictures.

    Returns:
        `rows`, one per set and contender; `means`, one per contender over all real sets of the plan (left out where
        one is missing); `differences` to the baseline, per set and of the means (`set` is null); `bars`.
    """
    rows = [_row(name, contender, result) for (name, contender), result in results.items()]
    means = []
    for contender in plan.contenders:
        mine = [row for row in rows if row["contender"] == contender and row["set"] in plan.real]
        if mine and len(mine) == len(plan.real):
            mean = {figure: mean_of([row[figure] for row in mine]) for figure in (*FIGURES, *DISTURBED)}
            means.append({"set": None, "contender": contender, **mean})
    base = {row["set"]: row for row in [*rows, *means] if row["contender"] == BASELINE}
    differences = [
        {
            "set": row["set"],
            "contender": row["contender"],
            **{figure: difference(row[figure], base[row["set"]][figure]) for figure in (*FIGURES, DISTURBED[0])},
        }
        for row in [*rows, *means]
        if row["contender"] != BASELINE and row["set"] in base
    ]
    bars = bars_of(rows, means, differences, list(plan.sets))
    return {
        "real_sets": len(plan.real),
        "rows": rows,
        "means": means,
        "differences": differences,
        "bars": [asdict(bar) for bar in bars],
    }


def bars_of(
    rows: Sequence[Mapping[str, Any]],
    means: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    sets: Sequence[str],
) -> list[Bar]:
    """Where ours stands; all of `sets` are needed to pass a bar that holds for any set."""
    ours = [row for row in rows if row["contender"] == OURS]
    against = [row for row in differences if row["contender"] == OURS]

    def on_mean(what: str, lines: Sequence[Mapping[str, Any]], figure: str, reached: Callable[[float], bool]) -> Bar:
        value = next((line[figure] for line in lines if line["contender"] == OURS and line["set"] is None), None)
        return Bar(what, None, None, None) if value is None else Bar(what, value, MEAN, reached(value))

    def on_any(what: str, lines: Sequence[Mapping[str, Any]], figure: str, limit: float, sign: int = 1) -> Bar:
        there = {line["set"]: line[figure] for line in lines if line["set"] is not None and line[figure] is not None}
        if not there:
            return Bar(what, None, None, None)
        at = max(there, key=lambda name: sign * there[name])
        failed = sign * there[at] > limit
        return Bar(what, there[at], at, False if failed else True if there.keys() >= set(sets) else None)

    return [
        on_mean(
            f"mean image AUROC above {BASELINE}'s",
            against, "image_auroc", lambda value: value > MEAN_AUROC_OVER_BASELINE,
        ),
        on_any(
            f"image AUROC on no set more than {WORST_AUROC_UNDER_BASELINE} below {BASELINE}'s",
            against, "image_auroc", WORST_AUROC_UNDER_BASELINE, sign=-1,
        ),
        on_mean(
            f"mean pixel AP at least {MEAN_PIXEL_AP_OVER_BASELINE} above {BASELINE}'s",
            against, "pixel_ap", lambda value: value >= MEAN_PIXEL_AP_OVER_BASELINE,
        ),
        on_any(f"training on no set longer than {TRAIN_SECONDS} s", ours, "fit_seconds", TRAIN_SECONDS),
        on_any(f"training on no set with more than {TRAIN_RSS_MB} MB", ours, "peak_rss_mb", TRAIN_RSS_MB),
        on_any(f"latency on no set over {LATENCY_RATIO} times the encoder's", ours, "latency_ratio", LATENCY_RATIO),
        on_mean(
            f"mean fall of image AUROC under interference at most {MEAN_FALL}",
            means, "fall", lambda value: value <= MEAN_FALL,
        ),
    ]  # fmt: skip


def tables_of(summary: Mapping[str, Any]) -> list[RenderableType]:
    """The summary for people: figures and costs, differences to the baseline, bars."""
    return [figures_table(summary), differences_table(summary), bars_table(summary)]


def figures_table(summary: Mapping[str, Any]) -> Table:
    """Set by contender, then the means."""
    disturbed = any(row["disturbed_image_auroc"] is not None for row in summary["rows"])
    table = Table(title=title("accuracy", summary), caption="95 % intervals in brackets; ms of one thread")
    for heading in ("set", "contender"):
        table.add_column(heading, no_wrap=True)
    table.add_column("image AUROC", justify="right", no_wrap=True)
    for heading in (("disturbed", "fall") if disturbed else ()) + ("pixel AUROC", "pixel AP", "AUPRO"):
        table.add_column(heading, justify="right")
    for heading in ("train s", "ms/frame", "x encoder", "MB", "RSS MB"):
        table.add_column(heading, justify="right")

    def figures(row: Mapping[str, Any], bracket: str = "") -> list[str]:
        noisy = [shown(row["disturbed_image_auroc"]), shown(row["fall"], "+.4f")] if disturbed else []
        return [shown(row["image_auroc"]) + bracket, *noisy, *(shown(row[figure]) for figure in FIGURES[1:])]

    last = None
    for row in summary["rows"]:
        if last not in (None, row["set"]):
            table.add_section()
        last = row["set"]
        interval = row["intervals"]["image_auroc"]
        bracket = " ({:.3f} - {:.3f})".format(*interval) if interval else ""
        table.add_row(
            row["set"],
            row["contender"],
            *figures(row, bracket),
            f"{row['fit_seconds']:.0f}",
            f"{row['ms_per_frame']:.1f}",
            f"{row['latency_ratio']:.2f}",
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['peak_rss_mb']}",
        )
    table.add_section()
    for mean in summary["means"]:
        table.add_row(f"mean of {summary['real_sets']} real", mean["contender"], *figures(mean))
    return table


def differences_table(summary: Mapping[str, Any]) -> Table:
    """Contender minus baseline, set by set and in the mean."""
    headings = ("set", "contender", "image AUROC", "pixel AUROC", "pixel AP", "AUPRO", "image AUROC, disturbed")
    table = Table(title=f"minus {BASELINE}'s")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right")
    for row in summary["differences"]:
        figures = (shown(row[figure], "+.4f") for figure in (*FIGURES, DISTURBED[0]))
        table.add_row(row["set"] or f"mean of {summary['real_sets']} real", row["contender"], *figures)
    return table


def bars_table(summary: Mapping[str, Any]) -> Table:
    """One line per bar."""
    table = Table("bar", "measured", "on", "", title=f"bars for {OURS}")
    for bar in summary["bars"]:
        verdict = {True: "PASS", False: "FAIL", None: "-"}[bar["passed"]]
        at = f"mean of {summary['real_sets']} real" if bar["at"] == MEAN else bar["at"] or "-"
        table.add_row(bar["what"], shown(bar["value"], ".4g"), at, verdict)
    return table


def _row(name: str, contender: str, result: Mapping[str, Any]) -> dict[str, Any]:
    clean, disturbed = result["clean"], result["interference"]
    noisy = disturbed and disturbed["image_auroc"]
    return {
        "set": name,
        "contender": contender,
        **{figure: clean[figure] for figure in FIGURES},
        "intervals": {figure: clean["intervals"][figure] for figure in FIGURES},
        "disturbed_image_auroc": noisy,
        "disturbed_interval": disturbed and disturbed["intervals"]["image_auroc"],
        "fall": difference(clean["image_auroc"], noisy),
        **{cost: result[cost] for cost in COSTS},
        **{key: result[key] for key in ("size_hw", "decided", "settings", "digest")},
    }


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
