"""Score charts: the scores of a report's parts, what each limit does to them, how long a verdict took.

Each chart is a sentence that says what it shows, and its SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mapl_edge.calibrate.chart import Chart, Kind
from mapl_edge.calibrate.labelled import Labelled
from mapl_edge.calibrate.page import charts, paragraph
from mapl_edge.calibrate.words import figure_words
from mapl_edge.calibration import Calibration, Limits
from mapl_edge.metrics import precision_recall_curve, roc_curve

MOST_BINS = 50


def score_charts(calibration: Calibration | None, labelled: Labelled | None, latency_ms: Sequence[float] = ()) -> str:
    """All that can be drawn; empty where there is nothing to draw."""
    limits = None if calibration is None else calibration.limits
    drawn = [] if labelled is None else [_histogram(labelled, limits)]
    if calibration is not None and calibration.scores:
        drawn.append(_calibration_histogram(calibration))
    if labelled is not None:
        drawn += [one for one in (_roc(labelled, limits), _precision_recall(labelled, limits)) if one]
        if latency_ms:
            drawn.append(_latency(latency_ms))
    found = charts(drawn) if drawn else ""
    if labelled is not None and limits is not None and limits.pixel is not None:
        found += paragraph("Marks on the curves are of the score alone; a region fails further parts.", "small")
    return found


def _histogram(labelled: Labelled, limits: Limits | None) -> tuple[str, str]:
    scores, positive = labelled.scores, labelled.positive
    edges = _edges([*scores, *_marks(limits)])
    good, bad = (np.histogram(scores[kind], edges)[0] for kind in (~positive, positive))
    high, low = int(good.max(initial=0)), int(bad.max(initial=0))
    chart = Chart("Scores of labelled parts", "raw score", "parts", (edges[0], edges[-1]), (-low, high), whole=True)
    chart.bars(edges, good, "good", f"{int((~positive).sum())} good parts, upwards")
    chart.bars(edges, -bad, "bad", f"{int(positive.sum())} defective parts, downwards")
    _draw_limits(chart, limits)
    return "Labelled parts by raw score: good ones upwards, defective ones downwards.", chart.svg()


def _calibration_histogram(calibration: Calibration) -> tuple[str, str]:
    title, marks = "Scores of the calibration's good parts", _marks(calibration.limits)
    chart = _counted(title, "raw score", calibration.scores, "good parts", marks)
    _draw_limits(chart, calibration.limits)
    return f"Good parts that the limits come from. Promised: {calibration.promise}.", chart.svg()


def _roc(labelled: Labelled, limits: Limits | None) -> tuple[str, str] | None:
    fpr, tpr = roc_curve(labelled.positive, labelled.scores)
    if not len(fpr):
        return None
    words = f"AUROC {figure_words(labelled.figures, 'image_auroc')}"
    chart = Chart("ROC curve", "good parts rejected", "defects found", (0, 1), (0, 1))
    chart.line(fpr.tolist(), tpr.tolist(), "good", words)
    for name, (rejected, found, _) in _operating_points(labelled, limits).items():
        chart.point(rejected, found, name, f"{name} limit: rejects {rejected:.1%}, finds {found:.1%}")
    return f"ROC curve. {words}: 95 % bootstrap interval.", chart.svg()


def _precision_recall(labelled: Labelled, limits: Limits | None) -> tuple[str, str] | None:
    recall, precision = precision_recall_curve(labelled.positive, labelled.scores)
    if not len(recall):
        return None
    words = f"AP {figure_words(labelled.figures, 'image_ap')}"
    chart = Chart("Precision and recall", "recall: defects found", "precision", (0, 1), (0, 1))
    chart.line(recall.tolist(), precision.tolist(), "good", words, steps=True)
    for name, (_, found, right) in _operating_points(labelled, limits).items():
        chart.point(found, right, name, f"{name} limit: recall {found:.1%}, precision {right:.1%}")
    return f"Precision over recall. {words}: 95 % bootstrap interval.", chart.svg()


def _latency(latency_ms: Sequence[float]) -> tuple[str, str]:
    p50, p99 = (float(value) for value in np.percentile(latency_ms, [50, 99]))
    chart = _counted("Time to the verdict", "capture to verdict, ms", latency_ms, "parts")
    chart.limit(p50, "review", f"p50 {p50:.1f} ms")
    chart.limit(p99, "fail", f"p99 {p99:.1f} ms")
    return "Time from capture to verdict.", chart.svg()


def _counted(title: str, x: str, values: Sequence[float], of: str, marks: Sequence[float] = ()) -> Chart:
    """How many values lie where; wide enough for the marks too."""
    edges = _edges([*values, *marks])
    counts = np.histogram(values, edges)[0]
    chart = Chart(title, x, "parts", (edges[0], edges[-1]), (0, int(counts.max(initial=1))), whole=True)
    chart.bars(edges, counts, "good", f"{len(values)} {of}")
    return chart


def _operating_points(labelled: Labelled, limits: Limits | None) -> dict[Kind, tuple[float, float, float]]:
    """By limit: the share of good parts rejected, of defects found, and of rejects that are defects (1 for none)."""
    scores, positive, found = labelled.scores, labelled.positive, {}
    for name, limit in _named(limits):
        above = scores > limit
        n_above = int(above.sum())
        right = float(positive[above].mean()) if n_above else 1.0
        found[name] = float(above[~positive].mean()), float(above[positive].mean()), right
    return found


def _draw_limits(chart: Chart, limits: Limits | None) -> None:
    for name, limit in _named(limits):
        chart.limit(limit, name, f"{name} limit {limit:.4g}")


def _named(limits: Limits | None) -> list[tuple[Kind, float]]:
    if limits is None:
        return []
    return [("fail", limits.fail), *([] if limits.review is None else [("review", limits.review)])]  # type: ignore[list-item]


def _marks(limits: Limits | None) -> list[float]:
    return [limit for _, limit in _named(limits)]


def _edges(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = list(values)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, min(MOST_BINS, max(10, round(2 * math.sqrt(len(values))))) + 1)
