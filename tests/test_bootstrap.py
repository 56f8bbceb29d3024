"""Bootstrap intervals against slow resampling with the exact metrics, and against what is known."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from mapl_edge.bootstrap import image_intervals, pixel_intervals, resampled
from mapl_edge.metrics import aupro, auroc, average_precision, f1_max

IMAGE_METRICS = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}


def gaussians(n_good: int, n_bad: int, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; the true AUROC is Φ(distance / √2)."""
    positive = np.arange(n_good + n_bad) >= n_good
    return positive, np.random.default_rng(seed).normal(distance * positive, 1)


def pictures(n: int, seed: int, levels: int | None = None) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels, masks with one or two squares on each second picture, and maps of which most squares are brighter."""
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(n):
        mask = np.zeros((24, 20), np.uint8)
        for _ in range(i % 2 * int(rng.integers(1, 3))):
            y, x = rng.integers(0, 16, 2)
            mask[y : y + 6, x : x + 4] = 1
        scores = rng.normal(0, 1, mask.shape) + mask * rng.uniform(0, 3)
        masks.append(mask)
        maps.append((scores if levels is None else np.round(scores * levels)).astype(np.float32))
    return np.arange(n) % 2 == 1, masks, maps


def by_hand(weights: np.ndarray, metric: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """The percentile interval of a metric of the indices of the drawn pictures."""
    values = [metric(np.repeat(np.arange(len(row)), row.astype(int))) for row in weights]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("name", IMAGE_METRICS)
@pytest.mark.parametrize("decimals", [1, 8], ids=["many-ties", "no-ties"])
def test_image_intervals_agree_with_slow_resampling(name: str, decimals: int) -> None:
    """The same draws, each measured by the exact metric."""
    positive, scores = gaussians(25, 40, 1.0, 0)
    scores = scores.round(decimals)
    slow = by_hand(resampled(positive, 200, 7), lambda i: IMAGE_METRICS[name](positive[i], scores[i]))

    assert image_intervals(positive, scores, 200, 7)[name] == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(("levels", "tolerance"), [(5, 1e-9), (None, 1e-3)], ids=["few-scores", "all-different"])
def test_pixel_intervals_agree_with_slow_resampling(levels: int | None, tolerance: float) -> None:
    """Exact while there are fewer scores than thresholds, within a thousandth beyond; whole pictures are drawn."""
    positive, masks, maps = pictures(14, 3, levels)
    weights = resampled(positive, 60, 5)

    def pixels(of: list[np.ndarray], i: np.ndarray) -> np.ndarray:
        return np.concatenate([of[k].ravel() for k in i])

    slow = {
        "pixel_auroc": by_hand(weights, lambda i: auroc(pixels(masks, i), pixels(maps, i))),
        "pixel_ap": by_hand(weights, lambda i: average_precision(pixels(masks, i), pixels(maps, i))),
        "aupro": by_hand(weights, lambda i: aupro([masks[k] for k in i], [maps[k] for k in i])),
    }

    fast = pixel_intervals(positive, masks, maps, 60, 5)

    assert fast.keys() == slow.keys()
    for name, interval in slow.items():
        assert fast[name] == pytest.approx(interval, abs=tolerance), name


def test_intervals_contain_the_metric() -> None:
    """At a thousand resamples of an ordinary set."""
    positive, scores = gaussians(40, 60, 1.5, 1)
    labels, masks, maps = pictures(30, 2)
    values = {name: metric(positive, scores) for name, metric in IMAGE_METRICS.items()}
    values |= {
        "pixel_auroc": auroc(masks, maps),
        "pixel_ap": average_precision(masks, maps),
        "aupro": aupro(masks, maps),
    }

    intervals = image_intervals(positive, scores) | pixel_intervals(labels, masks, maps)

    assert intervals.keys() == values.keys()
    for name, (low, high) in intervals.items():
        assert 0 <= low < values[name] < high <= 1, name


def test_the_true_value_lies_in_most_intervals() -> None:
    """95 % of the time in theory; percentile intervals of small sets are somewhat too narrow."""
    truth = norm.cdf(1.2 / 2**0.5)
    hits = 0
    for seed in range(100):
        low, high = image_intervals(*gaussians(40, 40, 1.2, seed), 300, seed)["image_auroc"]
        hits += low <= truth <= high

    assert 88 <= hits <= 99


def test_more_pictures_make_it_narrower() -> None:
    """Four times as many, half as wide."""
    (low, high), (lower, higher) = (image_intervals(*gaussians(n, n, 1.0, 0))["image_auroc"] for n in (400, 100))

    assert (higher - lower) / (high - low) == pytest.approx(2, abs=0.5)


def test_perfect_separation_has_no_width() -> None:
    """A known weakness of resampling: what was not seen cannot be drawn. It must at least be exactly one."""
    positive, scores = gaussians(10, 10, 100.0, 0)
    masks = [np.eye(8, dtype=np.uint8) * i for i in (0, 1, 1)]
    maps = [np.linspace(0, 0.5, 64, dtype=np.float32).reshape(8, 8) + mask for mask in masks]

    intervals = image_intervals(positive, scores) | pixel_intervals([False, True, True], masks, maps)

    for name, interval in intervals.items():
        assert interval == pytest.approx((1, 1), abs=0 if name != "aupro" else 1e-12), name


def test_the_same_seed_says_the_same() -> None:
    """A figure in a report can be had again."""
    data = gaussians(20, 20, 1.0, 0)

    assert image_intervals(*data) == image_intervals(*data)
    assert image_intervals(*data) != image_intervals(*data, seed=1)


def test_kinds_keep_their_number() -> None:
    """Stratified: a resample without a defect would have no AUROC."""
    positive = np.array([True, False, False, True, False])
    weights = resampled(positive, 50, 0)

    assert set(weights[:, positive].sum(axis=1)) == {2}
    assert set(weights[:, ~positive].sum(axis=1)) == {3}


def test_what_cannot_be_measured_has_no_interval() -> None:
    """Without good pictures, without a defective pixel, without a normal one."""
    blank, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    scores = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)

    assert image_intervals([True, True], [0.1, 0.2]) == {"image_ap": (1, 1), "image_f1_max": (1, 1)}
    assert image_intervals([False, False], [0.1, 0.2]) == {}
    assert pixel_intervals([True], [blank], [scores]) == {}
    assert pixel_intervals([True], [full], [scores]) == {"pixel_ap": (1, 1)}


def test_an_empty_mask_may_be_drawn_alone() -> None:
    """Such resamples are no number and do not count."""
    rng = np.random.default_rng(0)
    masks = [np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8)]
    maps = [rng.normal(size=(8, 8)).astype(np.float32) for _ in masks]

    low, high = pixel_intervals([False, True, True], masks, maps, 50)["pixel_auroc"]

    assert 0 < low < high < 1


def test_many_maps_take_seconds() -> None:
    """Sixty maps of 256x256 px and a thousand resamples; sorting each would take a quarter of an hour."""
    n, rng = 60, np.random.default_rng(0)
    masks = [(np.arange(65536).reshape(256, 256) < 3000 * (i % 2)).astype(np.uint8) for i in range(n)]
    maps = [rng.random((256, 256), np.float32) for _ in masks]

    started = time.monotonic()
    pixel_intervals(np.arange(n) % 2, masks, maps)

    assert time.monotonic() - started < 20
