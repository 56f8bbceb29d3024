"""Calibrate: scores → thresholds with a promise; measuring on labelled pictures; reports."""

from mapl_edge.calibrate.apart import Apart, apart
from mapl_edge.calibrate.calibrator import Calibrated, calibrate_bundle, calibrate_parts, roll_back
from mapl_edge.calibrate.decision import Decision, Wish, decide
from mapl_edge.calibrate.evaluate import Evaluation, evaluate
from mapl_edge.calibrate.limits import NormalLimit, limit_from_normals, promise_of_any_limit
from mapl_edge.calibrate.own_limits import known_verdicts, set_limits, warning_of, way_back
from mapl_edge.calibrate.scores import Scores, scores_from_csv
from mapl_edge.calibrate.tradeoff import OperatingPoint, Tradeoff
from mapl_edge.calibrate.what_if import Judged, WhatIf, limits_from_text, stored_verdicts, what_if
from mapl_edge.calibration import Costs

__all__ = [
    "Apart",
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
    "apart",
    "calibrate_bundle",
    "calibrate_parts",
    "decide",
    "evaluate",
    "known_verdicts",
    "limit_from_normals",
    "limits_from_text",
    "promise_of_any_limit",
    "roll_back",
    "scores_from_csv",
    "set_limits",
    "stored_verdicts",
    "warning_of",
    "way_back",
    "what_if",
]
