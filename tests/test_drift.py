"""Drift keeps its promise over all charts together, and tells once what moves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibration import Calibration, Limits, PixelLimit
from mapl_edge.charts import Chart
from mapl_edge.drift import Drift, passed_baseline
from mapl_edge.errors import DataError
from mapl_edge.part_statistics import STATISTICS

ROW = dict.fromkeys(STATISTICS, 0.0)


def calibration(rows: np.ndarray, fail: float = 10.0, review: float | None = None) -> Calibration:
    """Rows (N, 9) as STATISTICS."""
    content = {
        "created_at": "2026-11-22T06:00:00Z",
        "created_by": "test",
        "model_digest": "0" * 64,
        "limits": Limits(fail=fail, review=review),
        "promise": {
            "max_false_reject": 0.05,
            "confidence": 0.95,
            "achieved": 0.05,
            "n_good": len(rows),
            "n_above": 0,
            "n_needed": 59,
        },
        "pictures": {},
        "scores": rows[:, 0].tolist(),
        "baseline": {name: rows[:, k].tolist() for k, name in enumerate(STATISTICS) if k},
    }
    return Calibration.model_validate(content)


def rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Correlated, as brightness and contrast are, and skewed."""
    shared = rng.standard_normal((n, 1))
    return np.exp(0.5 * (shared + rng.standard_normal((n, len(STATISTICS)))))


def values(row: np.ndarray) -> dict[str, float]:
    """By name."""
    return dict(zip(STATISTICS, row.tolist(), strict=True))


@pytest.mark.parametrize("n", [0, 10, 200])
def test_false_alarms_of_all_charts_together_stay_below_the_documented_rate(n: int) -> None:
    """60 lines of 300 parts at one in 1,000: at most 18 alarms expected, wherever the limit cuts the scores."""
    rng, alarms, parts = np.random.default_rng(n), 0, 0
    for _ in range(60):
        good = rows(rng, n)
        limit = float(np.sort(good[:, 0])[-2]) if n else math.inf
        drift = Drift(calibration(good, limit) if n else None, 1000)
        for row in rows(rng, 300):
            if row[0] <= limit:
                alarms += len(drift.add(values(row)).alarms)
                parts += 1

    assert alarms < parts / 1000 + 3 * math.sqrt(parts / 1000)


def test_selection_by_pass_is_no_drift() -> None:
    """A baseline that kept the rejects would stand above all parts that pass: 40 % are rejected here."""
    rng = np.random.default_rng(1)
    good = rows(rng, 400)
    limit = float(np.sort(good[:, 0])[240])
    drift = Drift(calibration(good, limit))
    passed = [row for row in rows(rng, 1500) if row[0] <= limit]

    assert not [alarm for row in passed for alarm in drift.add(values(row)).alarms]
    assert drift.n_baseline == 240


def test_the_baseline_is_of_parts_below_the_limit_for_pass() -> None:
    """REVIEW is no PASS, and the part that set the limit is left out."""
    good = np.repeat(np.arange(5.0)[:, None], len(STATISTICS), axis=1)

    assert passed_baseline(calibration(good, 3.0))["brightness"] == (0.0, 1.0, 2.0)
    assert passed_baseline(calibration(good, 3.0, 1.0))["score"] == (0.0,)
    pixel = PixelLimit(limit=0.5)
    with_regions = calibration(good, 3.0).model_copy(
        update={"limits": Limits(fail=3.0, pixel=pixel), "levels": (0.1, 0.7, 0.2, 0.3, 0.4)}
    )
    assert passed_baseline(with_regions)["score"] == (0.0, 2.0)  # a region fails the second


@pytest.mark.parametrize("name", STATISTICS)
def test_a_slow_drift_of_any_statistic_is_told_with_its_name_and_way(name: str) -> None:
    """Falling by a standard deviation in 1,000 parts."""
    rng, k = np.random.default_rng(7), STATISTICS.index(name)
    drift, found = Drift(calibration(rng.standard_normal((300, len(STATISTICS))))), []
    for part in range(2500):
        row = rng.standard_normal(len(STATISTICS))
        row[k] -= part / 1000
        found += drift.add(values(row)).alarms

    assert {alarm.statistic for alarm in found} == {name}
    assert found[0].chart is Chart.DISTRIBUTION or found[0].value < 0
    assert found[0].mean < found[0].baseline
    assert name in str(found[0])
    assert found[0].as_json()["event"] == "drift"


def test_after_an_alarm_a_statistic_rests_and_then_reminds() -> None:
    """Once, not with every part."""
    rng = np.random.default_rng(8)
    drift, told = Drift(calibration(rng.standard_normal((300, len(STATISTICS)))), quiet_parts=200), []
    for part in range(700):
        row = rng.standard_normal(len(STATISTICS))
        row[1] += 4
        told += [part] * len({alarm.statistic for alarm in drift.add(values(row)).alarms})

    assert 3 <= len(told) <= 4
    assert min(np.diff(told)) > 200


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)))
def test_the_order_of_the_baseline_does_not_matter(order: list[int]) -> None:
    """Calibration's pictures come in no order."""
    good, later = rows(np.random.default_rng(2), 40), rows(np.random.default_rng(3), 30)
    one, other = Drift(calibration(good)), Drift(calibration(good[order]))

    assert [one.add(values(row)).values for row in later] == [other.add(values(row)).values for row in later]


def test_a_constant_line_is_in_order() -> None:
    """All equal scores tell nothing, so they raise nothing."""
    drift = Drift(calibration(np.zeros((20, len(STATISTICS)))))

    assert not [alarm for _ in range(3000) for alarm in drift.add(ROW).alarms]


def test_what_is_missing_is_not_followed_and_nan_is_refused() -> None:
    """Verdicts of an earlier version hold the score alone."""
    drift = Drift()

    assert set(drift.add({"score": 1.0}).values) == {"score"}
    with pytest.raises(DataError, match="nan"):
        drift.add({"score": math.nan})


def test_a_baseline_of_another_length_is_refused() -> None:
    """A value for each part, or the parts that passed cannot be told."""
    content = calibration(np.zeros((20, len(STATISTICS)))).model_dump()
    content["baseline"]["contrast"] = content["baseline"]["contrast"][:-1]

    with pytest.raises(ValueError, match="contrast holds 19 values, expected 20"):
        Calibration.model_validate(content)
