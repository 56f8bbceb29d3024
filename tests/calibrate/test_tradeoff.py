"""Labelled defects: against scikit-learn and scipy, against brute force, and on answers known beforehand."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.bootstrap import image_intervals
from mapl_edge.calibrate.tradeoff import Tradeoff
from mapl_edge.calibration import Costs
from mapl_edge.errors import DataError
from mapl_edge.metrics import auroc, average_precision

scores = st.lists(st.integers(-6, 6).map(lambda i: i / 7), min_size=1, max_size=30)
CLOSE = {"rel": 0, "abs": 1e-12}


@given(good=scores, bad=scores)
@settings(max_examples=60, deadline=None)
def test_curves_are_scikit_learns(good: list[float], bad: list[float]) -> None:
    """ROC, precision and recall at every limit, with ties; their areas; the largest F1."""
    trade = Tradeoff(good, bad)
    y, s = [0] * len(good) + [1] * len(bad), good + bad
    fpr, tpr, _ = sklearn.metrics.roc_curve(y, s, drop_intermediate=False)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(y, s)
    # scikit-learn ends with a point without a threshold, where nothing is rejected
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)

    assert trade.rejected / len(good) == pytest.approx(fpr, **CLOSE)
    assert trade.found / len(bad) == pytest.approx(tpr, **CLOSE)
    assert trade.found[1:] / (trade.found + trade.rejected)[1:] == pytest.approx(precision[-2::-1], **CLOSE)
    assert trade.f1_max().f1 == pytest.approx(f1.max(), **CLOSE)
    assert auroc(y, s) == pytest.approx(sklearn.metrics.roc_auc_score(y, s), **CLOSE)
    assert average_precision(y, s) == pytest.approx(sklearn.metrics.average_precision_score(y, s), **CLOSE)


@given(good=scores, bad=scores, limit=st.floats(-1, 1), confidence=st.floats(0.6, 0.99))
@settings(max_examples=60, deadline=None)
def test_shares_have_clopper_pearsons_bounds(
    good: list[float], bad: list[float], limit: float, confidence: float
) -> None:
    """Both sides and one side, scipy's beta quantiles as oracle."""
    point = Tradeoff(good, bad, confidence).at(limit)

    for share, events, n in (
        (point.misses, sum(s <= limit for s in bad), len(bad)),
        (point.false_rejects, sum(s > limit for s in good), len(good)),
    ):
        side = (1 - confidence) / 2
        low = scipy.stats.beta.ppf(side, events, n - events + 1) if events else 0.0
        high = scipy.stats.beta.ppf(1 - side, events + 1, n - events) if events < n else 1.0
        bound = scipy.stats.beta.ppf(confidence, events + 1, n - events) if events < n else 1.0
        assert (share.events, share.n) == (events, n)
        assert (*share.interval, share.bound) == pytest.approx((low, high, bound), **CLOSE)


@given(good=scores, bad=scores, miss=st.sampled_from([0.1, 1, 50]), rate=st.sampled_from([None, 0.01, 0.5]))
@settings(max_examples=60, deadline=None)
def test_no_limit_is_cheaper(good: list[float], bad: list[float], miss: float, rate: float | None) -> None:
    """Every limit is tried by hand."""
    chosen = Tradeoff(good, bad, costs=Costs(miss, 1.0, rate)).cheapest()
    share = len(bad) / (len(bad) + len(good)) if rate is None else rate
    by_hand = [
        share * miss * np.mean([s <= limit for s in bad]) + (1 - share) * np.mean([s > limit for s in good])
        for limit in (*good, *bad, -99)
    ]

    assert chosen.cost == pytest.approx(min(by_hand), **CLOSE)


