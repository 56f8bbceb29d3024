"""Trials: contenders on sets, each trial in a process of its own; what bench/accuracy.py and bench/ablation.py share.

Results lie in one folder as SET.CONTENDER.json, each whole or absent. Torch is not imported here: a process started by
a large one would report at least that one's memory as its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from mapl_edge.files import new_file
from mapl_edge.testing import SyntheticLine
from settings import Settings

CHILD = Path(__file__).with_name("contenders.py")
LINE = "line_any"  # line:?pose=any, in MVTec layout
LINE_TRAIN, LINE_GOOD, LINE_PER_DEFECT = 200, 60, 20

Results = Mapping[tuple[str, str], Mapping[str, Any]]
"""What bench/contenders.py wrote, by (set, contender)."""

WIDTH = 210  # of a table where there is no terminal to fit into

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and where.

    Attributes:
        sets: each set's folder by its name; None for the line, which is drawn, and for one that is known by results.
        contenders: in the order of measuring.
        out: folder of the results.
        resume: keep results of the same settings.
        report: run nothing, tell of the results that there are.
        as_json: print the summary on stdout.
        keep_models: keep what was trained as model folders `out`/models/SET.CONTENDER; the baseline has none.
    """

    sets: Mapping[str, Path | None]
    contenders: Sequence[str]
    settings: Settings
    out: Path
    resume: bool = False
    report: bool = False
    as_json: bool = False
    keep_models: bool = False

    @property
    def real(self) -> list[str]:
        """The sets of real pictures; the line counts in no mean."""
        return [name for name in self.sets if name != LINE]


