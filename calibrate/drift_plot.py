"""Drift drawn: where each statistic's charts stood, part after part, and which alarmed."""

from __future__ import annotations

from pathlib import Path

from mapl_edge.calibrate.plot import check_plot
from mapl_edge.charts import Chart
from mapl_edge.drift_history import Followed
from mapl_edge.files import new_file
from mapl_edge.part_statistics import STATISTICS

COLOURS = {Chart.EWMA: "#4a78b5", Chart.CUSUM: "#c98a1b", Chart.DISTRIBUTION: "#8a5bb0"}


def plot_drift(followed: Followed, path: Path) -> None:
    """Draw each chart as a share of its limit, one row a statistic; an older picture is replaced.

    Raises:
        OutputError: it is no .png.
        BackendUnavailable: matplotlib is missing.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.7 * len(STATISTICS)), layout="constrained")
    rows = figure.subplots(len(STATISTICS), 1, sharex=True)
    for name, axes in zip(STATISTICS, rows, strict=True):
        for chart, colour in COLOURS.items():
            seen = [
                (n, standing.values[name][chart] / followed.limits[chart])
                for n, (_, standing) in enumerate(followed.steps, start=1)
                if name in standing.values
            ]
            axes.plot(*zip(*seen, strict=True) if seen else ([], []), color=colour, linewidth=1, label=chart.value)
        for n, (_, standing) in enumerate(followed.steps, start=1):
            if any(alarm.statistic == name for alarm in standing.alarms):
                axes.axvline(n, color="#d0493c", linewidth=1.5)
        axes.axhline(1, color="#778", linestyle=":")
        axes.axhline(-1, color="#778", linestyle=":")
        axes.set(ylabel=name, ylim=(-1.3, 1.3))
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].legend(fontsize=8, ncols=3, loc="lower left")
    rows[0].set_title("charts as shares of their limits; red: alarm")
    rows[-1].set_xlabel("passed parts")
    with new_file(path, overwrite=True) as work:
        figure.savefig(work, dpi=100, metadata={"Software": None})
