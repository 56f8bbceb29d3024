"""Are drift's false alarms as documented, and does it see a worn lamp, lens or mount before more parts are rejected?

    mapl-edge demo --out demo --steps 300
    python bench/drift.py demo/part.mapl [--runs 200] [--parts 300] [--grid grid.npz]
    python bench/drift.py SET.mapl --normals SET/train/good SET/test/good
    python bench/drift.py demo/part.mapl --cost

Parts of the synthetic line at several ages are looked at by the bundle once (the grid, kept in --grid). A run then
draws its calibration and its parts from the grid at random, between two ages by a straight line for each part; so
hundreds of runs are real readings and take minutes. Every run has a calibration and limit of its own. The rate of
rejects that a run would have at an age is counted over the whole grid; it has doubled where it is twice that at age 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mapl_edge.arrays import Float64Array, UInt8Array
from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate.limits import limit_from_normals, lower_bound, upper_bound
from mapl_edge.calibration import Calibration
from mapl_edge.dataset import BadPictures, folder_samples
from mapl_edge.drift import PARTS_PER_FALSE_ALARM, Alarm, Drift
from mapl_edge.engine import Reading
from mapl_edge.files import sha256_of
from mapl_edge.part_statistics import STATISTICS, part_statistics, values_of
from mapl_edge.place import PlaceReference, reference_from_picture
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine
from mapl_edge.testing import Ageing, SyntheticLine

FIRST = 100_000  # parts that neither training nor calibration saw
AGES: dict[str, tuple[dict[str, float], tuple[float, ...]]] = {  # what wears in a thousand parts; thousands of parts
    "lamp, 3 %": ({"lamp": 0.03}, (0, 1, 2, 3, 4, 6, 8)),
    "defocus, 0.5 px": ({"defocus": 0.5}, (0, 0.5, 1, 1.5, 2, 3)),
    "shift, 3 px": ({"shift": 3.0}, (0, 0.5, 1, 1.5, 2, 3)),
}


@dataclass(frozen=True, slots=True)
class Wear:
    """How a run ages along a grid: by so many times its pace, and at once by what so many thousand parts wear."""

    grid: str
    pace: float = 1.0
    step: float = 0.0

    def age(self, part: int) -> float:
        """In thousands of parts at the grid's pace."""
        return self.step + self.pace * part / 1000


AS_NEW = Wear("lamp, 3 %", pace=0.0)
WEARS = {
    **{f"{name} in 1,000 parts": Wear(name) for name in AGES},
    "shift, 1 px in 1,000 parts": Wear("shift, 3 px", pace=1 / 3),
    "shift, 9 px in 1,000 parts": Wear("shift, 3 px", pace=3.0),
    "shift, 1.4 px at once": Wear("shift, 3 px", pace=0.0, step=1.4 / 3),
    "shift, 2.8 px at once": Wear("shift, 3 px", pace=0.0, step=2.8 / 3),
}
LENGTH = 3000  # parts of a run after a step


