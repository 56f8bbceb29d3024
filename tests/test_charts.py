"""Charts keep their rate of false alarms on any distribution, and see what moves."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from mapl_edge import charts as charts_module
from mapl_edge.charts import KEPT, Chart, Charts, Ranks
from mapl_edge.errors import DataError


def p_values(values: np.ndarray, n_baseline: int) -> list[float]:
    """Of all but the baseline."""
    ranks, found = Ranks(values[:n_baseline]), []
    for value in values[n_baseline:].tolist():
        found.append(ranks.p_value(value))
        ranks.learn(value)
    return found


@pytest.mark.parametrize("n", [0, 1, 9, 300])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "constant", "coarse"])
def test_p_values_are_uniform_and_independent(draw: str, n: int) -> None:
    """Skewed, tied or all equal; from no calibration part or many."""
    rng = np.random.default_rng(2)
    values = {
        "normal": rng.standard_normal(2000),
        "lognormal": rng.lognormal(0, 2, 2000),
        "constant": np.full(2000, 3.0),
        "coarse": rng.integers(0, 4, 2000).astype(float),
    }[draw]
    p = np.array(p_values(values, n))

    assert kstest(p, "uniform").pvalue > 0.005
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.08


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_only_ranks_count(values: list[float], chance: object) -> None:
    """The baseline's order and any rising change of scale leave the p-value as it is."""
    baseline, value = values[:-1], values[-1]
    shuffled = list(baseline)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    expected = Ranks(baseline).p_value(value)

    assert Ranks(shuffled).p_value(value) == expected
    assert Ranks([2 * each for each in baseline]).p_value(2 * value) == expected


@pytest.mark.parametrize("chart", list(Chart))
def test_run_length_without_drift_is_the_documented_one(chart: Chart) -> None:
    """With 20 lognormal parts at calibration, each run anew: the mean of 200 runs at 200 parts per false alarm."""
    rng, wished, lengths = np.random.default_rng(4), 200.0, []
    for seed in range(200):
        charts = Charts(rng.lognormal(0, 1, 20).tolist(), wished, seed)
        for part in range(1, 20_000):  # noqa: B007 - the last one is the run length
            if chart in charts.alarms(charts.add(float(rng.lognormal()))):
                break
        lengths.append(part)
    standard_error = np.std(lengths) / math.sqrt(len(lengths))

    assert np.mean(lengths) > wished - 3 * standard_error
    if chart is not Chart.DISTRIBUTION:  # whose run length is a lower bound
        assert np.mean(lengths) < wished + 3 * standard_error


@pytest.mark.parametrize(
    ("chart", "mean", "spread"),
    [(Chart.EWMA, 0.5, 1.0), (Chart.CUSUM, -1.0, 1.0), (Chart.DISTRIBUTION, 0.0, 2.5), (Chart.DISTRIBUTION, 0.0, 0.3)],
)
def test_what_each_chart_is_for(chart: Chart, mean: float, spread: float) -> None:
    """A slow offset, a step down, a wider and a narrower spread, at the limits of a station."""
    rng = np.random.default_rng(5)
    charts = Charts(rng.standard_normal(300).tolist(), 210_000.0)
    found = [charts.alarms(charts.add(value)) for value in rng.normal(mean, spread, 600).tolist()]

    assert any(chart in raised for raised in found)


def test_the_shiryaev_roberts_bet_is_fair() -> None:
    """Averaged over the cells, each next bet pays exactly what it costs, whatever came before."""
    charts = Charts((), 100.0)
    for cell in (0, 0, 3, 9, 0):
        charts._bet(cell)
    before, after = charts._sum, []
    for cell in range(charts_module.BINS):
        bins = list(charts._bins)
        charts._sum = before
        charts._bet(cell)
        charts._bins = bins
        after.append(charts._sum)

    assert np.mean(after) == pytest.approx(before + 1)


def test_no_number_is_refused() -> None:
    """NaN would make every later rank wrong without a word."""
    charts = Charts([1.0, 2.0], 100.0)

    for wrong in (math.nan, math.inf):
        with pytest.raises(DataError, match="finite"):
            charts.add(wrong)
        with pytest.raises(DataError, match="finite"):
            Charts([wrong], 100.0)


def test_a_long_life_forgets_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; over many lives the p-value of a late part is uniform still."""
    monkeypatch.setattr(charts_module, "KEPT", 40)
    rng, last = np.random.default_rng(6), []
    for seed in range(400):
        ranks = Ranks(rng.standard_normal(10), seed)
        for value in rng.standard_normal(200).tolist():
            ranks.learn(value)
        last.append(ranks.p_value(float(rng.standard_normal())))
        assert len(ranks) <= 40

    assert kstest(last, "uniform").pvalue > 0.005


def test_forgetting_takes_little_memory_for_a_moment() -> None:
    """Twenty thousand objects at once, between others' that stay, would leave megabytes that never go back."""
    ranks = Ranks(np.random.default_rng(7).standard_normal(KEPT))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    ranks.learn(0.0)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()

    assert len(ranks) == KEPT // 2
    assert peak < 300_000, "two arrays of float64, the longer one of 160 kB as it was, and grown by its newest value"
