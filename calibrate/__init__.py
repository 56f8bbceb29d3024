"""Calibrate: scores → thresholds with a promise; measuring on labelled pictures; reports."""

from mapl_edge.calibrate.calibrator import calibrate_bundle
from mapl_edge.calibrate.evaluate import Evaluation, evaluate
from mapl_edge.calibrate.limits import NormalLimit, limit_from_normals

__all__ = ["Evaluation", "NormalLimit", "calibrate_bundle", "evaluate", "limit_from_normals"]
