"""Metrics against scikit-learn and against loops written from the definitions, ties included."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from mapl_edge import metrics
from mapl_edge.metrics import aupro, auroc, average_precision, bandwidth_of, f1_max, smooth_auroc

Metric = Callable[..., float]
METRICS = [auroc, average_precision, f1_max]


def f1_max_by_sklearn(positive: np.ndarray, scores: np.ndarray) -> float:
    """The largest F1 on scikit-learn's precision-recall curve."""
    precision, recall, _ = precision_recall_curve(positive, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


ORACLES = [(auroc, roc_auc_score), (average_precision, average_precision_score), (f1_max, f1_max_by_sklearn)]
against_sklearn = pytest.mark.parametrize(("metric", "oracle"), ORACLES, ids=[metric.__name__ for metric, _ in ORACLES])

many_ties = st.integers(0, 4).map(float)
few_ties = st.floats(-1e6, 1e6, width=32)
labelled_scores = st.sampled_from([many_ties, few_ties]).flatmap(
    lambda values: st.lists(st.tuples(st.booleans(), values), min_size=2, max_size=60)
)


@against_sklearn
@given(pairs=labelled_scores)
@settings(max_examples=100, deadline=None)
def test_metric_agrees_with_scikit_learn(metric: Metric, oracle: Metric, pairs: list[tuple[bool, float]]) -> None:
    """Any labels, any scores, from all different to nearly all tied."""
    positive = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs])
    assume(positive.any() and not positive.all())

    assert metric(positive, scores) == pytest.approx(oracle(positive, scores), abs=1e-9)


@against_sklearn
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_metric_takes_every_type_of_score(metric: Metric, oracle: Metric, dtype: type) -> None:
    """Unsigned scores have no negative; sorting by minus the score would turn them round."""
    rng = np.random.default_rng(0)
    positive = rng.random(100) < 0.3
    scores = rng.integers(0, 2 if dtype is np.bool_ else 5, 100).astype(dtype)

    assert metric(positive, scores) == pytest.approx(oracle(positive, scores.astype(np.float64)), abs=1e-9)


@pytest.mark.parametrize(("metric", "expected"), [(auroc, 0.5), (average_precision, 0.25), (f1_max, 0.4)], ids=str)
def test_constant_scores_say_nothing(metric: Metric, expected: float) -> None:
    """Half, the share of positives, and F1 of calling all positive: no order in the file may help."""
    positive = [True, False, False, False]

    assert metric(positive, [0.7] * 4) == pytest.approx(expected)
    assert metric(positive[::-1], [0.7] * 4) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_scores_give_one(metric: Metric) -> None:
    """Also at scores so close that only the last bit differs."""
    assert metric([0, 0, 1, 1], [1.0, 1.0, np.nextafter(1.0, 2), 2.0]) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_without_positives_there_is_no_number(metric: Metric) -> None:
    """Zero would look like a bad model, one like a good one."""
    assert np.isnan(metric([0, 0, 0], [0.1, 0.2, 0.3]))


