"""Calibrate again: the same wish on new scores of the same parts, after the memory was added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, cast

from mapl_edge.calibrate.decision import Wish, decide
from mapl_edge.calibrate.own_limits import OWN, said_of
from mapl_edge.calibrate.tradeoff import Rule
from mapl_edge.calibration import CALIBRATION_SCHEMA, Calibration, RegionFilter
from mapl_edge.errors import DataError
from mapl_edge.gauge import Mark, MarkedPart
from mapl_edge.verdict import utc_text


def calibration_again(
    old: Calibration,
    version: int,
    user: str,
    model_digest: str,
    good: Mapping[str, MarkedPart],
    defects: Mapping[str, MarkedPart],
    engine: str,
    note: str,
) -> Calibration:
    """A new calibration by the rule of an old one; limits of one's own stay, and what they promise is told anew.

    Args:
        old: what was wished.
        version, user, model_digest, engine, note: of the new one, see `Calibration`.
        good, defects: the parts that it comes from, by name.

    Raises:
        DataError: the rule aims at what calibration.yaml does not hold, or the scores cannot carry the wish.
    """
    marks, marks_bad = ([part.mark for part in some.values()] for some in (good, defects))
    set_by = (
        said_of(old.limits, old.promise.confidence, marks, marks_bad)
        if old.rule == OWN
        else _decided(old, marks, marks_bad)
    )
    return old.model_copy(
        update={
            "schema_version": CALIBRATION_SCHEMA,
            "version": version,
            "created_at": utc_text(datetime.now(timezone.utc)),
            "created_by": user,
            "model_digest": model_digest,
            **set_by,
            "pictures": {name: part.digest for name, part in good.items()},
            "defects": {name: part.digest for name, part in defects.items()},
            "scores": _scores(marks),
            "levels": _levels(marks),
            "defect_scores": _scores(marks_bad),
            "defect_levels": _levels(marks_bad),
            "baseline": _baseline(old, tuple(good)),
            "engine": engine,
            "note": note,
        }
    )


def _decided(old: Calibration, good: Sequence[Mark], bad: Sequence[Mark]) -> dict[str, Any]:
    wish = _wish(old)
    try:
        decision = decide(_scores(good), _scores(bad), wish, _levels(good) or None)
    except DataError as exc:
        raise DataError(
            f"the limits cannot be set again as they were wished: {exc}; or keep them with --keep-limits and run "
            "mapl-edge calibrate afterwards"
        ) from exc
    return {
        "limits": decision.limits,
        "promise": decision.promise,
        "review_promise": None if decision.review is None else decision.review.promise,
        "pixel_promise": None if decision.pixel is None else decision.pixel.promise,
        "misses": decision.misses,
    }


def _wish(old: Calibration) -> Wish:
    """What the old limits were to keep; all of it stands in calibration.yaml."""
    aim = {"recall": old.target_recall, "cost": old.costs}
    if aim.get(old.rule, True) is None:
        raise DataError(
            f"the limits were set by {old.rule} before calibration.yaml held what it aims at, so they cannot be set "
            "again here; run mapl-edge calibrate once more first, or keep them with --keep-limits"
        )
    pixel = old.limits.pixel
    share = old.pixel_promise if old.pixel_promise is not None else old.promise
    return Wish(
        max_false_reject=share.max_false_reject if pixel is not None or old.rule == "promise" else _DEFAULT_SHARE,
        confidence=old.promise.confidence,
        review_false_reject=None if old.review_promise is None else old.review_promise.max_false_reject,
        rule=cast(Rule, old.rule),
        target_recall=old.target_recall,
        costs=old.costs,
        regions=None if pixel is None else RegionFilter(**pixel.model_dump(exclude={"limit"})),
    )


_DEFAULT_SHARE = Wish().max_false_reject  # of a limit that no rule but "promise" takes


def _scores(marks: Sequence[Mark]) -> tuple[float, ...]:
    return tuple(float(mark.score) for mark in marks)


def _levels(marks: Sequence[Mark]) -> tuple[float, ...]:
    return tuple(mark.level for mark in marks if mark.level is not None)


def _baseline(old: Calibration, names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """What drift is measured from, of these parts; the map's mean is another now, nothing is where a part is new."""
    rows = {name: row for row, name in enumerate(old.pictures)}
    if not rows.keys() >= set(names):
        return {}
    kept = {name: column for name, column in old.baseline.items() if name != "distance"}
    return {name: tuple(column[rows[part]] for part in names) for name, column in kept.items()}
