"""The promise: against scipy, against its own definition, and by simulation."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibrate.limits import limit_from_normals, upper_bound
from mapl_edge.errors import DataError


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.999))
@settings(max_examples=80, deadline=None)
def test_bound_is_clopper_pearsons(n: int, data: st.DataObject, confidence: float) -> None:
    """scipy's beta quantile is the oracle."""
    events = data.draw(st.integers(0, min(n - 1, 60)))

    assert upper_bound(events, n, confidence) == pytest.approx(
        scipy.stats.beta.ppf(confidence, events + 1, n - events), rel=1e-9, abs=1e-12
    )


def test_the_sentence_users_ask_for() -> None:
    """With 60 normals and none above, the best 95 % bound is 4.9 %; for 1 % you need 299."""
    few = limit_from_normals(np.arange(60), max_false_reject=0.01)

    assert (few.limit, few.n_above, few.n_needed) == (59, 0, 299)
    assert few.achieved == pytest.approx(0.0487, abs=5e-5)
    assert "at most 4.9% of good parts" in str(few)
    assert "for 1.0% you need 299" in str(few)


@given(st.integers(10, 800), st.floats(0.005, 0.3), st.floats(0.6, 0.99))
@settings(max_examples=60, deadline=None)
def test_limit_is_the_tightest_that_keeps_the_wish(n: int, wish: float, confidence: float) -> None:
    """One order statistic lower would break the promise."""
    limit = limit_from_normals(np.arange(n), wish, confidence)

    assert limit.limit == n - 1 - limit.n_above
    assert limit.achieved <= wish or limit.n_above == 0
    assert upper_bound(limit.n_above + 1, n, confidence) > wish


@pytest.mark.parametrize("draw", ["normal", "lognormal", "uniform", "pareto"])
def test_the_promise_holds_in_simulation(draw: str) -> None:
    """At least 1 - δ of draws keep α, for any distribution (within four Monte-Carlo standard errors)."""
    rng = np.random.default_rng(0)
    distribution = {
        "normal": scipy.stats.norm(),
        "lognormal": scipy.stats.lognorm(1.0),
        "uniform": scipy.stats.uniform(),
        "pareto": scipy.stats.pareto(2.0),
    }[draw]
    kept = [
        distribution.sf(limit_from_normals(distribution.rvs(150, random_state=rng), 0.05).limit) <= 0.05
        for _ in range(500)
    ]

    assert np.mean(kept) >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.parametrize(
    ("scores", "wish", "confidence", "says"),
    [
        (range(9), 0.05, 0.95, "found 9 good parts"),
        ([*range(20), float("nan")], 0.05, 0.95, "1 of 21 scores are not numbers"),
        (range(20), 0.0, 0.95, "impossible"),
        (range(20), 0.05, 1.0, "impossible"),
        (range(20), 1.5, 0.95, "impossible"),
    ],
)
def test_what_cannot_be_promised_is_refused(scores: object, wish: float, confidence: float, says: str) -> None:
    """A limit without a basis looks like any other limit."""
    with pytest.raises(DataError, match=says):
        limit_from_normals(list(scores), wish, confidence)  # type: ignore[call-overload]
