"""judge: the one place that decides. Evaluate, calibrate's what-if and run use it."""

from __future__ import annotations

import math

from mapl_edge.calibration import Limits
from mapl_edge.engine import Reading
from mapl_edge.verdict import Outcome


def judge(reading: Reading, limits: Limits) -> Outcome:
    """FAIL above `limits.fail`, REVIEW above `limits.review`, PASS otherwise; a score that is no number is ERROR."""
    return judge_score(reading.score, limits)


def judge_score(score: float, limits: Limits) -> Outcome:
    """The same for a stored verdict, of which only the score is left."""
    if not math.isfinite(score):
        return Outcome.ERROR
    if score > limits.fail:
        return Outcome.FAIL
    if limits.review is not None and score > limits.review:
        return Outcome.REVIEW
    return Outcome.PASS
