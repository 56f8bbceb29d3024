"""Promises: what the limits say of good parts, and whether the labelled parts bear it out."""

from __future__ import annotations

from collections.abc import Sequence

from mapl_edge.calibrate.apart import apart
from mapl_edge.calibrate.labelled import Labelled, Part, PromiseCheck
from mapl_edge.calibrate.page import Cell, paragraph, table
from mapl_edge.calibrate.words import interval_words
from mapl_edge.calibration import Calibration, Promise, at_most, percent

KEPT_WORDS = {"kept": "kept", "undecided": "undecided", "broken": "BROKEN", "not checked": "not checked"}
KEPT_KINDS = {"kept": "ok", "broken": "wrong"}  # of page.Cell; all else is a note


def promises_in_short(calibration: Calibration | None, labelled: Labelled | None) -> str:
    """A line for each promise, for what passes of the defects, and for a part that sets the limit alone."""
    if calibration is None:
        return paragraph("This bundle has no thresholds yet, so nothing is promised and there is no verdict.", "note")
    strange = apart(calibration)
    found = "" if strange is None else paragraph(f"{strange}.", "note")
    if labelled is None:
        return found + paragraph(f"Promised: {calibration.promise}. Not checked on labelled parts here.", "note")
    for check in labelled.checks(calibration):
        found += paragraph(check_words(check), KEPT_KINDS.get(check.state, "note"))
    missed, n_bad = len(labelled.misses), int(labelled.positive.sum())
    if n_bad:
        found += paragraph(f"{missed} of {n_bad} defective parts pass.", "note" if missed else "ok")
    return found


def promises(calibration: Calibration | None, labelled: Labelled | None, bundle: str) -> str:
    """Two tables: what the calibration's good parts promise, and the same on the labelled parts."""
    if calibration is None:
        return paragraph(f"Nothing. Set limits with: mapl-edge calibrate {bundle} --good FOLDER")
    limits = calibration.limits
    rows = [_promise_row("score above the fail limit: FAIL", limits.fail, calibration.promise)]
    if limits.review is not None and calibration.review_promise is not None:
        rows.append(_promise_row("score above the review limit: not PASS", limits.review, calibration.review_promise))
    if limits.pixel is not None and calibration.pixel_promise is not None:
        rows.append(_promise_row("a region above the pixel limit: FAIL", limits.pixel.limit, calibration.pixel_promise))
    number: list[Cell] = [(name, "n") for name in ("limit", "wished", "promised at most", "confidence", "above")]
    found = table(["of good parts", *number], rows, "Promises from the calibration's good parts")
    if calibration.misses is not None:
        found += paragraph(f"Of the defective parts that were given to the calibration: {calibration.misses}.")
    if labelled is None:
        return found
    checked = [
        (
            check.what,
            (at_most(check.bound), "n"),
            (f"{check.n_rejected} of {check.n_good}", "n"),
            (interval_words(check.interval), "n"),
            (KEPT_WORDS[check.state], KEPT_KINDS.get(check.state, "note")),
        )
        for check in labelled.checks(calibration)
    ]
    head: list[Cell] = [(name, "n") for name in ("promised at most", "seen here", "exact interval")]
    found += table(["of good parts", *head, "the promise is"], checked, "The same on the labelled parts")
    return found + paragraph(_seen_words(labelled.parts), "small")


def _promise_row(what: str, limit: float, promise: Promise) -> list[Cell]:
    reached = promise.achieved <= promise.max_false_reject
    return [
        what,
        (f"{limit:.6g}", "n"),
        (percent(promise.max_false_reject), "n"),
        (at_most(promise.achieved), "n" if reached else "n note"),
        (f"{promise.confidence:.6g}", "n"),
        (f"{promise.n_above} of {promise.n_good}", "n"),
    ]


def check_words(check: PromiseCheck) -> str:
    """What was promised, what was seen, and whether that is the same."""
    promised = f"Promised: at most {at_most(check.bound)} of good parts have a {check.what.removeprefix('a ')}"
    if check.interval is None:
        return f"{promised}. Not checked: training or calibration saw every good part given."
    seen = (
        f"{check.n_rejected} of {check.n_good} do here ({check.n_rejected / check.n_good:.1%}, exact "
        f"{100 * check.confidence:g}% interval {interval_words(check.interval)})"
    )
    end = {
        "kept": "The promise is kept on these parts.",
        "undecided": "That is more than promised, but so few parts cannot tell chance from a broken promise.",
        "broken": "The promise is BROKEN on these parts: calibrate again with parts such as these.",
    }[check.state]
    return f"{promised}; {seen}. {end}"


def _seen_words(some: Sequence[Part]) -> str:
    good = [part for part in some if part.is_good]
    seen = {who: sum(part.seen_by == who for part in good) for who in ("training", "calibration")}
    left = " and ".join(f"{n} that {who} saw" for who, n in seen.items() if n)
    rule = "Kept: no more than promised. Broken: more, and by more than chance explains at the promise's confidence."
    return f"{rule} Good parts left out of the check: {left or 'none'}."
