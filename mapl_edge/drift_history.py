"""Drift history: the charts over passed parts of the past, from a store or a file of verdicts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapl_edge.charts import Chart
from mapl_edge.drift import Alarm, Drift, Standing
from mapl_edge.errors import DataError, OutputError
from mapl_edge.files import new_file
from mapl_edge.part_statistics import STATISTICS


@dataclass(frozen=True, slots=True)
class Passed:
    """A part that passed: who judged it, when it was captured, its score and statistics by name."""

    camera: str
    calibration: str
    run: str
    seq: int
    captured_at: str
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Followed:
    """Passed parts in order, and where the charts stood after each."""

    steps: tuple[tuple[Passed, Standing], ...]
    limits: dict[Chart, float]
    n_baseline: int

    @property
    def alarms(self) -> list[tuple[Passed, Alarm]]:
        """In the order in which they were raised."""
        return [(part, alarm) for part, standing in self.steps for alarm in standing.alarms]


def follow(parts: Iterable[Passed], drift_of: Callable[[str], Drift]) -> Followed:
    """Go over the passed parts of one camera, oldest first.

    Args:
        parts: as `mapl_edge.runtime.passed.passed_parts` gives them.
        drift_of: makes the charts of a calibration by its digest; they begin anew where the calibration changes.

    Raises:
        DataError: there is no part, the parts are of several cameras, or a value is not finite.
    """
    steps: list[tuple[Passed, Standing]] = []
    drift: Drift | None = None
    for part in parts:
        if steps and part.camera != steps[-1][0].camera:
            known = f"{steps[-1][0].camera} and {part.camera}"
            raise DataError(f"found parts of several cameras ({known}), expected one; name it with --camera")
        if drift is None or part.calibration != steps[-1][0].calibration:
            drift = drift_of(part.calibration)
        steps.append((part, drift.add(part.values)))
    if drift is None:
        raise DataError("found no part that passed; drift follows those alone")
    return Followed(tuple(steps), drift.limits, drift.n_baseline)


def write_drift(followed: Followed, out: Path) -> int:
    """Write a .csv file, one row a passed part, with each statistic and its charts; returns how many.

    Raises:
        OutputError: the file exists, or the disk refuses.
    """
    columns = ["camera", "run", "seq", "captured_at", "alarms"]
    columns += [name for each in STATISTICS for name in (each, *(f"{each}_{chart.value}" for chart in Chart))]
    if out.exists():
        raise OutputError(f"{out} exists; choose another --csv")
    with new_file(out) as work, work.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for part, standing in followed.steps:
            row: dict[str, Any] = {key: getattr(part, key) for key in columns[:4]} | part.values
            row["alarms"] = " ".join(f"{alarm.statistic}:{alarm.chart.value}" for alarm in standing.alarms)
            for name, charts in standing.values.items():
                row |= {f"{name}_{chart.value}": f"{value:.5g}" for chart, value in charts.items()}
            writer.writerow(row)
    return len(followed.steps)
