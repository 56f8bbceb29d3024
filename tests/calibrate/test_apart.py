"""A part that sets the limit alone is told by name; others, and limits that people set, are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapl_edge.calibrate import Wish, apart, decide
from mapl_edge.calibrate.promises import promises_in_short
from mapl_edge.calibration import Calibration, Limits


def calibration(of: tuple[float, ...], **changes: object) -> Calibration:
    """As from good parts with these scores; parts are named by their place."""
    decision = decide(of, (), Wish())
    return Calibration.model_validate(
        {
            "created_at": "2026-01-01T00:00:00Z",
            "created_by": "tester",
            "model_digest": "a" * 64,
            "limits": decision.limits,
            "promise": decision.promise,
            "pictures": {f"{i}.png": f"{i:064x}" for i in range(len(of))},
            "scores": of,
            **changes,
        }
    )


SCORES = (0.2, 0.5, 9.0, 0.9, 1.4, *np.linspace(-1, 1, 40))


def test_it_is_named_with_what_the_others_have() -> None:
    """The third picture; the next one has 1.4."""
    found = apart(calibration(SCORES))

    assert found is not None
    assert (found.name, found.score, found.next_score) == ("2.png", 9.0, 1.4)
    assert found.median == pytest.approx(np.median(SCORES))
    assert str(found).startswith(
        "2.png alone sets the limit: its score 9 lies farther above that of the next good part, 1.4"
    )


def test_one_above_the_limit_sets_none() -> None:
    """With so many parts that one may lie above, it is the next one that counts."""
    many = (*SCORES, *np.linspace(-1, 1.3, 60))

    assert calibration(many).promise.n_above == 1
    assert apart(calibration(many)) is None
    assert apart(calibration((8.5, *many))) is not None, "two of them"


def test_the_report_says_so() -> None:
    """Beside the promise that rests on it; not where nobody is alone."""
    assert "2.png alone sets the limit" in promises_in_short(calibration(SCORES), None)
    assert "alone sets" not in promises_in_short(calibration(SCORES[3:]), None)


@pytest.mark.parametrize("changes", [{"rule": "own"}, {"scores": ()}, {"limits": Limits(fail=5.0)}], ids=str)
def test_limits_that_no_good_part_set_have_none(changes: dict[str, object]) -> None:
    """Set by a person, of an older file, or of another rule."""
    assert apart(calibration(SCORES, **changes)) is None


@given(st.integers(0, 2**32 - 1), st.integers(10, 200))
def test_a_gap_smaller_than_what_lies_below_it_has_none(seed: int, n: int) -> None:
    """However few parts there are, and wherever they lie."""
    scores = np.sort(np.random.default_rng(seed).uniform(size=n))
    scores[-1] = min(scores[-1], scores[-2] + 0.4 * (scores[-2] - np.median(scores)))

    assert apart(calibration(tuple(scores))) is None
