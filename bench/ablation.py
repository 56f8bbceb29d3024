"""Ablation: what each part of our model is worth, on every set there is; the first rows are the paper's Table 4.

    python bench/ablation.py --out ablation [--data data] [--sets bottle line_any] [--contenders ours no_msff]
                             [--interference] [--resume] [--keep-models] [--json] [--steps 500]
                             [--size 256] [--seed 0]
    python bench/ablation.py --report ablation

Each row leaves one part out of our model, adds one or exchanges it, and is trained and measured as bench/accuracy.py
does; sets and flags are the same. `ours` is the full model: with the same --out and --resume its results of
bench/accuracy.py are taken over. A cell shows image AUROC and pixel AP, with --interference also the image AUROC of
disturbed pictures. A summary goes to --out/ablation.json, the table to stderr, with --json the summary to stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from mapl_edge.errors import MaplEdgeError
from settings import ABLATION, OURS
from trials import LINE, Plan, Results, carry_out, difference, mean_of, plan_from_arguments, shown, title

CONTENDERS = (OURS, *ABLATION)
NAMES = {
    OURS: "full",
    "no_msff": "no multi-scale fusion",
    "added_ca": "added coordinate attention",
    "no_sa": "no spatial attention",
    "memory_image": "image memory",
    "memory_patch": "patch memory",
    "no_distance": "no distance, decoder alone",
    "no_pseudo_labeler": "no pseudo-labeler",
    "no_interference": "no interference in training",
    "paper_simulation": "the paper's simulated defects",
}
FIGURES = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP", "disturbed_image_auroc": "disturbed image AUROC"}


def main() -> None:
    """Measure what is not measured yet, print the table; exit code 1 if a row could not be measured."""
    carry_out(plan_from_arguments(__doc__, CONTENDERS), "ablation", summarised, tables_of)


def summarised(results: Results, plan: Plan) -> dict[str, Any]:
    """The table's numbers.

    Returns:
        `sets`; `figures`, the names of those that were measured; `rows`, one per contender with any result: `sets`
        has its figures by set, `mean` those over all real sets of the plan, and `difference` both minus the full
        model's; null where something is missing.
    """
    nothing = dict.fromkeys(FIGURES)
    rows: list[dict[str, Any]] = []
    for contender in plan.contenders:
        sets = {name: _figures(results[name, contender]) for name in plan.sets if (name, contender) in results}
        if sets:
            mean = {figure: mean_of([sets.get(name, nothing)[figure] for name in plan.real]) for figure in FIGURES}
            rows.append({"contender": contender, "sets": sets, "mean": mean})
    full = next((row for row in rows if row["contender"] == OURS), {"sets": {}, "mean": nothing})
    for row in rows:
        row["difference"] = {
            "sets": {name: _minus(figures, full["sets"].get(name, nothing)) for name, figures in row["sets"].items()},
            "mean": _minus(row["mean"], full["mean"]),
        }
    measured = [f for f in FIGURES if any(sets[f] is not None for row in rows for sets in row["sets"].values())]
    return {"sets": list(plan.sets), "figures": measured, "rows": rows}


def tables_of(summary: Mapping[str, Any]) -> list[RenderableType]:
    """The summary for people."""
    caption = " / ".join(FIGURES[figure] for figure in summary["figures"])
    table = Table(title=title("ablation", summary), caption=caption)
    table.add_column("model", no_wrap=True)
    real = [name for name in summary["sets"] if name != LINE]
    for heading in (*summary["sets"], f"mean of {len(real)} real", "minus full"):
        table.add_column(heading, justify="right")

    def cell(figures: Mapping[str, float | None] | None, form: str = ".4f") -> str:
        return " / ".join(shown(figures[name], form) for name in summary["figures"]) if figures else "-"

    for row in summary["rows"]:
        minus = None if row["contender"] == OURS else row["difference"]["mean"]
        cells = [cell(row["sets"].get(name)) for name in summary["sets"]]
        table.add_row(NAMES[row["contender"]], *cells, cell(row["mean"]), cell(minus, "+.4f"))
    return [table]


def _figures(result: Mapping[str, Any]) -> dict[str, float | None]:
    clean, disturbed = result["clean"], result["interference"]
    return {
        "image_auroc": clean["image_auroc"],
        "pixel_ap": clean["pixel_ap"],
        "disturbed_image_auroc": disturbed and disturbed["image_auroc"],
    }


def _minus(figures: Mapping[str, float | None], full: Mapping[str, float | None]) -> dict[str, float | None]:
    return {figure: difference(figures[figure], full[figure]) for figure in FIGURES}


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
