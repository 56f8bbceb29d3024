"""What teaching does to a part: told where it matters."""

from __future__ import annotations

import pytest

from mapl_edge.calibration import Limits, PixelLimit
from mapl_edge.export.effects import Effect
from mapl_edge.gauge import Mark


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (Mark(0.5), Mark(0.5), False),
        (Mark(0.5), Mark(0.50009), False),
        (Mark(0.5), Mark(0.49989), True),
        (Mark(-200.0), Mark(-200.019), False),
        (Mark(-200.0), Mark(-200.021), True),
        (Mark(0.5, 0.3), Mark(0.5, 0.3), False),
        (Mark(0.5, 0.3), Mark(0.5, 0.31), True),
        (Mark(float("nan")), Mark(0.5), True),
        (Mark(0.5), Mark(float("nan")), True),
    ],
    ids=str,
)
def test_part_moves_by_more_than_rounding(before: Mark, after: Mark, moves: bool) -> None:
    """Two engines of one bundle may differ by 1e-4, of the score where that is above 1."""
    assert Effect("good", "000.png", before, after).moves is moves


def test_levels_are_told_where_there_is_a_pixel_limit() -> None:
    """Without one there is no level to read."""
    limits = Limits(fail=1.0, pixel=PixelLimit(limit=0.5))
    plain = Effect("good", "000.png", Mark(0.5), Mark(1.5)).judged(Limits(fail=1.0), Limits(fail=1.0))
    with_level = Effect("defect", "001.png", Mark(0.5, 0.6), Mark(0.5, 0.4)).judged(limits, limits)

    assert plain.as_json() == {
        "kind": "good",
        "name": "000.png",
        "score_before": 0.5,
        "score_after": 1.5,
        "before": "PASS",
        "after": "FAIL",
    }
    assert [with_level.as_json()[key] for key in ("level_before", "level_after")] == [0.6, 0.4]
    assert with_level.is_missed_now
