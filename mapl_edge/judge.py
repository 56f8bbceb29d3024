"""judge: the one place that decides. Evaluate, calibrate's what-if and run use it."""

from __future__ import annotations

import math

from mapl_edge.calibration import Limits
from mapl_edge.engine import Reading
from mapl_edge.verdict import Outcome


def judge(reading: Reading, limits: Limits) -> Outcome:
    """FAIL above `limits.fail`, REVIEW above `limits.review`, PASS otherwise; a score that is no number is ERROR."""
    if not math.isfinite(reading.score):
        return Outcome.ERROR
    if reading.score > limits.fail:
        return Outcome.FAIL
    if limits.review is not None and reading.score > limits.review:
        return Outcome.REVIEW
    return Outcome.PASS
