"""Report: what an auditor, a customer or the next shift asks of a bundle, in one HTML file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mapl_edge.calibrate.apart import apart
from mapl_edge.calibrate.audit import Audit
from mapl_edge.calibrate.digest_lists import digest_lists
from mapl_edge.calibrate.labelled import CONFIDENCE, Labelled
from mapl_edge.calibrate.origin import origin, version_json, versions
from mapl_edge.calibrate.page import Cell, page, paragraph, parts, table
from mapl_edge.calibrate.promises import promises, promises_in_short
from mapl_edge.calibrate.score_charts import score_charts
from mapl_edge.calibrate.shown_part import ShownPart
from mapl_edge.calibrate.station_record import Station
from mapl_edge.calibrate.words import figure_words, interval_words, limits_words
from mapl_edge.calibration import Calibration
from mapl_edge.verdict import Outcome

PICTURE_BYTES = 6_500_000  # of all JPEGs; a third more as text, so that a page stays below 10 MB
MOST_PICTURE_BYTES = 60_000
METRICS = {
    "image_auroc": "AUROC of pictures",
    "image_ap": "average precision of pictures",
    "image_f1_max": "F1-max of pictures",
    "pixel_auroc": "AUROC of pixels",
    "pixel_ap": "average precision of pixels",
    "aupro": "AUPRO",
}


@dataclass(frozen=True)
class Report:
    """What the report is made of; what is None or empty has no section.

    Attributes:
        calibration: in force; None where there is none yet.
        history: every version, oldest first.
        source: where the labelled parts come from, in words.
        worst_false_rejects, worst_misses, strongest_finds: labelled parts to look at.
        latency_ms: capture to verdict of every labelled part.
    """

    title: str
    audit: Audit
    calibration: Calibration | None
    history: tuple[Calibration, ...] = ()
    labelled: Labelled | None = None
    source: str = ""
    worst_false_rejects: tuple[ShownPart, ...] = ()
    worst_misses: tuple[ShownPart, ...] = ()
    strongest_finds: tuple[ShownPart, ...] = ()
    station: Station | None = None
    latency_ms: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values: all numbers and digests of the page, without the pictures."""
        labelled = None
        if self.labelled is not None:
            shown = ("worst_false_rejects", "worst_misses", "strongest_finds")
            labelled = {
                "source": self.source,
                **self.labelled.as_json(self.calibration),
                **{name: [part.as_json() for part in getattr(self, name)] for name in shown},
            }
        strange = None if self.calibration is None else apart(self.calibration)
        return {
            "audit": self.audit.as_json(),
            "calibration": None if self.calibration is None else self.calibration.model_dump(mode="json"),
            "apart": strange and asdict(strange),
            "history": [version_json(one) for one in self.history],
            "labelled": labelled,
            "station": None if self.station is None else self.station.as_json(),
        }

    def html(self) -> str:
        """The page."""
        now, labelled = self.calibration, self.labelled
        sections = [("Summary", self._summary()), ("What is promised", promises(now, labelled, self.audit.path))]
        drawn = score_charts(now, labelled, self.latency_ms)
        if drawn:
            sections.append(("Scores", drawn))
        if labelled is not None:
            sections.append(("Each kind of part", _kinds(labelled)))
            sections += self._looked_at(labelled)
        if self.station is not None:
            sections += self._station(self.station)
        sections += [("Origin", origin(self.audit))]
        sections += [("Versions of the limits", versions(self.history, self.audit.digest))]
        sections += [("Every digest", digest_lists(self.audit, now, labelled))]
        return page(self.title, sections)

    @property
    def _most_bytes(self) -> int:
        station = [*self.station.rejects, *self.station.reviews] if self.station else []
        shown = [*self.worst_false_rejects, *self.worst_misses, *self.strongest_finds, *station]
        n = sum(len(part.pictures) for part in shown)
        return min(MOST_PICTURE_BYTES, PICTURE_BYTES // max(1, n))

    def _summary(self) -> str:
        now, labelled = self.calibration, self.labelled
        rows: list[Sequence[Cell]] = [("bundle", (self.audit.digest, "digest"))]
        if now is not None:
            rows += [("limits", limits_words(now.limits))]
            rows += [("version", f"{now.version}, set {now.created_at} by {now.created_by}")]
        if labelled is not None:
            rows.append(("labelled parts", self._counts(labelled)))
            for name, words in METRICS.items():
                if labelled.figures.get(name) is not None:
                    rows.append((words, figure_words(labelled.figures, name)))
        rows += [("engine", self.audit.engine or "none was asked"), ("made", self.audit.made_at)]
        return promises_in_short(now, labelled) + table((), [row for row in rows if row[1]])

    def _counts(self, labelled: Labelled) -> str:
        n_bad = int(labelled.positive.sum())
        counts = f"{len(labelled.parts) - n_bad} good, {n_bad} defective"
        return f"{counts}, from {self.source}" if self.source else counts

    def _looked_at(self, labelled: Labelled) -> list[tuple[str, str]]:
        n_rejected, n_missed, n_found = len(labelled.false_rejects), len(labelled.misses), len(labelled.found)
        if self.calibration is None:
            headings = ("Good parts with the highest scores", "Defective parts with the lowest scores", "")
        else:
            headings = (
                f"Good parts that do not PASS ({n_rejected}), highest score first",
                f"Defective parts that PASS ({n_missed}), lowest score first",
                f"Defective parts that do not PASS ({n_found}), highest score first",
            )
        shown = (self.worst_false_rejects, self.worst_misses, self.strongest_finds)
        totals = (n_rejected, n_missed, n_found)
        return [
            (heading, self._figures(some) or paragraph("None." if not n else "None is shown."))
            for heading, some, n in zip(headings, shown, totals, strict=True)
            if heading
        ]

    def _figures(self, shown: Sequence[ShownPart]) -> str:
        return parts([(part.caption, part.pictures) for part in shown], self._most_bytes) if shown else ""

    def _station(self, station: Station) -> list[tuple[str, str]]:
        return [
            ("On the station", station.html()),
            ("Last rejects of the station", self._figures(station.rejects) or paragraph("None with a picture.")),
            ("Last reviews of the station", self._figures(station.reviews) or paragraph("None with a picture.")),
        ]


def _kinds(labelled: Labelled) -> str:
    rows: list[list[Cell]] = []
    outcomes = [each for each in Outcome if any(part.outcome is each for part in labelled.parts)]
    for row in labelled.kinds():
        good = row.label == "good"
        cells: list[Cell] = [row.label, (str(row.n), "n")]
        for each in outcomes:
            n = row.verdicts[each.value]
            cells.append((str(n), "n" if not n else "n ok" if (each is Outcome.PASS) == good else "n wrong"))
        if outcomes:
            share = f"{row.n_found / row.n:.1%}"
            cells += [(share, "n"), (interval_words(row.interval), "n")]
        rows.append(cells)
    shares: list[Cell] = [("not PASS", "n"), (f"exact {CONFIDENCE:.0%} interval", "n")] if outcomes else []
    head: list[Cell] = ["part is", ("parts", "n"), *((each.value, "n") for each in outcomes), *shares]
    return table(head, rows) + paragraph("Not PASS is the recall of a defect, and the false rejects of good.", "small")
