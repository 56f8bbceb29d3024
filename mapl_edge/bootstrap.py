"""Bootstrap: how far a metric would move if other pictures of the same kind had been taken (percentile intervals).

Pictures are drawn again with replacement, good and defective ones separately, as many as there are; pixels follow their
picture, since those of one picture are not independent. A resample is a row of weights, so that a thousand of them are
a few matrix products and no sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mapl_edge.arrays import Float64Array, FloatArray, UInt8Array
from mapl_edge.metrics import MAX_FPR, region_weights

RESAMPLES, CONFIDENCE = 1000, 0.95
LEVELS = 1024  # thresholds from defective pixels, and as many from normal ones
_MOST_SAMPLED = 1_000_000  # pixels that the thresholds are taken from
_AT_ONCE = 250  # resamples; keeps the arrays at a few MB each

Interval: TypeAlias = tuple[float, float]


def image_intervals(
    positive: npt.ArrayLike, scores: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of image_auroc, image_ap and image_f1_max; exact on each resample.

    Args:
        positive: (N,), whether each picture is defective.
        scores: (N,), higher is more anomalous.
        resamples, seed: the same seed gives the same intervals.

    Returns:
        Only metrics that are a number: without good pictures there is no AUROC.
    """
    y, s = np.asarray(positive, np.bool_), np.asarray(scores, np.float64)
    order = np.argsort(-s, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))
    weights = resampled(y, resamples, seed)[:, order]  # (R, N), highest score first
    tp, fp = (_from_zero(np.cumsum(weights * of, axis=1)[:, last_of_tie]) for of in (y[order], ~y[order]))
    with np.errstate(invalid="ignore"):
        values = {
            "image_auroc": _aurocs(tp, fp),
            "image_ap": _average_precisions(tp, fp),
            "image_f1_max": _f1_maxes(tp, fp),
        }
    return _intervals(values)


def pixel_intervals(
    positive: npt.ArrayLike,
    masks: Sequence[UInt8Array],
    maps: Sequence[FloatArray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of pixel_auroc, pixel_ap and aupro, from histograms of each picture.

    An approximation: scores between two thresholds count as tied. There are up to 1,024 thresholds at equal steps of
    recall and as many at equal steps of false positive rate, so that a metric moves by about 0.001 at most; with fewer
    distinct scores than that it is exact. The metrics themselves are exact (`mapl_edge.metrics`).

    Args:
        positive: (N,), whether each picture is defective; a defective picture may have an empty mask.
        masks: uint8 (H, W), 0 or 1, one per picture.
        maps: anomaly maps of the same shapes.
        resamples, seed: as for `image_intervals`.
    """
    edges = _edges(masks, maps)
    miss, hit, overlap = np.zeros((3, len(masks), len(edges) + 1))  # each (N, bins), lowest score first
    n_regions = np.zeros(len(masks))
    for i, (mask, one) in enumerate(zip(masks, maps, strict=True)):
        bins, inside = np.searchsorted(edges, one.ravel(), side="right"), mask.ravel() > 0
        miss[i] = np.bincount(bins[~inside], minlength=len(edges) + 1)
        if inside.any():
            region_weight, n_regions[i] = region_weights(mask)
            hit[i] = np.bincount(bins[inside], minlength=len(edges) + 1)
            overlap[i] = np.bincount(bins[inside], region_weight.ravel()[inside], minlength=len(edges) + 1)
    values: dict[str, list[Float64Array]] = {"pixel_auroc": [], "pixel_ap": [], "aupro": []}
    weights = resampled(positive, resamples, seed)  # (R, N)
    for part in np.array_split(weights, -(-resamples // _AT_ONCE)):
        tp, fp, regions = (_from_zero(np.cumsum((part @ each)[:, ::-1], axis=1)) for each in (hit, miss, overlap))
        with np.errstate(invalid="ignore"):  # a resample without any defective pixel is NaN and does not count
            values["pixel_auroc"].append(_aurocs(tp, fp))
            values["pixel_ap"].append(_average_precisions(tp, fp))
            pro, fpr = regions / (part @ n_regions)[:, None], fp / fp[:, -1:]
            values["aupro"].append(_areas(fpr, pro, MAX_FPR) / MAX_FPR)
    return _intervals({name: np.concatenate(parts) for name, parts in values.items()})


def resampled(positive: npt.ArrayLike, resamples: int, seed: int) -> Float64Array:
    """How often each of N pictures is in each resample: (R, N) whole numbers; good and defective drawn separately."""
    y = np.asarray(positive, np.bool_)
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(y)))
    for kind in (y, ~y):
        n = int(kind.sum())
        if n:
            weights[:, kind] = rng.multinomial(n, np.full(n, 1 / n), resamples)
    return weights


def _edges(masks: Sequence[UInt8Array], maps: Sequence[FloatArray]) -> FloatArray:
    """Thresholds, ascending, at quantiles of the defective and of the normal pixels' scores."""
    edges = []
    for kind in (1, 0):
        scores = np.concatenate([one[mask == kind] for mask, one in zip(masks, maps, strict=True)])
        if not len(scores):
            continue
        step = -(-len(scores) // _MOST_SAMPLED)
        ordered = np.sort(scores[::step])
        edges.append(ordered[np.linspace(0, len(ordered) - 1, LEVELS).round().astype(np.int64)])
    return np.unique(np.concatenate(edges))


def _from_zero(cumulated: Float64Array) -> Float64Array:
    return np.pad(cumulated, ((0, 0), (1, 0)))


def _aurocs(tp: Float64Array, fp: Float64Array) -> Float64Array:
    area: Float64Array = np.sum(np.diff(fp) * (tp[:, 1:] + tp[:, :-1]) / 2, axis=1)
    return area / (tp[:, -1] * fp[:, -1])


def _average_precisions(tp: Float64Array, fp: Float64Array) -> Float64Array:
    total = tp[:, 1:] + fp[:, 1:]
    precision = tp[:, 1:] / np.where(total > 0, total, 1)
    return np.asarray(np.sum(np.diff(tp) * precision, axis=1) / tp[:, -1], np.float64)


def _f1_maxes(tp: Float64Array, fp: Float64Array) -> Float64Array:
    best: Float64Array = np.max(2 * tp[:, 1:] / (tp[:, 1:] + fp[:, 1:] + tp[:, -1:]), axis=1)
    return np.where(tp[:, -1] > 0, best, np.nan)


def _areas(x: Float64Array, y: Float64Array, end: float) -> Float64Array:
    """Trapezoids under each row's curve up to x = end; the last one is cut by interpolation."""
    width, rise = np.diff(x), np.diff(y)
    share = np.clip((end - x[:, :-1]) / np.where(width > 0, width, 1), 0, 1)
    return np.asarray(np.sum(width * share * (y[:, :-1] + rise * share / 2), axis=1), np.float64)


def _intervals(values: dict[str, Float64Array]) -> dict[str, Interval]:
    tail = 50 * (1 - CONFIDENCE)
    intervals = {}
    for name, each in values.items():
        numbers = each[np.isfinite(each)]
        if len(numbers):
            low, high = np.percentile(numbers, [tail, 100 - tail])
            intervals[name] = (float(low), float(high))
    return intervals
