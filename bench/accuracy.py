"""Accuracy, time and size of our model beside the paper's settings and PatchCore, on every set there is.

    python bench/accuracy.py --out results [--data data] [--sets bottle line_any] [--contenders ours patchcore]
                             [--interference] [--resume] [--json] [--steps 500] [--size 256] [--seed 0]

Sets: each folder of --data (default: $MAPL_EDGE_DATA) with train/good and test/good, and `line_any`, the synthetic line
with parts at any angle. Each contender is fitted and measured on each set by bench/contenders.py in a process of its
own, so that memory and time are its own. Results lie in --out as SET.CONTENDER.json, each whole or absent; an
interrupted run goes on with --resume. A summary goes to --out/results.json, the table to stderr, with --json the
summary to stdout.

Processes run one after the other: compare the times of contenders only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mapl_edge.errors import MaplEdgeError
from mapl_edge.files import new_file
from mapl_edge.testing import SyntheticLine

# Torch is not imported here: a process started by a large one would report at least that one's memory as its own.
CHILD = Path(__file__).with_name("contenders.py")
CONTENDERS = ("ours", "paper", "patchcore")
BASELINE = "patchcore"
LINE = "line_any"
LINE_TRAIN, LINE_GOOD, LINE_PER_DEFECT = 200, 60, 20
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
CONDITIONS = ("clean", "interference")

Results = Mapping[tuple[str, str], Mapping[str, Any]]
"""What bench/contenders.py wrote, by (set, contender)."""

WIDTH = 150  # of the table where there is no terminal to fit into

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH)


def main() -> None:
    """Measure what is not measured yet, print the table; exit code 1 if a contender failed."""
    args = _arguments()
    sets = real_sets(args.data) | {LINE: None}
    unknown = sorted(set(args.sets or ()) - sets.keys())
    if unknown:
        sys.exit(f"no set {', '.join(unknown)}; there are {', '.join(sets)}")
    chosen = [name for name in sets if not args.sets or name in args.sets]
    settings = {key: getattr(args, key) for key in ("steps", "size", "seed", "interference")}
    results: dict[tuple[str, str], Mapping[str, Any]] = {}
    failed = []
    for name in chosen:
        with _folder_of(sets[name]) as open_folder:
            for contender in args.contenders:
                path = args.out / f"{name}.{contender}.json"
                found = finished(path, settings) if args.resume else None
                if found is None:
                    console.print(f"{name}: {contender}")
                    code = measure(contender, open_folder(), path, settings)
                    found = finished(path, settings) if code == 0 else None
                if found is None:
                    failed.append(f"{contender} on {name}")
                else:
                    results[name, contender] = found
    summary = summarised(results, [name for name in chosen if name != LINE])
    with new_file(args.out / "results.json", overwrite=True) as work:
        work.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    console.print(table_of(summary))
    if args.json:
        print(json.dumps(summary))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def real_sets(data: Path | None) -> dict[str, Path | None]:
    """Every data set under `data` in MVTec layout, by name."""
    folders = sorted(data.iterdir()) if data else []
    return {f.name: f for f in folders if (f / "train" / "good").is_dir() and (f / "test" / "good").is_dir()}


def measure(contender: str, data: Path, out: Path, settings: Mapping[str, Any]) -> int:
    """Run one contender on one set in a fresh process, which writes `out`; returns its exit code."""
    flags = [f"--{key}={settings[key]}" for key in ("steps", "size", "seed") if settings[key] is not None]
    flags += ["--interference"] if settings["interference"] else []
    command = [sys.executable, str(CHILD), contender, str(data), "--out", str(out), *flags]
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode


def finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result that was written under the same settings, else None."""
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["settings"] == settings else None