def plan_from_arguments(doc: str | None, contenders: Sequence[str], argv: Sequence[str] | None = None) -> Plan:
    """Read the command line of a benchmark of these contenders."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder for the results")
    where.add_argument("--report", type=Path, metavar="OUT", help="run nothing, show the results that there are")
    data = os.environ.get("MAPL_EDGE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", help="default: all")
    parser.add_argument("--contenders", nargs="+", choices=contenders, default=list(contenders))
    parser.add_argument("--interference", action="store_true", help="measure a second time under interference")
    parser.add_argument("--resume", action="store_true", help="keep results that were made with the same settings")
    parser.add_argument("--keep-models", action="store_true", help="keep models in OUT/models/SET.CONTENDER")
    parser.add_argument("--json", action="store_true", help="print the summary on stdout")
    parser.add_argument("--steps", type=int, help="training steps, for smoke tests")
    parser.add_argument("--size", type=int, help="side of the model input, for smoke tests")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.data is not None and not args.data.is_dir():
        parser.error(f"{args.data}: no such folder")
    if args.report is not None and not args.report.is_dir():
        parser.error(f"{args.report}: no such folder")
    if args.out is not None and not args.resume and args.out.is_dir() and any(args.out.glob("*.json")):
        parser.error(f"{args.out} holds results; choose another --out, or go on with --resume")
    sets = real_sets(args.data)
    if args.report is not None:
        sets |= {name: None for name, _ in results_in(args.report, args.contenders) if name not in sets}
    sets = {name: sets[name] for name in sorted(sets) if name != LINE} | {LINE: None}
    unknown = sorted(set(args.sets or ()) - sets.keys())
    if unknown:
        parser.error(f"no set {', '.join(unknown)}; there are {', '.join(sets)}")
    return Plan(
        sets={name: folder for name, folder in sets.items() if not args.sets or name in args.sets},
        contenders=[name for name in contenders if name in args.contenders],
        settings=Settings(args.steps, args.size, args.seed, args.interference),
        out=args.report or args.out,
        resume=args.resume,
        report=args.report is not None,
        as_json=args.json,
        keep_models=args.keep_models,
    )


def carry_out(
    plan: Plan,
    name: str,
    summarised: Callable[[Results, Plan], dict[str, Any]],
    tables_of: Callable[[Mapping[str, Any]], list[RenderableType]],
) -> None:
    """Measure what is not measured yet, write the summary to `out/NAME.json` and show it; exit 1 if a trial failed."""
    results, failed = results_of(plan)
    summary = {"machines": machines(results), **summarised(results, plan)}
    if not plan.report:
        with new_file(plan.out / f"{name}.json", overwrite=True) as work:
            work.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for table in tables_of(summary):
        console.print(table)
    for contender, n in mixed(results).items():
        console.print(f"{contender}: results of {n} different settings; measure again with --resume")
    if plan.as_json:
        print(json.dumps(summary))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def results_of(plan: Plan) -> tuple[Results, list[str]]:
    """Every result of the plan, set by set, and what failed; results are told of as they come."""
    if plan.report:
        found = results_in(plan.out, plan.contenders)
        return {key: found[key] for key in _in_order(plan) if key in found}, []
    results: dict[tuple[str, str], Mapping[str, Any]] = {}
    failed = []
    for name, data in plan.sets.items():
        with _folder_of(data) as open_folder:
            for contender in plan.contenders:
                path = plan.out / f"{name}.{contender}.json"
                result = finished(path, contender, plan.settings) if plan.resume else None
                if result is None:
                    console.print(f"{name}: {contender} ...")
                    model = plan.out / "models" / f"{name}.{contender}" if plan.keep_models else None
                    code = measure(contender, open_folder(), path, plan.settings, model)
                    result = finished(path, contender, plan.settings) if code == 0 else None
                if result is None:
                    failed.append(f"{contender} on {name}")
                else:
                    results[name, contender] = result
                    console.print(f"{name}: {contender}: {_in_short(result)}")
    return results, failed


def real_sets(data: Path | None) -> dict[str, Path | None]:
    """Every data set under `data` in MVTec layout, by name."""
    folders = sorted(data.iterdir()) if data else []
    return {f.name: f for f in folders if (f / "train" / "good").is_dir() and (f / "test" / "good").is_dir()}


def measure(contender: str, data: Path, out: Path, settings: Settings, model: Path | None = None) -> int:
    """Run one contender on one set in a fresh process, which writes `out`, and `model` if it has one; its exit code."""
    given = {"steps": settings.steps, "size": settings.size, "seed": settings.seed}
    flags = [f"--{key}={value}" for key, value in given.items() if value is not None]
    flags += ["--interference"] if settings.interference else []
    flags += [f"--model={model}"] if model is not None else []
    command = [sys.executable, str(CHILD), contender, str(data), "--out", str(out), *flags]
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode


def finished(path: Path, contender: str, settings: Settings) -> dict[str, Any] | None:
    """A result that was made with the same settings, else None; one with more measured than asked for is kept."""
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result.get("digest") != settings.digest(contender):
        return None
    return None if settings.interference and result["interference"] is None else result


def results_in(out: Path, contenders: Sequence[str]) -> Results:
    """Every result of these contenders in a folder, whatever settings it was made with."""
    found = {}
    for path in sorted(out.glob("*.*.json")):
        name, _, contender = path.name.removesuffix(".json").rpartition(".")
        if contender in contenders:
            found[name, contender] = json.loads(path.read_text(encoding="utf-8"))
    return found


def mixed(results: Results) -> dict[str, int]:
    """Contenders whose results were made with different settings, and how many; such figures have no mean."""
    digests: dict[str, set[str]] = {}
    for (_, contender), result in results.items():
        digests.setdefault(contender, set()).add(result["digest"])
    return {contender: len(found) for contender, found in digests.items() if len(found) > 1}


def machines(results: Results) -> list[Mapping[str, Any]]:
    """Every machine that results were measured on, mostly one."""
    return list({json.dumps(result["machine"]): result["machine"] for result in results.values()}.values())


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one was not measured or there is none."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None


def difference(value: float | None, base: float | None) -> float | None:
    """`value` minus `base`, without the dust of floating point, which must not decide a bar."""
    return None if value is None or base is None else round(value - base, 9)


def title(what: str, summary: Mapping[str, Any]) -> str:
    """A table's title: what, and on which machine."""
    where = " and ".join(f"{machine['processor']}, {machine['cores']} cores" for machine in summary["machines"])
    return f"{what} on {where}" if where else what


def shown(value: float | None, form: str = ".4f") -> str:
    """A figure for people, '-' where there is none."""
    return "-" if value is None else format(value, form)


@contextmanager
def _folder_of(data: Path | None) -> Iterator[Callable[[], Path]]:
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


def _in_order(plan: Plan) -> list[tuple[str, str]]:
    return [(name, contender) for name in plan.sets for contender in plan.contenders]


def _in_short(result: Mapping[str, Any]) -> str:
    clean = result["clean"]
    return (
        f"image AUROC {shown(clean['image_auroc'])}, pixel AP {shown(clean['pixel_ap'])}, "
        f"{result['fit_seconds']:.0f} s, {result['ms_per_frame']:.1f} ms/frame"
    )