def test_without_negatives_only_auroc_has_no_number() -> None:
    """Precision is 1 when everything is positive; a false positive rate does not exist."""
    assert np.isnan(auroc([1, 1], [0.1, 0.2]))
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0
    assert f1_max([1, 1], [0.1, 0.2]) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_nan_is_refused(metric: Metric) -> None:
    """A broken model must not get a score by where NaN happens to sort."""
    with pytest.raises(ValueError, match="NaN"):
        metric([0, 1], [np.nan, 1.0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("positive", "scores"), [([], []), ([1, 0], [1.0]), ([1], [1.0, 2.0])], ids=str)
def test_lengths_must_fit(metric: Metric, positive: list[int], scores: list[float]) -> None:
    """Labels of one set with scores of another would give a number that means nothing."""
    with pytest.raises(ValueError, match="same, non-zero length"):
        metric(positive, scores)


def slow_aupro(masks: list[np.ndarray], maps: list[np.ndarray], max_fpr: float) -> float:
    """MVTec AD, §4.2, word for word.

    At each threshold: the false positive rate over all normal pixels, and the share of each region that is found,
    averaged over the regions. Then the trapezoids under that curve up to `max_fpr`, the last one cut by interpolation.
    """
    regions = []
    for number, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == region) for region in range(1, count + 1)]
    thresholds = sorted({float(value) for one in maps for value in one.ravel()}, reverse=True)
    curve = [(0.0, 0.0)]
    for threshold in thresholds:
        found = [one >= threshold for one in maps]
        n_false = sum(int((found[i] & (mask == 0)).sum()) for i, mask in enumerate(masks))
        n_normal = sum(int((mask == 0).sum()) for mask in masks)
        overlaps = [found[number][region].mean() for number, region in regions]
        curve.append((n_false / n_normal, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


@given(
    n=st.integers(1, 3),
    hw=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    defective=st.sampled_from([0.1, 0.3, 0.6]),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    max_fpr=st.sampled_from([0.3, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_aupro_agrees_with_its_definition(
    n: int, hw: tuple[int, int], defective: float, levels: int, max_fpr: float, seed: int
) -> None:
    """Regions of all sizes and shapes, in several pictures, with maps from all tied to all different."""
    rng = np.random.default_rng(seed)
    masks = [(rng.random(hw) < defective).astype(np.uint8) for _ in range(n)]
    maps = [rng.integers(0, levels, hw).astype(np.float32) for _ in range(n)]
    assume(any(mask.any() for mask in masks) and not all(mask.all() for mask in masks))

    assert aupro(masks, maps, max_fpr) == pytest.approx(slow_aupro(masks, maps, max_fpr), abs=1e-9)


def mask_of(*rows: str) -> np.ndarray:
    """A drawn mask: # is a defect."""
    return np.array([[letter == "#" for letter in row] for row in rows], np.uint8)


def test_small_region_weighs_as_much_as_a_large_one() -> None:
    """Per region, not per pixel: finding the large half of two regions is half."""
    mask = mask_of("###.", "###.", "###.", "....", "...#")
    found_large = np.zeros((5, 4), np.float32)
    found_large[:3, :3] = 1

    # After the large region everything else is tied: the curve runs from (0, 1/2) straight to (1, 1).
    assert aupro([mask], [found_large]) == pytest.approx((0.5 + 0.65) / 2)


def test_diagonal_pixels_are_one_region() -> None:
    """Regions are 8-connected, as in the reference implementation: a slanting scratch is one scratch."""
    mask = mask_of("#..", ".#.", "..#")
    one_pixel_found = np.zeros((3, 3), np.float32)
    one_pixel_found[0, 0] = 1

    assert aupro([mask], [one_pixel_found], 1.0) == pytest.approx((1 / 3 + 1) / 2)


def test_perfect_map_gives_one() -> None:
    """And a map that is wrong everywhere gives none up to its limit."""
    mask = mask_of("##...", ".....", "....#")

    assert aupro([mask], [mask.astype(np.float32)]) == pytest.approx(1.0)
    assert aupro([mask], [1 - mask.astype(np.float32)]) == 0.0


@pytest.mark.parametrize("value", [0, 1], ids=["all-normal", "all-defect"])
def test_aupro_of_one_class_is_no_number(value: int) -> None:
    """Without regions or without normal pixels the curve does not exist."""
    mask = np.full((4, 4), value, np.uint8)

    assert np.isnan(aupro([mask], [np.zeros((4, 4), np.float32)]))


def test_aupro_refuses_nan() -> None:
    """A map of NaN sorts last and would earn full marks."""
    mask, broken = mask_of("#...", "...."), np.full((2, 4), np.nan, np.float32)

    with pytest.raises(ValueError, match="NaN"):
        aupro([mask], [broken])


@pytest.mark.parametrize(
    "map_shapes", [[(8, 2)], [(4, 3)], [(4, 4), (4, 4)], []], ids=["turned", "smaller", "one-too-many", "none"]
)
def test_aupro_refuses_maps_that_do_not_fit(map_shapes: list[tuple[int, int]]) -> None:
    """A map of another picture's shape would be compared with the wrong pixels."""
    mask = mask_of("#...", "....", "....", "....")

    with pytest.raises(ValueError, match=r"shape|length"):
        aupro([mask], [np.zeros(shape, np.float32) for shape in map_shapes])


@given(pairs=labelled_scores)
@settings(max_examples=100, deadline=None)
def test_curves_are_scikit_learns(pairs: list[tuple[bool, float]]) -> None:
    """Every point, ties included; AUROC and AP are the areas under them."""
    positive, scores = np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])
    assume(positive.any() and not positive.all())

    fpr, tpr = metrics.roc_curve(positive, scores)
    recall, precision = metrics.precision_recall_curve(positive, scores)

    expected_fpr, expected_tpr, _ = sklearn_roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose((fpr, tpr), (expected_fpr, expected_tpr), atol=1e-12)
    expected_precision, expected_recall, _ = precision_recall_curve(positive, scores)
    np.testing.assert_allclose((recall, precision), (expected_recall[::-1], expected_precision[::-1]), atol=1e-12)
    assert auc(fpr, tpr) == pytest.approx(auroc(positive, scores), abs=1e-12)
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(average_precision(positive, scores), abs=1e-12)


def test_without_both_classes_there_is_no_curve() -> None:
    """Nothing to draw, not a division by zero."""
    assert len(metrics.roc_curve([True, True], [0.0, 1.0])[0]) == 0
    assert len(metrics.precision_recall_curve([False, False], [0.0, 1.0])[0]) == 0


@given(st.integers(0, 10_000), st.floats(0.05, 3))
@settings(max_examples=30, deadline=None)
def test_smooth_auroc_is_the_mean_over_pairs(seed: int, bandwidth: float) -> None:
    """As scipy's normal distribution has it; it comes to the AUROC as the bandwidth goes to nothing."""
    rng = np.random.default_rng(seed)
    positive = np.arange(30) % 3 == 0
    scores = rng.normal(size=30) + positive

    pairs = [scipy.stats.norm.cdf((p - n) / bandwidth) for p in scores[positive] for n in scores[~positive]]
    assert smooth_auroc(positive, scores, bandwidth) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert smooth_auroc(positive, scores, 1e-9) == pytest.approx(auroc(positive, scores), abs=1e-9)
    assert smooth_auroc(positive, scores, 0) == auroc(positive, scores)


def test_smooth_auroc_moves_less_by_chance() -> None:
    """Of the same small noise on 64 pictures, again and again: by less than four fifths of what counted pairs do."""
    rng = np.random.default_rng(0)
    positive = np.arange(64) < 32
    counted, smooth = [], []
    for _ in range(200):
        scores = rng.normal(size=64) + positive
        noisy = scores + 0.05 * rng.normal(size=64)
        width = bandwidth_of(positive, scores)
        counted.append(auroc(positive, noisy) - auroc(positive, scores))
        smooth.append(smooth_auroc(positive, noisy, width) - smooth_auroc(positive, scores, width))

    assert np.std(smooth) < 0.8 * np.std(counted)


def test_bandwidth_is_silvermans() -> None:
    """For a bell curve 0.9 n^-1/5 deviations of each class."""
    scores = np.concatenate([scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)] * 2)

    width = bandwidth_of(np.arange(800) < 400, scores)

    assert width == pytest.approx(np.sqrt(2) * 0.9 * 400**-0.2, rel=0.02)
    assert bandwidth_of([True, True, False, False], [1.0, 1.0, 2.0, 3.0]) == 0
    assert bandwidth_of([True, False, False], [1.0, 2.0, 3.0]) == 0
