"""Drift: follows the parts that passed and tells when their score or picture is no longer that of the calibration.

Only PASSed parts count: a run of defects is a matter for the gate. Selection by PASS changes the distribution, so the
baseline is selected alike: the calibration's good parts that lie below the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mapl_edge.calibration import Calibration
from mapl_edge.charts import Chart, Charts
from mapl_edge.errors import DataError
from mapl_edge.part_statistics import STATISTICS

PARTS_PER_FALSE_ALARM = 10_000
QUIET_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class Alarm:
    """A chart beyond its limit.

    Attributes:
        part: how many passed parts had been followed, this one included.
        value, limit: where the chart stood; negative: the statistic has fallen.
        mean, baseline: of the statistic over the latest parts and at calibration; None without a baseline.
    """

    statistic: str
    chart: Chart
    part: int
    value: float
    limit: float
    mean: float
    baseline: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        content = {name: getattr(self, name) for name in self.__slots__}
        return {"event": "drift", **content, "chart": self.chart.value}

    def __str__(self) -> str:
        was = "" if self.baseline is None else f", at calibration {self.baseline:.6g}"
        return (
            f"DRIFT after {self.part} passed parts: {self.statistic} is about {self.mean:.6g}{was} "
            f"({self.chart.value} {self.value:.3g}, limit {self.limit:.3g}); look at lamp, lens and parts"
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the charts of all statistics stand after one passed part, and the alarms that it raised."""

    values: dict[str, dict[Chart, float]]
    alarms: tuple[Alarm, ...]


class Drift:
    """The charts of one station: nine statistics, three charts each.

    The rate of false alarms is shared out evenly, so that over all charts together there is at most one in
    `parts_per_false_alarm` passed parts on average while the parts are exchangeable. After an alarm, the charts of that
    statistic rest for `quiet_parts`, learn nothing meanwhile, and begin anew.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        parts_per_false_alarm: float = PARTS_PER_FALSE_ALARM,
        quiet_parts: int = QUIET_PARTS,
    ) -> None:
        """Start from a calibration's baseline; what it does not hold is learnt from the first parts that come.

        Raises:
            DataError: the baseline holds a number that is not finite.
        """
        self._baseline = {} if calibration is None else passed_baseline(calibration)
        run_length = parts_per_false_alarm * len(STATISTICS) * len(Chart)
        self._charts = {
            name: Charts(self._baseline.get(name, ()), run_length, seed) for seed, name in enumerate(STATISTICS)
        }
        self.limits = self._charts["score"].limits
        self._quiet_parts = quiet_parts
        self._quiet = dict.fromkeys(STATISTICS, 0)
        self._mean: dict[str, float] = {}
        self.parts = 0

    @property
    def n_baseline(self) -> int:
        """Parts of the calibration that it started from."""
        return len(self._baseline.get("brightness", ()))

    def add(self, values: Mapping[str, float]) -> Standing:
        """Take one passed part: statistics by name; those that are missing are not followed.

        Raises:
            DataError: a value is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise DataError(f"{name} is {value}, expected a finite number; look at the engine")
        self.parts += 1
        standing: dict[str, dict[Chart, float]] = {}
        alarms = []
        for name in STATISTICS:
            if name not in values:
                continue
            value = values[name]
            before = self._mean.get(name, value)
            self._mean[name] = before + (value - before) * max(1 / self.parts, 0.02)
            if self._quiet[name]:
                self._quiet[name] -= 1
                continue
            charts = self._charts[name]
            standing[name] = charts.add(value)
            raised = charts.alarms(standing[name])
            alarms += [self._alarm(name, chart, standing[name][chart]) for chart in raised]
            if raised:
                charts.restart()
                self._quiet[name] = self._quiet_parts
        return Standing(standing, tuple(alarms))

    def _alarm(self, name: str, chart: Chart, value: float) -> Alarm:
        known = self._baseline.get(name)
        baseline = sum(known) / len(known) if known else None
        return Alarm(name, chart, self.parts, value, self.limits[chart], self._mean[name], baseline)


def passed_baseline(calibration: Calibration) -> dict[str, tuple[float, ...]]:
    """The statistics of the good parts that lie below the limits for PASS, of score and of regions.

    A limit is mostly one of these values; that part is left out, since no part that passes later lies at it.
    """
    limits = calibration.limits
    limit = limits.fail if limits.review is None else limits.review
    levels = calibration.levels if limits.pixel is not None else ()
    bound = math.inf if limits.pixel is None else limits.pixel.limit
    pairs = zip_longest(calibration.scores, levels, fillvalue=-math.inf)  # levels: one each, or none
    kept = [i for i, (score, level) in enumerate(pairs) if score < limit and level < bound]
    columns = {"score": calibration.scores, **calibration.baseline}
    return {name: tuple(column[i] for i in kept) for name, column in columns.items()}