def summarised(results: Results, real: Sequence[str]) -> dict[str, Any]:
    """All figures without single pictures; means over the real sets and their differences to the baseline.

    Returns:
        `machine`; `rows`, one per set, contender and condition; `means`, one per contender and condition over all of
        `real` (left out where one is missing), with `difference`: the mean figures minus the baseline's.
    """
    rows = [
        {
            "set": name,
            "contender": contender,
            "condition": condition,
            **{figure: result[condition][figure] for figure in FIGURES},
            "intervals": {figure: result[condition]["intervals"][figure] for figure in FIGURES},
            **{key: result[key] for key in ("fit_seconds", "ms_p50", "size_bytes", "peak_rss_mb")},
        }
        for condition in CONDITIONS
        for (name, contender), result in results.items()
        if result[condition] is not None
    ]
    means: dict[tuple[str, str], dict[str, Any]] = {}
    for condition in CONDITIONS:
        for contender in dict.fromkeys(contender for _, contender in results):
            mine = [row for row in rows if (row["contender"], row["condition"]) == (contender, condition)]
            mine = [row for row in mine if row["set"] in real]
            if mine and len(mine) == len(real):
                means[contender, condition] = {figure: _mean([row[figure] for row in mine]) for figure in FIGURES}
    for (contender, condition), mean in means.items():
        base = means.get((BASELINE, condition))
        if base is not None and contender != BASELINE:
            mean["difference"] = {
                figure: None if None in (mean[figure], base[figure]) else mean[figure] - base[figure]
                for figure in FIGURES
            }
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    return {
        "machine": machine,
        "rows": rows,
        "means": [{"contender": c, "condition": d, "sets": len(real), **mean} for (c, d), mean in means.items()],
    }


def table_of(summary: Mapping[str, Any]) -> Table:
    """The summary for people."""
    machine = summary["machine"]
    table = Table(title=f"accuracy on {machine['processor']}, {machine['cores']} cores; 95 % intervals in brackets")
    for heading in ("set", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("image AUROC", "pixel AUROC", "pixel AP", "AUPRO", "fit s", "p50 ms", "MB", "RSS MB"):
        table.add_column(heading, justify="right")
    last = None
    for row in summary["rows"]:
        shown = _told(row["set"], row["condition"])
        if last not in (None, shown):
            table.add_section()
        last = shown
        interval = row["intervals"]["image_auroc"]
        bracket = " ({:.3f} - {:.3f})".format(*interval) if interval else ""
        table.add_row(
            shown,
            row["contender"],
            _figure(row["image_auroc"]) + bracket,
            *(_figure(row[figure]) for figure in FIGURES[1:]),
            f"{row['fit_seconds']:.0f}",
            f"{row['ms_p50']:.1f}",
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['peak_rss_mb']}",
        )
    table.add_section()
    for mean in summary["means"]:
        shown = _told(f"mean of {mean['sets']} real", mean["condition"])
        table.add_row(shown, mean["contender"], *(_figure(mean[figure]) for figure in FIGURES))
    for mean in summary["means"]:
        if "difference" in mean:
            shown = _told(f"mean minus {BASELINE}'s", mean["condition"])
            differences = (mean["difference"][figure] for figure in FIGURES)
            table.add_row(shown, mean["contender"], *("-" if d is None else f"{d:+.4f}" for d in differences))
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    data = os.environ.get("MAPL_EDGE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="default: all")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--interference", action="store_true", help="measure a second time under interference")
    parser.add_argument("--resume", action="store_true", help="keep results that were made with the same settings")
    parser.add_argument("--json", action="store_true", help="print the summary on stdout")
    parser.add_argument("--steps", type=int, help="training steps, for smoke tests")
    parser.add_argument("--size", type=int, help="side of the model input, for smoke tests")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.data is not None and not args.data.is_dir():
        parser.error(f"{args.data}: no such folder")
    if not args.resume and args.out.is_dir() and any(args.out.glob("*.json")):
        parser.error(f"{args.out} holds results; choose another --out, or go on with --resume")
    return args


@contextmanager
def _folder_of(data: Path | None) -> Iterator[Any]:
    """A function that gives a set's folder; that of the line (None) is only drawn when somebody asks for it."""
    with tempfile.TemporaryDirectory(prefix="mapl-edge-line-") as temporary:
        line = Path(temporary) / "line"

        def folder() -> Path:
            if data is not None:
                return data
            if not line.exists():
                SyntheticLine(pose="any").write_mvtec(line, LINE_TRAIN, LINE_GOOD, LINE_PER_DEFECT)
            return line

        yield folder


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one was not measured."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.fmean(numbers) if len(numbers) == len(values) else None


def _told(name: str, condition: str) -> str:
    return name if condition == "clean" else f"{name}, disturbed"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