@dataclass(frozen=True, slots=True)
class Grid:
    """Readings (A, N, 9) of the same N parts at A ages, in thousands of parts; the last axis as STATISTICS."""

    ages: tuple[float, ...]
    values: Float64Array

    def at(self, age: float, parts: Any) -> Float64Array:
        """Readings of these parts at an age; behind the last one, those of the last."""
        k = int(np.clip(np.searchsorted(self.ages, age, "right") - 1, 0, len(self.ages) - 2))
        share = min(1.0, (age - self.ages[k]) / (self.ages[k + 1] - self.ages[k]))
        return np.asarray((1 - share) * self.values[k, parts] + share * self.values[k + 1, parts])


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated run.

    Attributes:
        alarms: parts at which an alarm was raised.
        doubled: part at which the rate of rejects has doubled; None: not in this run.
    """

    alarms: tuple[int, ...]
    doubled: int | None


def simulated(
    grid: Grid, wear: Wear, seed: int, parts: int, n_calibration: int, share: float, parts_per_false_alarm: float
) -> Run:
    """Calibrate on parts of age 0, then follow `parts` parts; a run that wears ends at its first alarm."""
    rng = np.random.default_rng(seed)
    n, jitter = grid.values.shape[1], 1e-4 * grid.values[0].std(axis=0)

    def drawn(age: float, part: int) -> Float64Array:
        return np.asarray(grid.at(age, part) + jitter * rng.standard_normal(len(STATISTICS)))  # no two are equal

    good = np.stack([drawn(0.0, j) for j in rng.integers(n, size=n_calibration)])
    limit = limit_from_normals(good[:, 0], share, 0.95).limit
    drift = Drift(calibration_of(good, limit), parts_per_false_alarm)
    alarms: list[int] = []
    for i in range(parts):
        values = drawn(wear.age(i), int(rng.integers(n)))
        if values[0] <= limit and drift.add(dict(zip(STATISTICS, values.tolist(), strict=True))).alarms:
            alarms.append(i + 1)
            if wear is not AS_NEW:
                break
    return Run(tuple(alarms), None if wear is AS_NEW else doubled_at(grid, wear, limit, parts))


def doubled_at(grid: Grid, wear: Wear, limit: float, parts: int, step: int = 25) -> int | None:
    """The first part whose expected rate of rejects is twice the first one's, and at least one part of the grid's."""
    every = np.arange(grid.values.shape[1])
    first = max((grid.at(0.0, every)[:, 0] > limit).mean(), 1 / len(every))
    return next(
        (i for i in range(0, parts, step) if (grid.at(wear.age(i), every)[:, 0] > limit).mean() >= 2 * first), None
    )


def calibration_of(good: Float64Array, limit: float) -> Calibration:
    """As `mapl-edge calibrate` would write it."""
    promise = dict.fromkeys(("max_false_reject", "confidence", "achieved"), 0.05)
    counts = {"n_good": len(good), "n_above": 0, "n_needed": 0}
    return Calibration.model_validate(
        {
            "created_at": "",
            "created_by": "bench",
            "model_digest": "",
            "pictures": {},
            "limits": {"fail": limit},
            "promise": promise | counts,
            "scores": good[:, 0].tolist(),
            "baseline": {name: good[:, k].tolist() for k, name in enumerate(STATISTICS) if k},
        }
    )


def grids(bundle: Bundle, parts: int, keep: Path | None) -> dict[str, Grid]:
    """Look at the line, or read what an earlier call kept."""
    if keep is not None and keep.is_file():
        with np.load(keep, allow_pickle=False) as stored:
            return {name: Grid(ages, stored[name]) for name, (_, ages) in AGES.items()}
    found: dict[str, Grid] = {}
    with FusedEngine(bundle.model_path, threads=1) as engine:
        new: Float64Array | None = None
        place = reference_from_picture(prepare(SyntheticLine(seed=0).good(FIRST - 1).image, bundle.contract))
        for name, (wear, ages) in AGES.items():
            rows = [] if new is None else [new]
            for age in track(ages[len(rows) :], f"looking at {parts} parts: {name}", transient=True):
                line = (
                    SyntheticLine(seed=0, ageing=Ageing(**wear, start=i - round(1000 * age)))
                    for i in range(FIRST, FIRST + parts)
                )
                pictures = (prepare(each.good(FIRST + i).image, bundle.contract) for i, each in enumerate(line))
                rows.append(looked(engine, pictures, place))
            new = rows[0]
            found[name] = Grid(ages, np.stack(rows))
    if keep is not None:
        np.savez(keep, **{name: grid.values for name, grid in found.items()})  # type: ignore[arg-type]
    return found


def looked(engine: FusedEngine, pictures: Any, place: PlaceReference) -> Float64Array:
    """Readings (N, 9) of prepared pictures."""
    rows = []
    for picture in pictures:
        reading = engine.infer(picture)
        rows.append(list(values_of(reading.score, part_statistics(picture, reading, place)).values()))
    return np.array(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where false alarms come more often than documented or a lamp is seen too late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--parts", type=int, default=300, help="parts of the grid")
    parser.add_argument("--length", type=int, default=2000, help="parts of a run without drift")
    parser.add_argument("--per-false-alarm", type=float, default=PARTS_PER_FALSE_ALARM)
    parser.add_argument("--max-false-reject", type=float, default=0.05)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--cost", action="store_true", help="only what the statistics cost a part")
    parser.add_argument("--normals", type=Path, nargs=2, metavar=("BASELINE", "PARTS"), help="folders of good parts")
    options = parser.parse_args(arguments)
    bundle, console = open_bundle(options.bundle), Console(width=130)
    if options.cost:
        console.print(_cost(bundle))
        return 0
    if options.normals:
        console.print(_recorded(bundle, options.normals[0], options.normals[1], options.per_false_alarm))
        return 0
    found = grids(bundle, options.parts, options.grid)
    wish = options.max_false_reject
    held = True
    table = Table("calibration parts", "runs", "with a false alarm", "documented at most", "alarms", "parts per alarm")
    documented = 1 - np.exp(-options.length / options.per_false_alarm)
    for n in (10, 60, 300):
        runs = [
            simulated(found[AS_NEW.grid], AS_NEW, seed, options.length, n, wish, options.per_false_alarm)
            for seed in track(range(options.runs), f"no drift, {n} calibration parts", transient=True)
        ]
        bad, alarms = sum(bool(run.alarms) for run in runs), sum(len(run.alarms) for run in runs)
        low, high = _interval(bad, len(runs))
        held &= low <= documented
        table.add_row(
            f"{n}", f"{len(runs)} of {options.length}", f"{bad / len(runs):.1%} ({low:.1%} to {high:.1%})",
            f"{documented:.1%}", f"{alarms}", f"{len(runs) * options.length / max(alarms, 1):,.0f}",
        )  # fmt: skip
    console.print(table)
    table = Table(
        "wear", "calibration parts", "alarm after, median", "95 %", "rejects doubled, median", "5 %", "alarm first"
    )
    for name, wear in WEARS.items():
        grid = found[wear.grid]
        for n in (60, 300):
            length = int(1000 * grid.ages[-1] / wear.pace) if wear.pace else LENGTH
            runs = [
                simulated(grid, wear, seed, length, n, wish, options.per_false_alarm)
                for seed in track(range(options.runs), name, transient=True)
            ]
            never = 10 * length
            seen, doubled = (
                np.array([run.alarms[0] if run.alarms else never for run in runs]),
                np.array([never if run.doubled is None else run.doubled for run in runs]),
            )
            early = (seen < doubled).mean()
            held &= early >= 0.95 or n < 300 or wear.pace != 1
            low, high = _interval(int((seen < doubled).sum()), len(runs))
            when = [
                _shown(float(np.quantile(some, q)), never)
                for some, q in ((seen, 0.5), (seen, 0.95), (doubled, 0.5), (doubled, 0.05))
            ]
            table.add_row(name, f"{n}", *when, f"{early:.1%} ({low:.1%} to {high:.1%})")
    console.print(table)
    return 0 if held else 1


def _shown(part: float, never: int) -> str:
    """After how many parts; "later" than the run is long."""
    return "later" if part >= never else f"{part:.0f}"


def _interval(events: int, n: int) -> tuple[float, float]:
    """95 %, Clopper and Pearson."""
    return lower_bound(events, n, 0.975), upper_bound(events, n, 0.975)


def _recorded(bundle: Bundle, baseline: Path, parts: Path, per_false_alarm: float) -> Table:
    """Good parts of another folder, once in the order of their names and in 200 random orders."""
    trained_on = set(bundle.manifest.trained_on)

    def pictures(folder: Path) -> Iterator[UInt8Array]:
        for sample, image in BadPictures().read(folder_samples(folder)):
            if sha256_of(sample.path) not in trained_on:
                yield prepare(image, bundle.contract)

    place = bundle.calibration.place or reference_from_picture(next(pictures(baseline)))
    with FusedEngine(bundle.model_path, threads=1) as engine:
        at_calibration, later = (looked(engine, pictures(folder), place) for folder in (baseline, parts))
    limit, orders = bundle.calibration.limits.fail, np.random.default_rng(0)
    table = Table("parts", "order", "passed", "runs", "runs with an alarm", "first of them", "statistics")
    for title, base, rows in (
        ("the other folder", at_calibration, later),
        ("half of the same folder", at_calibration[::2], at_calibration[1::2]),
    ):
        passed = rows[rows[:, 0] <= limit]
        for order, runs in (("by name", [passed]), ("shuffled", [orders.permutation(passed) for _ in range(200)])):
            raised = [_alarms(Drift(calibration_of(base, limit), per_false_alarm), run) for run in runs]
            first = min((alarms[0].part for alarms in raised if alarms), default=None)
            names = sorted({alarm.statistic for alarms in raised for alarm in alarms})
            bad = sum(map(bool, raised))
            table.add_row(title, order, f"{len(passed)}", f"{len(runs)}", f"{bad}", f"{first or '-'}", ", ".join(names))
    return table


def _cost(bundle: Bundle, turns: int = 2000) -> Table:
    """Milliseconds of the statistics of one part on one thread, in turns with reading their bytes just once."""
    cv2.setNumThreads(1)
    line, (h, w) = SyntheticLine(seed=0), bundle.contract.size_hw
    pictures = [prepare(line.good(FIRST + i).image, bundle.contract) for i in range(50)]
    reading = Reading(0.0, np.random.default_rng(0).random((h, w), np.float32), 0)
    place = reference_from_picture(pictures[0])
    good = [values_of(i / 50, part_statistics(picture, reading, place)) for i, picture in enumerate(pictures)]
    drift = Drift(calibration_of(np.array([list(one.values()) for one in good] * 6), 1.0))
    ways: dict[str, Callable[[int], object]] = {
        "statistics": lambda i: part_statistics(pictures[i], reading, place),
        "floor: reading picture and map once": lambda i: (cv2.sumElems(pictures[i]), cv2.sumElems(reading.map)),
        "charts, after the verdict has left": lambda i: drift.add(good[i]),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name, way in ways.items():
            begun = time.perf_counter()
            way(turn % len(pictures))
            spent[name].append(1e3 * (time.perf_counter() - begun))
    table = Table(f"{w}x{h}, one thread", "bytes", "lower quartile, ms", "median, ms")
    for name, ms in spent.items():
        n = "-" if "charts" in name else f"{pictures[0].nbytes + reading.map.nbytes:,}"
        table.add_row(name, n, f"{np.quantile(ms, 0.25):.3f}", f"{np.median(ms):.3f}")
    return table


def _alarms(drift: Drift, rows: Float64Array) -> list[Alarm]:
    return [a for row in rows.tolist() for a in drift.add(dict(zip(STATISTICS, row, strict=True))).alarms]


if __name__ == "__main__":
    sys.exit(main())
