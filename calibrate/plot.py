"""The trade-off drawn: what each limit rejects and misses, and where the chosen ones lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mapl_edge.calibrate.decision import Decision
from mapl_edge.calibrate.tradeoff import OperatingPoint, Tradeoff
from mapl_edge.errors import BackendUnavailable, DataError, OutputError
from mapl_edge.files import new_file

COLOURS = {"promise": "#1d2530", "f1": "#4a78b5", "recall": "#8a5bb0", "cost": "#c98a1b"}


def check_plot(path: Path) -> None:
    """Told before the pictures are scored.

    Raises:
        OutputError: it is no .png, or a folder.
        BackendUnavailable: matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: is not named .png; choose a name that ends in .png")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file to write; choose another name")
    try:
        import matplotlib  # noqa: F401 - only asked whether it is there
    except ImportError as exc:
        raise BackendUnavailable("matplotlib is not installed; pip install 'mapl-edge[train]'") from exc


def plot_tradeoff(decision: Decision, path: Path) -> None:
    """Draw false rejects and misses over the limit, and one against the other; an older picture is replaced.

    Raises:
        DataError: there are no defects to draw.
        BackendUnavailable: matplotlib is missing.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    if decision.tradeoff is None:
        raise DataError("there is no trade-off without defective parts; give --bad FOLDER, or labels in the CSV")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_over_limit(left, decision.tradeoff, decision)
    _draw_against(right, decision.tradeoff, decision.points)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    with new_file(path, overwrite=True) as work:
        figure.savefig(work, dpi=120, metadata={"Software": None})


def _draw_over_limit(axes: Any, trade: Tradeoff, decision: Decision) -> None:
    rejected, missed = trade.rejected / len(trade.good), 1 - trade.found / len(trade.bad)
    axes.plot(trade.limits, rejected, drawstyle="steps-pre", color="#3a9d5d", label="good parts rejected")
    axes.plot(trade.limits, missed, drawstyle="steps-pre", color="#d0493c", label="defects missed")
    axes.axvline(decision.limits.fail, color="#1d2530", linestyle="--", label=f"fail {decision.limits.fail:.4g}")
    if decision.limits.review is not None:
        axes.axvline(decision.limits.review, color="#778", linestyle=":", label=f"review {decision.limits.review:.4g}")
    axes.set(xlabel="limit", ylabel="share of parts", ylim=(-0.02, 1.02))


def _draw_against(axes: Any, trade: Tradeoff, points: tuple[OperatingPoint, ...]) -> None:
    rejected, missed = trade.rejected / len(trade.good), 1 - trade.found / len(trade.bad)
    axes.plot(rejected, missed, color="#556", linewidth=1)
    for point in points:
        x, y = point.false_rejects, point.misses
        axes.errorbar(
            x.value,
            y.value,
            xerr=[[x.value - x.interval[0]], [x.interval[1] - x.value]],
            yerr=[[y.value - y.interval[0]], [y.interval[1] - y.value]],
            fmt="o",
            capsize=3,
            color=COLOURS[point.rule],
            label=f"{point.rule}: limit {point.limit:.4g}",
        )
    axes.set(xlabel="good parts rejected", ylabel="defects missed", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
