"""Calibrate again: the same wish on new scores of the same parts, after the memory was added to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from mapl_edge.calibrate.decision import Wish, decide
from mapl_edge.calibration import Calibration
from mapl_edge.errors import DataError
from mapl_edge.verdict import utc_text

Scored = Mapping[str, tuple[str, float]]
"""SHA-256 and raw score by name."""

REDONE = ("promise", "f1")  # rules whose wish calibration.yaml holds whole


def calibration_again(
    old: Calibration, version: int, user: str, model_digest: str, good: Scored, defects: Scored, engine: str, note: str
) -> Calibration:
    """A new calibration by the rule of an old one.

    Args:
        old: what was wished.
        version, user, model_digest, engine, note: of the new one, see `Calibration`.
        good, defects: the parts that it comes from.

    Raises:
        DataError: the rule needs what calibration.yaml does not keep, or the scores cannot carry the wish.
    """
    if old.rule not in REDONE:
        raise DataError(
            f"the limits were set by {old.rule}, whose aim calibration.yaml does not hold, so they cannot be set again "
            "here; keep them with --keep-limits and run mapl-edge calibrate afterwards"
        )
    wish = Wish(
        max_false_reject=old.promise.max_false_reject if old.rule == "promise" else Wish().max_false_reject,
        confidence=old.promise.confidence,
        review_false_reject=None if old.review_promise is None else old.review_promise.max_false_reject,
        rule="promise" if old.rule == "promise" else "f1",
    )
    if old.masks or old.limits.pixel is not None:
        raise DataError(
            "the limits were set with masks or regions, which are not looked at again here; keep them with "
            "--keep-limits and run mapl-edge calibrate afterwards"
        )
    scores = tuple(float(score) for _, score in good.values())
    decision = decide(scores, [score for _, score in defects.values()], wish)
    return old.model_copy(
        update={
            "version": version,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user,
            "model_digest": model_digest,
            "limits": decision.limits,
            "promise": decision.promise,
            "review_promise": None if decision.review is None else decision.review.promise,
            "misses": decision.misses,
            "pictures": {name: digest for name, (digest, _) in good.items()},
            "defects": {name: digest for name, (digest, _) in defects.items()},
            "scores": scores,
            "baseline": _baseline(old, tuple(good)),
            "engine": engine,
            "note": note,
        }
    )


def _baseline(old: Calibration, names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """What drift is measured from, of these parts; the map's mean is another now, nothing is where a part is new."""
    rows = {name: row for row, name in enumerate(old.pictures)}
    if not rows.keys() >= set(names):
        return {}
    kept = {name: column for name, column in old.baseline.items() if name != "distance"}
    return {name: tuple(column[rows[part]] for part in names) for name, column in kept.items()}
