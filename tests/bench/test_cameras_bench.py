"""What cameras have of each other is a ratio with an interval."""

import numpy as np

from cameras import over_of


def test_the_ratio_of_a_station_to_itself_is_one() -> None:
    """Turns are drawn in pairs, so what both have of a turn falls out."""
    turns = [np.random.default_rng(turn).normal(20 + turn, 2, 50).tolist() for turn in range(6)]

    assert over_of(turns, turns) == (1.0, 1.0, 1.0)


def test_one_bad_turn_is_in_the_interval_not_in_doubt() -> None:
    """A single turn beside other work must not pass for what a slow camera does."""
    control = [[20.0] * 100 for _ in range(6)]
    turns = [*control[:5], [60.0] * 100]

    ratio, low, high = over_of(turns, control)

    assert (low, ratio, high) == (1.0, 3.0, 3.0)
