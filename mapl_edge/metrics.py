"""Metrics of anomaly detection, exact to the last tie. Checked against scikit-learn and slow definitions in tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mapl_edge.arrays import BoolArray, Float64Array, FloatArray, UInt8Array

MAX_FPR = 0.3  # where AUPRO ends (MVTec AD, §4.2)


def auroc(positive: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the receiver operating characteristic; ties count half. NaN unless both classes are there."""
    y, s = _flat(positive, scores)
    tp, fp = _cumulated(s, y.astype(np.float64), (~y).astype(np.float64))
    if tp[-1] == 0 or fp[-1] == 0:
        return float("nan")
    return _area(fp / fp[-1], tp / tp[-1])


def smooth_auroc(positive: npt.ArrayLike, scores: npt.ArrayLike, bandwidth: float) -> float:
    """Area under the ROC curve of kernel estimates, the mean of Φ((s⁺ - s⁻) / bandwidth) over all pairs.

    Where two engines are compared on few pictures, pairs that lie near each other change sides by chance, and each
    moves the AUROC; here a small step of a score is a small step of the area (Zou, Hall and Shapiro 1997, Statistics
    in Medicine 16).

    Args:
        positive, scores: as of `auroc`.
        bandwidth: of a difference of two scores, see `bandwidth_of`; with 0 it is the AUROC. The same for both engines.
    """
    y, s = _flat(positive, scores)
    if bandwidth <= 0 or not y.any() or y.all():
        return auroc(y, s)
    steps = np.subtract.outer(s[y], s[~y]).ravel() / (bandwidth * math.sqrt(2))
    return 0.5 + 0.5 * math.fsum(map(math.erf, steps.tolist())) / len(steps)


def bandwidth_of(positive: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """For `smooth_auroc`: both classes' by Silverman's rule of thumb, joined. 0 where a class does not vary."""
    y, s = _flat(positive, scores)
    widths = []
    for few in (s[y], s[~y]):
        if len(few) < 2:
            return 0.0
        low, high = np.percentile(few, [25, 75])
        widths.append(0.9 * min(float(few.std(ddof=1)), float(high - low) / 1.34) * len(few) ** -0.2)
    return math.hypot(*widths) if min(widths) > 0 else 0.0


def average_precision(positive: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Σ (R_n - R_{n-1}) P_n over the distinct thresholds. NaN without positives."""
    y, s = _flat(positive, scores)
    tp, fp = _cumulated(s, y.astype(np.float64), (~y).astype(np.float64))
    if tp[-1] == 0:
        return float("nan")
    precision = tp[1:] / (tp[1:] + fp[1:])
    return float(np.sum(np.diff(tp / tp[-1]) * precision))


def roc_curve(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Float64Array, Float64Array]:
    """False and true positive rate at each distinct threshold, from none to all. Empty unless both classes exist."""
    y, s = _flat(positive, scores)
    tp, fp = _cumulated(s, y.astype(np.float64), (~y).astype(np.float64))
    if tp[-1] == 0 or fp[-1] == 0:
        return tp[:0], fp[:0]
    return fp / fp[-1], tp / tp[-1]


def precision_recall_curve(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Recall and precision at every distinct threshold, from the highest down; begins with (0, 1). Empty without
    positives."""
    y, s = _flat(positive, scores)
    tp, fp = _cumulated(s, y.astype(np.float64), (~y).astype(np.float64))
    if tp[-1] == 0:
        return tp[:0], fp[:0]
    return tp / tp[-1], np.append(1.0, tp[1:] / (tp[1:] + fp[1:]))


def f1_max(positive: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The largest F1 over all thresholds. NaN without positives."""
    y, s = _flat(positive, scores)
    tp, fp = _cumulated(s, y.astype(np.float64), (~y).astype(np.float64))
    if tp[-1] == 0:
        return float("nan")
    return float(np.max(2 * tp[1:] / (tp[1:] + fp[1:] + tp[-1])))


def aupro(masks: Sequence[UInt8Array], maps: Sequence[FloatArray], max_fpr: float = MAX_FPR) -> float:
    """Area under the per-region overlap curve up to a false positive rate, divided by it (MVTec AD, §4.2).

    The curve of mean overlap per region against false positive rate is a ROC curve in which every pixel of a region
    weighs one over the region's size; so one sort gives it exactly. Regions are 8-connected.

    Args:
        masks: uint8 (H, W), 0 or 1, one per picture.
        maps: anomaly maps of the same shape.
        max_fpr: where the integration ends.

    Returns:
        0 to 1; NaN unless there are regions and normal pixels.
    """
    if not masks or [mask.shape for mask in masks] != [one.shape for one in maps]:
        raise ValueError(f"masks and maps must have the same shapes, got {len(masks)} masks and {len(maps)} maps")
    weights, n_regions = [], 0
    for mask in masks:
        weight, count = region_weights(mask)
        n_regions += count
        weights.append(weight.ravel())
    y = np.concatenate([mask.ravel() for mask in masks]) > 0
    s = np.concatenate([m.ravel() for m in maps])
    if np.isnan(s).any():
        raise ValueError("maps contain NaN; the model is broken")
    if n_regions == 0 or y.all():
        return float("nan")
    overlap, false_positives = _cumulated(s, np.concatenate(weights), (~y).astype(np.float64))
    pro, fpr = overlap / n_regions, false_positives / false_positives[-1]
    end = int(np.searchsorted(fpr, max_fpr, side="right"))
    x, z = fpr[:end], pro[:end]
    if x[-1] < max_fpr:
        x, z = np.append(x, max_fpr), np.append(z, np.interp(max_fpr, fpr, pro))
    return _area(x, z) / max_fpr


def region_weights(mask: UInt8Array) -> tuple[Float64Array, int]:
    """One over the size of the 8-connected region that a pixel is in, 0 outside, (H, W); and how many regions."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    weight = 1.0 / np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    weight[0] = 0.0
    return weight[labels], count - 1


def _flat(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[BoolArray, Float64Array]:
    y, s = np.asarray(positive).ravel().astype(np.bool_), np.asarray(scores, np.float64).ravel()
    if y.shape != s.shape or y.size == 0:
        raise ValueError(f"labels and scores must have the same, non-zero length, got {y.size} and {s.size}")
    if np.isnan(s).any():
        raise ValueError("scores contain NaN; the model is broken")
    return y, s


def _cumulated(
    s: FloatArray | Float64Array, hit: Float64Array, miss: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Sums of `hit` and `miss` over all at or above each distinct score, from the highest down; begins with 0."""
    order = np.argsort(-s, kind="stable")
    ordered = s[order]
    last_of_tie = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    zero = np.zeros(1)
    return (
        np.concatenate([zero, np.cumsum(hit[order])[last_of_tie]]),
        np.concatenate([zero, np.cumsum(miss[order])[last_of_tie]]),
    )


def _area(x: Float64Array, y: Float64Array) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
