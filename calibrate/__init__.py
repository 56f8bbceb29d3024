"""Calibrate: scores → thresholds with a promise; measuring on labelled pictures; reports."""

from mapl_edge.calibrate.calibrator import Calibrated, calibrate_bundle, calibrate_parts, roll_back, set_limits
from mapl_edge.calibrate.decision import Decision, Wish, decide
from mapl_edge.calibrate.evaluate import Evaluation, evaluate
from mapl_edge.calibrate.limits import NormalLimit, limit_from_normals, promise_of_any_limit
from mapl_edge.calibrate.scores import Scores, scores_from_csv
from mapl_edge.calibrate.tradeoff import Costs, OperatingPoint, Tradeoff
from mapl_edge.calibrate.what_if import Judged, WhatIf, limits_from_text, stored_verdicts, what_if

__all__ = [
    "Calibrated",
    "Costs",
    "Decision",
    "Evaluation",
    "Judged",
    "NormalLimit",
    "OperatingPoint",
    "Scores",
    "Tradeoff",
    "WhatIf",
    "Wish",
    "calibrate_bundle",
    "calibrate_parts",
    "decide",
    "evaluate",
    "limit_from_normals",
    "limits_from_text",
    "promise_of_any_limit",
    "roll_back",
    "scores_from_csv",
    "set_limits",
    "stored_verdicts",
    "what_if",
]
