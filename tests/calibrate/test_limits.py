"""The promise: against scipy, against its own definition, and by simulation."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.calibrate.limits import limit_from_normals, lower_bound, upper_bound
from mapl_edge.errors import DataError


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.999))
@settings(max_examples=80, deadline=None)
def test_bound_is_clopper_pearsons(n: int, data: st.DataObject, confidence: float) -> None:
    """scipy's beta quantile is the oracle."""
    events = data.draw(st.integers(0, min(n - 1, 60)))

    assert upper_bound(events, n, confidence) == pytest.approx(
        scipy.stats.beta.ppf(confidence, events + 1, n - events), rel=0, abs=1e-12
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


@given(st.integers(10, 800), st.floats(0.005, 0.3), st.floats(0.6, 0.99))
@settings(max_examples=30, deadline=None)
def test_what_more_pictures_buy_is_exact(n: int, wish: float, confidence: float) -> None:
    """With one picture fewer than it says nothing is gained."""
    limit = limit_from_normals(np.arange(n), wish, confidence)
    bought, before = (
        limit_from_normals(np.arange(max(10, m)), wish, confidence) for m in (limit.n_next, limit.n_next - 1)
    )

    if limit.achieved > wish:
        assert limit.n_next == limit.n_needed > n
        assert bought.achieved <= wish
        assert before.achieved > wish or limit.n_next <= 10
    else:
        assert limit.n_next > n
        assert (bought.n_above, before.n_above) == (limit.n_above + 1, limit.n_above)


def test_more_says_how_many_more() -> None:
    """Both kinds: the wish itself, then a tighter limit."""
    assert limit_from_normals(np.arange(60), 0.01).more == "239 more good parts would keep 1.0%"
    assert limit_from_normals(np.arange(60), 0.05).more == (
        "33 more good parts would let one more lie above a lower limit and still keep 5.0%"
    )


def test_a_small_wish_is_not_rounded_away() -> None:
    """0.05 % is not 0.1 %, nor 99.9 % confidence certainty."""
    assert "for 0.05% you need 13813 (13753 more)" in str(limit_from_normals(np.arange(60), 0.0005, 0.999))
    assert "(99.9% confidence)" in str(limit_from_normals(np.arange(60), 0.0005, 0.999))


def test_ten_thousand_scores_take_no_time() -> None:
    """The limit is where scipy's bound says, also far down the order."""
    limit = limit_from_normals(np.arange(10_000))

    r = np.arange(9_999)
    assert limit.n_above == (scipy.stats.beta.ppf(0.95, r + 1, 10_000 - r) <= 0.05).sum() - 1
    assert lower_bound(3, 10_000, 0.95) == pytest.approx(scipy.stats.beta.ppf(0.05, 3, 9_998), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "wish", "confidence", "says"),
    [
        (range(9), 0.05, 0.95, "found 9 good parts"),
        ([*range(20), float("nan")], 0.05, 0.95, "1 of 21 scores are not numbers"),
        (range(20), 0.0, 0.95, "impossible"),
        (range(20), 0.05, 1.0, "impossible"),
        (range(20), 5, 0.95, "impossible; expected both between 0 and 1, such as 0.05 for 5 %$"),
        (range(20), 0.05, 95, "impossible; expected both between 0 and 1, such as 0.95 for 95 %$"),
        (range(20), 100, 0.95, "impossible; expected both between 0 and 1$"),
        (range(20), float("nan"), 0.95, "impossible"),
        (range(20), 1e-300, 0.95, "impossible"),
        ([0.5] * 20, 0.05, 0.95, "all 20 scores of good parts are 0.5"),
        (["0.5", "high"] * 10, 0.05, 0.95, "not all numbers"),
        ([*range(20), float("inf")], 0.05, 0.95, "1 of 21 scores are not numbers"),
    ],
)
def test_what_cannot_be_promised_is_refused(scores: object, wish: float, confidence: float, says: str) -> None:
    """A limit without a basis looks like any other limit."""
    with pytest.raises(DataError, match=says):
        limit_from_normals(list(scores), wish, confidence)  # type: ignore[call-overload]
