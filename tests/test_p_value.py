"""The p-value: its formula, its ties, and that it keeps its promise on good parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapl_edge.p_value import PValues

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(normals=scores, score=st.floats(-6, 6))
def test_it_is_the_formula(normals: list[float], score: float) -> None:
    """(1 + number at or above) / (n + 1), ties included."""
    assert PValues(normals)(score) == (1 + sum(s >= score for s in normals)) / (len(normals) + 1)


@pytest.mark.parametrize(("score", "expected"), [(-1, 1.0), (0, 1.0), (98, 0.02), (99, 0.01), (1e9, 0.01)])
def test_99_normals_reach_one_in_a_hundred(score: float, expected: float) -> None:
    """From 1, as usual as can be, down to 1 / (n + 1), never 0: 99 good parts cannot say more."""
    shuffled = np.random.default_rng(0).permutation(99).tolist() if score < 99 else [*range(98), 98.5]

    assert PValues(shuffled)(score) == pytest.approx(expected)


def test_without_scores_there_is_none() -> None:
    """A bundle that was calibrated before they were kept."""
    assert PValues(())(1.0) is None


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_good_parts_have_small_p_values_no_more_often_than_said(alpha: float) -> None:
    """At most α of good parts have p <= α, over calibrations and parts, within four Monte-Carlo errors."""
    rng = np.random.default_rng(0)
    small = [PValues(rng.lognormal(size=39).tolist())(rng.lognormal()) <= alpha for _ in range(4000)]  # type: ignore[operator]

    assert np.mean(small) == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / 4000))
