"""Digest lists: the SHA-256 of every picture and file that a report speaks of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mapl_edge.calibrate.audit import Audit
from mapl_edge.calibrate.labelled import Labelled
from mapl_edge.calibrate.page import Cell, paragraph, table
from mapl_edge.calibration import Calibration

MOST_ROWS = 2000  # of a list of digests; the JSON has all


def digest_lists(audit: Audit, calibration: Calibration | None, labelled: Labelled | None) -> str:
    """Labelled pictures, those that the limits came from, files of the bundle."""
    found = ""
    if labelled is not None and any(part.sha256 for part in labelled.parts):
        rows: list[list[Cell]] = [
            [
                part.name,
                (f"{part.score:.6g}", "n"),
                part.outcome.value if part.outcome else "",
                part.seen_by and f"seen by {part.seen_by}",
                (part.sha256, "digest"),
            ]
            for part in labelled.parts
        ]
        found += _list(["picture", ("score", "n"), "verdict", "", "SHA-256"], rows, "Labelled pictures")
    if calibration is not None:
        scores = calibration.scores or (math.nan,) * len(calibration.pictures)
        rows = [
            [name, ("" if math.isnan(score) else f"{score:.6g}", "n"), (digest, "digest")]
            for (name, digest), score in zip(calibration.pictures.items(), scores, strict=False)
        ]
        found += _list(["picture", ("score", "n"), "SHA-256"], rows, f"Good parts of version {calibration.version}")
        if calibration.defects:
            found += _named("picture", calibration.defects, f"Defective parts of version {calibration.version}")
    return found + _named("file", audit.files, "Files of the bundle")


def _named(what: str, digests: Mapping[str, str], caption: str) -> str:
    return _list([what, "SHA-256"], [[name, (digest, "digest")] for name, digest in digests.items()], caption)


def _list(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    more = len(rows) - MOST_ROWS
    found = table(head, rows[:MOST_ROWS], f"{caption} ({len(rows)})")
    return found + (paragraph(f"and {more} more; report --json lists all.", "small") if more > 0 else "")
