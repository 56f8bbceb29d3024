"""Own limits: those that a person sets by hand, what they promise, and what they do to the parts that are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.calibrator import previous_version
from mapl_edge.calibrate.limits import bound_of_any_limit, promise_of_any_limit
from mapl_edge.calibration import CALIBRATION_SCHEMA, Calibration, Limits, Misses, write_calibration
from mapl_edge.errors import BundleError
from mapl_edge.gauge import Mark, defect_marks, good_marks
from mapl_edge.user import user_name
from mapl_edge.verdict import Outcome, utc_text

OWN = "own"  # the rule of such limits in calibration.yaml


def set_limits(bundle: Bundle, limits: Limits) -> Calibration:
    """Put limits that a person chose in force, as a new version; the history keeps all.

    What they promise is a bound for all limits at once (see `Tradeoff.bound_for_any_limit`), from the scores that the
    version in force keeps: whoever chose may have looked at them. Limits that are in force already make no version.

    Raises:
        BundleError: the version in force keeps no scores.
    """
    now, path = bundle.calibration, bundle.calibration_path
    if not now.scores:
        raise BundleError(f"{path}: keeps no scores of good parts, so limits of one's own promise nothing; calibrate")
    if limits == now.limits:
        return now
    said, before = map(_limits_text, (limits, now.limits))
    again = now.model_copy(
        update={
            "schema_version": CALIBRATION_SCHEMA,
            "version": previous_version(bundle) + 1,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user_name(),
            "rule": OWN,
            "target_recall": None,
            "costs": None,
            **said_of(limits, now.promise.confidence, _good(now), defect_marks(now)),
            "pixel_promise": now.pixel_promise,  # that limit stays
            "note": f"set by hand: {said} (before: {before})",
        }
    )
    write_calibration(again, path)
    return again


def said_of(limits: Limits, confidence: float, good: Sequence[Mark], bad: Sequence[Mark]) -> dict[str, Any]:
    """Limits that a person chose, and what they promise of these parts, by the names of `Calibration`'s fields."""
    scores, levels = [mark.score for mark in good], [mark.level for mark in good if mark.level is not None]
    review, pixel = limits.review, limits.pixel
    n_missed = sum(mark.verdict(limits) is Outcome.PASS for mark in bad)
    bound = bound_of_any_limit(n_missed, len(bad), confidence) if bad else 0
    return {
        "limits": limits,
        "promise": promise_of_any_limit(scores, limits.fail, confidence),
        "review_promise": None if review is None else promise_of_any_limit(scores, review, confidence),
        "pixel_promise": promise_of_any_limit(levels, pixel.limit, confidence) if pixel and levels else None,
        "misses": Misses(n_bad=len(bad), n_missed=n_missed, bound=bound, confidence=confidence) if bad else None,
    }


def known_verdicts(calibration: Calibration) -> str:
    """What the limits do to the parts that calibration.yaml holds scores of."""
    good, bad = _good(calibration), defect_marks(calibration)
    rejected, passed = _count(good, calibration, Outcome.FAIL), _count(bad, calibration, Outcome.PASS)
    defects = f"{passed} of {len(bad)} known defects pass" if bad else "no scores of defects are known"
    return f"{rejected} of {len(good)} good parts of the calibration are rejected, {defects}"


def warning_of(calibration: Calibration) -> str | None:
    """Why limits look like a mistake: they reject all that is good, or stop nothing; None: they do not."""
    good, bad = _good(calibration), defect_marks(calibration)
    scores = [mark.score for mark in good]
    lowest, highest = min(scores), max(scores)
    fail, span = calibration.limits.fail, f"their scores are {lowest:.6g} to {highest:.6g}"
    if _count(good, calibration, Outcome.FAIL) == len(good):
        return f"every good part of the calibration is rejected, {len(good)} of {len(good)} ({span})"
    if bad and _count(bad, calibration, Outcome.PASS) == len(bad):
        return f"every known defect passes, {len(bad)} of {len(bad)}"
    if not bad and fail > highest + (highest - lowest):
        end = "defects may pass too" if calibration.limits.pixel is None else "only a region may stop a defect"
        return (
            f"all {len(good)} good parts of the calibration lie farther below the limit {fail:.6g} than they are "
            f"apart ({span}): {end}"
        )
    return None


def way_back(now: Calibration, history: Sequence[Calibration]) -> int | None:
    """The newest version whose limits give no warning on the parts that are known now; None: there is none.

    Args:
        history: oldest first; versions of other bundles and those without scores cannot come back.
    """
    for one in reversed(history):
        tried = now.model_copy(update={"limits": one.limits})
        if one.scores and one.model_digest == now.model_digest and warning_of(tried) is None:
            return one.version
    return None


def _good(calibration: Calibration) -> list[Mark]:
    """By their scores alone where nothing else is known of them, as in older files."""
    return good_marks(calibration) or [Mark(score) for score in calibration.scores]


def _count(marks: Sequence[Mark], calibration: Calibration, outcome: Outcome) -> int:
    return sum(mark.verdict(calibration.limits) is outcome for mark in marks)


def _limits_text(limits: Limits) -> str:
    """fail=2.5, review=2."""
    return ", ".join(f"{k}={v:.6g}" for k, v in limits.model_dump(include={"fail", "review"}).items() if v is not None)
