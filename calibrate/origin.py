"""Origin: where a bundle and each version of its limits come from, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mapl_edge.calibrate.audit import Audit, fingerprint
from mapl_edge.calibrate.page import Cell, paragraph, table
from mapl_edge.calibrate.words import limits_words, pairs
from mapl_edge.calibration import Calibration


def origin(of: Audit) -> str:
    """Of the bundle and its engines."""
    rows: list[Sequence[Cell]] = [
        ("report made by", of.command),
        ("at", of.made_at),
        ("bundle", of.path),
        ("digest of its manifest", (of.digest, "digest")),
        ("digest of calibration.yaml", (of.calibration_digest or "none", "digest")),
        ("made at", of.created_at),
        ("signature", of.signature),
        ("input", pairs(of.contract)),
        ("memory", pairs(of.memory)),
        ("pictures of each split", pairs(of.pictures)),
        (f"fingerprint of the {of.n_trained_on} pictures that training saw", (of.trained_on, "digest")),
        (f"fingerprint of the {of.n_held_out} pictures it held out", (of.held_out, "digest")),
        ("made with", pairs(of.tools)),
        ("this report with", pairs(of.tools_here)),
        ("engine of this report", of.engine or "none was asked"),
        ("its proof here", pairs(of.proof) if of.proof else "none"),
    ]
    engines: list[list[Cell]] = [
        [e.name, e.refused or e.created_at, pairs(e.cost) if e.cost else "", (e.digest, "digest")] for e in of.engines
    ]
    return (
        table((), rows)
        + table(["engine", "made at", "what it costs", "digest of its record"], engines, "Engines in the bundle")
        + paragraph("A fingerprint is the SHA-256 of the pictures' SHA-256 in order: sort | sha256sum.", "small")
    )


def versions(history: Sequence[Calibration], bundle_digest: str) -> str:
    """Of the limits, newest first."""
    if not history:
        return paragraph("None.")
    rows: list[list[Cell]] = [
        [
            (str(one.version), "n"),
            one.created_at,
            one.created_by,
            f"{limits_words(one.limits)} ({one.rule})",
            str(one.promise),
            (f"{len(one.pictures)} good: {fingerprint(one.pictures.values())[:16]}", ""),
            f"{len(one.defects)}: {fingerprint(one.defects.values())[:16]}" if one.defects else "none",
            one.note or ("" if one.model_digest == bundle_digest else f"for bundle {one.model_digest[:12]}"),
        ]
        for one in reversed(history)
    ]
    head = ["version", "set at", "by", "limits", "promise", "from pictures", "defects", "note"]
    return table(head, rows)


def version_json(calibration: Calibration) -> dict[str, Any]:
    """One version in plain values; of its pictures their number and fingerprint."""
    content = calibration.model_dump(
        mode="json", exclude={"scores", "baseline", "camera", "place", "pictures", "defects"}
    )
    digests = {name: getattr(calibration, name) for name in ("pictures", "defects")}
    return content | {name: {"n": len(of), "fingerprint": fingerprint(of.values())} for name, of in digests.items()}