def test_costs_without_a_rate_count_these_parts() -> None:
    """2 misses at 50 and 3 false rejects at 1 over 20 parts."""
    point = Tradeoff([0] * 7 + [9] * 3, [0] * 2 + [9] * 8, costs=Costs(50, 1)).at(5)

    assert point.cost == pytest.approx((2 * 50 + 3) / 20, **CLOSE)
    assert point.cost_interval is not None
    assert point.cost_interval[0] < point.cost < point.cost_interval[1]


def test_recall_is_promised_by_the_defects() -> None:
    """Of 100 defects one may be missed for 95 % recall; of 20 none, and the bound says what that is worth."""
    many = Tradeoff(range(50), range(40, 140)).for_recall(0.95)
    few = Tradeoff(range(50), range(40, 60)).for_recall(0.95)

    assert (many.misses.events, many.limit) == (1, np.nextafter(41, 0))
    assert many.misses.bound <= 0.05
    assert few.misses.events == 0
    assert few.misses.bound == pytest.approx(1 - 0.05 ** (1 / 20), **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_recall_holds_in_simulation(seed: int) -> None:
    """At least 95 % of draws keep it, within four Monte-Carlo errors."""
    rng, kept = np.random.default_rng(seed), []
    for _ in range(150):
        limit = Tradeoff([0.0, 1.0], rng.normal(size=120)).for_recall(0.9).limit
        kept.append(scipy.stats.norm.cdf(limit) <= 0.1)

    assert np.mean(kept) >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 150)


def test_a_chosen_limit_lies_in_the_gap() -> None:
    """Half way: another engine's last digits must not flip a part that the limit was taken from."""
    point = Tradeoff([0.1, 0.2, 0.4], [0.8, 0.9]).f1_max()

    assert (point.limit, point.f1) == (pytest.approx(0.6), 1.0)
    a = np.nextafter(0.5, 1)
    assert Tradeoff([0.5], [a]).f1_max().limit == 0.5, "no number lies between"


def test_f1_max_has_the_interval_that_evaluate_says() -> None:
    """The same bootstrap, which chooses anew on each resample."""
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, 60), rng.normal(1.5, 1, 40)

    interval = Tradeoff(good, bad).f1_max().f1_interval

    evaluated = image_intervals([0] * 60 + [1] * 40, [*good, *bad])["image_f1_max"]
    assert interval == pytest.approx(evaluated, abs=0.015)


def test_the_bound_for_any_limit_covers_the_luckiest_one() -> None:
    """Clopper-Pearson of a limit that was chosen for few false rejects is too good; this one holds."""
    rng, kept = np.random.default_rng(0), []
    for _ in range(200):
        trade = Tradeoff(rng.normal(size=50), rng.normal(1, 1, 30))
        point = trade.f1_max()
        kept.append(scipy.stats.norm.sf(point.limit) <= trade.bound_for_any_limit(point))

    assert np.mean(kept) >= 0.95


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Tradeoff([1], []), "found 1 good and 0 defective"),
        (lambda: Tradeoff([1], [float("nan")]), "not a number"),
        (lambda: Tradeoff([1], [2], costs=Costs(0, 1)), "--cost-miss is 0"),
        (lambda: Tradeoff([1], [2], costs=Costs(1, 1, 2)), "--defect-rate is 2"),
        (lambda: Tradeoff([1], [2]).for_recall(1.0), "recall of 1 is impossible"),
        (lambda: Tradeoff([1], [2]).cheapest(), "needs both costs"),
    ],
    ids=["none", "nan", "free", "rate", "recall", "no-costs"],
)
def test_what_makes_no_sense_is_refused(build, says: str) -> None:  # type: ignore[no-untyped-def]
    """By name."""
    with pytest.raises(DataError, match=says):
        build()


def test_a_cost_of_nothing_has_no_minus_sign() -> None:
    """Parts that the limit tells apart without an error."""
    point = Tradeoff(range(10), range(20, 30), costs=Costs(50, 1)).cheapest()

    assert f"{point.cost:g} {point.cost_interval}" == "0 (0.0, 0.0)"
