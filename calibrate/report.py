"""Report: what an auditor, a customer or the next shift asks of a bundle, in one HTML file that works offline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapl_edge.calibrate.audit import Audit, fingerprint
from mapl_edge.calibrate.chart import Chart, Kind
from mapl_edge.calibrate.labelled import CONFIDENCE, Labelled, Part, PromiseCheck
from mapl_edge.calibrate.page import Cell, charts, page, paragraph, parts, table
from mapl_edge.calibrate.shown_part import ShownPart
from mapl_edge.calibration import Calibration, Limits, Promise, percent
from mapl_edge.metrics import precision_recall_curve, roc_curve
from mapl_edge.verdict import Outcome

PICTURE_BYTES = 6_500_000  # of all JPEGs; a third more as text, so that a page stays below 10 MB
MOST_PICTURE_BYTES = 60_000
MOST_ROWS = 2000  # of a list of digests; the JSON has all
MOST_BINS = 50
KEPT_WORDS = {"kept": "kept", "undecided": "undecided", "broken": "BROKEN", "not checked": "not checked"}
METRICS = {
    "image_auroc": "AUROC of pictures",
    "image_ap": "average precision of pictures",
    "image_f1_max": "F1-max of pictures",
    "pixel_auroc": "AUROC of pixels",
    "pixel_ap": "average precision of pixels",
    "aupro": "AUPRO",
}


@dataclass(frozen=True, slots=True)
class Station:
    """What a station's store holds.

    Attributes:
        folder: of the store.
        days: verdicts of each outcome on each UTC day.
        accounts: of the runs, in words, and whether each balances.
        rejects, reviews: the last ones whose pictures are kept.
    """

    folder: str
    days: dict[str, dict[Outcome, int]]
    accounts: tuple[tuple[str, bool], ...]
    rejects: tuple[ShownPart, ...]
    reviews: tuple[ShownPart, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": self.folder,
            "days": {day: {each.value: n for each, n in counts.items()} for day, counts in self.days.items()},
            "accounts": [{"account": words, "balanced": balanced} for words, balanced in self.accounts],
            "rejects": [part.as_json() for part in self.rejects],
            "reviews": [part.as_json() for part in self.reviews],
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
        return {
            "audit": self.audit.as_json(),
            "calibration": None if self.calibration is None else self.calibration.model_dump(mode="json"),
            "history": [_version_json(one) for one in self.history],
            "labelled": labelled,
            "station": None if self.station is None else self.station.as_json(),
        }

    def html(self) -> str:
        """The page."""
        sections = [("Summary", self._summary()), ("What is promised", self._promises())]
        if self.labelled is not None:
            sections += [("Scores", self._scores(self.labelled)), ("Each kind of part", self._kinds(self.labelled))]
            sections += self._looked_at()
        elif self.calibration is not None and self.calibration.scores:
            drawn = charts([_calibration_histogram(self.calibration)])
            sections.append(("Scores", drawn))
        if self.station is not None:
            sections += self._station(self.station)
        sections += [("Origin", self._origin()), ("Versions of the limits", self._history())]
        sections.append(("Every digest", self._digests()))
        return page(self.title, sections)

    @property
    def _most_bytes(self) -> int:
        station = [*self.station.rejects, *self.station.reviews] if self.station else []
        shown = [*self.worst_false_rejects, *self.worst_misses, *self.strongest_finds, *station]
        n = sum(len(part.pictures) for part in shown)
        return min(MOST_PICTURE_BYTES, PICTURE_BYTES // max(1, n))

    def _summary(self) -> str:
        found = ""
        if self.calibration is None:
            found += paragraph(
                "This bundle has no thresholds yet, so nothing is promised and there is no verdict.", "note"
            )
        elif self.labelled is None:
            found += paragraph(f"Promised: {self.calibration.promise}. Not checked on labelled parts here.", "note")
        else:
            for check in self.labelled.checks(self.calibration):
                kind = {"kept": "ok", "broken": "wrong"}.get(check.state, "note")
                found += paragraph(_check_words(check), kind)
            missed, n_bad = len(self.labelled.misses), int(self.labelled.positive.sum())
            if n_bad:
                found += paragraph(f"{missed} of {n_bad} defective parts pass.", "note" if missed else "ok")
        rows: list[Sequence[Cell]] = [("bundle", (self.audit.digest, "digest"))]
        if self.calibration is not None:
            rows += [("limits", _limits_words(self.calibration.limits)), ("version", _version_words(self.calibration))]
        if self.labelled is not None:
            rows.append(("labelled parts", self._counts(self.labelled)))
            for name, words in METRICS.items():
                if self.labelled.figures.get(name) is not None:
                    rows.append((words, _figure_words(self.labelled.figures, name)))
        rows += [("engine", self.audit.engine or "none was asked"), ("made", self.audit.made_at)]
        return found + table((), [row for row in rows if row[1]])

    def _counts(self, labelled: Labelled) -> str:
        n_bad = int(labelled.positive.sum())
        counts = f"{len(labelled.parts) - n_bad} good, {n_bad} defective"
        return f"{counts}, from {self.source}" if self.source else counts

    def _promises(self) -> str:
        if self.calibration is None:
            return paragraph(f"Nothing. Set limits with: mapl-edge calibrate {self.audit.path} --good FOLDER")
        now = self.calibration
        rows = [_promise_row("score above the fail limit: FAIL", now.limits.fail, now.promise)]
        if now.limits.review is not None and now.review_promise is not None:
            rows.append(_promise_row("score above the review limit: not PASS", now.limits.review, now.review_promise))
        if now.limits.pixel is not None and now.pixel_promise is not None:
            rows.append(_promise_row("a region above the pixel limit: FAIL", now.limits.pixel.limit, now.pixel_promise))
        number: list[Cell] = [(name, "n") for name in ("limit", "wished", "promised at most", "confidence", "above")]
        found = table(["of good parts", *number], rows, "Promises from the calibration's good parts")
        if now.misses is not None:
            found += paragraph(f"Of the defective parts that were given to the calibration: {now.misses}.")
        if self.labelled is None:
            return found
        checked = [
            (
                check.what,
                (percent(check.bound), "n"),
                (f"{check.n_rejected} of {check.n_good}", "n"),
                (_interval_words(check.interval), "n"),
                (KEPT_WORDS[check.state], {"kept": "ok", "broken": "wrong"}.get(check.state, "note")),
            )
            for check in self.labelled.checks(now)
        ]
        head: list[Cell] = [(name, "n") for name in ("promised at most", "seen here", "exact interval")]
        found += table(["of good parts", *head, "the promise is"], checked, "The same on the labelled parts")
        return found + paragraph(_seen_words(self.labelled.parts), "small")

    def _scores(self, labelled: Labelled) -> str:
        limits = None if self.calibration is None else self.calibration.limits
        drawn = [_histogram(labelled, limits)]
        if self.calibration is not None and self.calibration.scores:
            drawn.append(_calibration_histogram(self.calibration))
        drawn += [one for one in (_roc(labelled, limits), _precision_recall(labelled, limits)) if one]
        if self.latency_ms:
            drawn.append(_latency(self.latency_ms))
        found = charts(drawn)
        if limits is not None and limits.pixel is not None:
            found += paragraph("Marks on the curves are of the score alone; a region fails further parts.", "small")
        return found

    def _kinds(self, labelled: Labelled) -> str:
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
                cells += [(share, "n"), (_interval_words(row.interval), "n")]
            rows.append(cells)
        shares: list[Cell] = [("not PASS", "n"), (f"exact {CONFIDENCE:.0%} interval", "n")] if outcomes else []
        head: list[Cell] = ["part is", ("parts", "n"), *((each.value, "n") for each in outcomes), *shares]
        return table(head, rows) + paragraph(
            "Not PASS is the recall of a defect, and the false rejects of good.", "small"
        )

    def _looked_at(self) -> list[tuple[str, str]]:
        assert self.labelled is not None
        n_rejected, n_missed, n_found = (len(getattr(self.labelled, n)) for n in ("false_rejects", "misses", "found"))
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
        rows: list[list[Cell]] = [
            [day, *((str(counts.get(each, 0)), "n") for each in Outcome), (str(sum(counts.values())), "n")]
            for day, counts in station.days.items()
        ]
        head: list[Cell] = ["UTC day", *((each.value, "n") for each in Outcome), ("all", "n")]
        wrong = sum(not balanced for _, balanced in station.accounts)
        accounts: list[list[Cell]] = [
            [(words, ""), ("balances" if balanced else "DOES NOT BALANCE", "ok" if balanced else "wrong")]
            for words, balanced in station.accounts
        ]
        n = len(accounts)
        said = f"{n} runs; {'all accounts balance' if not wrong else f'{wrong} accounts DO NOT BALANCE'}."
        counted = table(head, rows, "Verdicts kept, by day") if rows else paragraph("The store holds no verdict.")
        return [
            ("On the station", paragraph(f"Store {station.folder}: {said}") + counted + table((), accounts)),
            ("Last rejects of the station", self._figures(station.rejects) or paragraph("None with a picture.")),
            ("Last reviews of the station", self._figures(station.reviews) or paragraph("None with a picture.")),
        ]

    def _origin(self) -> str:
        of = self.audit
        rows: list[Sequence[Cell]] = [
            ("report made by", of.command),
            ("at", of.made_at),
            ("bundle", of.path),
            ("digest of its manifest", (of.digest, "digest")),
            ("digest of calibration.yaml", (of.calibration_digest or "none", "digest")),
            ("made at", of.created_at),
            ("signature", of.signature),
            ("input", _pairs(of.contract)),
            ("memory", _pairs(of.memory)),
            ("pictures of each split", _pairs(of.pictures)),
            (f"fingerprint of the {of.n_trained_on} pictures that training saw", (of.trained_on, "digest")),
            (f"fingerprint of the {of.n_held_out} pictures it held out", (of.held_out, "digest")),
            ("made with", _pairs(of.tools)),
            ("this report with", _pairs(of.tools_here)),
            ("engine of this report", of.engine or "none was asked"),
            ("its proof here", _pairs(of.proof) if of.proof else "none"),
        ]
        engines: list[list[Cell]] = [
            [e.name, e.refused or e.created_at, _pairs(e.cost) if e.cost else "", (e.digest, "digest")]
            for e in of.engines
        ]
        return (
            table((), rows)
            + table(["engine", "made at", "what it costs", "digest of its record"], engines, "Engines in the bundle")
            + paragraph("A fingerprint is the SHA-256 of the pictures' SHA-256 in order: sort | sha256sum.", "small")
        )

    def _history(self) -> str:
        if not self.history:
            return paragraph("None.")
        rows: list[list[Cell]] = [
            [
                (str(one.version), "n"),
                one.created_at,
                one.created_by,
                f"{_limits_words(one.limits)} ({one.rule})",
                str(one.promise),
                (f"{len(one.pictures)} good: {fingerprint(one.pictures.values())[:16]}", ""),
                f"{len(one.defects)}: {fingerprint(one.defects.values())[:16]}" if one.defects else "none",
                one.note or ("" if one.model_digest == self.audit.digest else f"for bundle {one.model_digest[:12]}"),
            ]
            for one in reversed(self.history)
        ]
        head = ["version", "set at", "by", "limits", "promise", "from pictures", "defects", "note"]
        return table(head, rows)

    def _digests(self) -> str:
        found = ""
        if self.labelled is not None and any(part.sha256 for part in self.labelled.parts):
            rows: list[list[Cell]] = [
                [
                    part.name,
                    (f"{part.score:.6g}", "n"),
                    part.outcome.value if part.outcome else "",
                    part.seen_by and f"seen by {part.seen_by}",
                    (part.sha256, "digest"),
                ]
                for part in self.labelled.parts
            ]
            found += _list(["picture", ("score", "n"), "verdict", "", "SHA-256"], rows, "Labelled pictures")
        now = self.calibration
        if now is not None:
            scores = now.scores or (math.nan,) * len(now.pictures)
            rows = [
                [name, ("" if math.isnan(score) else f"{score:.6g}", "n"), (digest, "digest")]
                for (name, digest), score in zip(now.pictures.items(), scores, strict=False)
            ]
            found += _list(["picture", ("score", "n"), "SHA-256"], rows, f"Good parts of version {now.version}")
            rows = [[name, (digest, "digest")] for name, digest in now.defects.items()]
            if rows:
                found += _list(["picture", "SHA-256"], rows, f"Defective parts of version {now.version}")
        rows = [[name, (digest, "digest")] for name, digest in self.audit.files.items()]
        return found + _list(["file", "SHA-256"], rows, "Files of the bundle")


def _list(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    more = len(rows) - MOST_ROWS
    found = table(head, rows[:MOST_ROWS], f"{caption} ({len(rows)})")
    return found + (paragraph(f"and {more} more; report --json lists all.", "small") if more > 0 else "")


def _histogram(labelled: Labelled, limits: Limits | None) -> tuple[str, str]:
    scores, positive = labelled.scores, labelled.positive
    edges = _edges([*scores, *_marks(limits)])
    good, bad = (np.histogram(scores[kind], edges)[0] for kind in (~positive, positive))
    high, low = int(good.max(initial=0)), int(bad.max(initial=0))
    chart = Chart("Scores of labelled parts", "raw score", "parts", (edges[0], edges[-1]), (-low, high), whole=True)
    chart.bars(edges, good, "good", f"{int((~positive).sum())} good parts, upwards")
    chart.bars(edges, -bad, "bad", f"{int(positive.sum())} defective parts, downwards")
    _draw_limits(chart, limits)
    return "Labelled parts by raw score: good ones upwards, defective ones downwards.", chart.svg()


def _calibration_histogram(calibration: Calibration) -> tuple[str, str]:
    edges = _edges([*calibration.scores, *_marks(calibration.limits)])
    counts = np.histogram(calibration.scores, edges)[0]
    title, x = "Scores of the calibration's good parts", (edges[0], edges[-1])
    chart = Chart(title, "raw score", "parts", x, (0, int(counts.max(initial=1))), whole=True)
    chart.bars(edges, counts, "good", f"{len(calibration.scores)} good parts")
    _draw_limits(chart, calibration.limits)
    return f"Good parts that the limits come from. Promised: {calibration.promise}.", chart.svg()


def _roc(labelled: Labelled, limits: Limits | None) -> tuple[str, str] | None:
    fpr, tpr = roc_curve(labelled.positive, labelled.scores)
    if not len(fpr):
        return None
    words = f"AUROC {_figure_words(labelled.figures, 'image_auroc')}"
    chart = Chart("ROC curve", "good parts rejected", "defects found", (0, 1), (0, 1))
    chart.line(fpr.tolist(), tpr.tolist(), "good", words)
    for name, (rejected, found, _) in _operating_points(labelled, limits).items():
        chart.point(rejected, found, name, f"{name} limit: rejects {rejected:.1%}, finds {found:.1%}")
    return f"ROC curve. {words}: 95 % bootstrap interval.", chart.svg()


def _precision_recall(labelled: Labelled, limits: Limits | None) -> tuple[str, str] | None:
    recall, precision = precision_recall_curve(labelled.positive, labelled.scores)
    if not len(recall):
        return None
    words = f"AP {_figure_words(labelled.figures, 'image_ap')}"
    chart = Chart("Precision and recall", "recall: defects found", "precision", (0, 1), (0, 1))
    chart.line(recall.tolist(), precision.tolist(), "good", words, steps=True)
    for name, (_, found, right) in _operating_points(labelled, limits).items():
        chart.point(found, right, name, f"{name} limit: recall {found:.1%}, precision {right:.1%}")
    return f"Precision over recall. {words}: 95 % bootstrap interval.", chart.svg()


def _latency(latency_ms: Sequence[float]) -> tuple[str, str]:
    p50, p99 = (float(value) for value in np.percentile(latency_ms, [50, 99]))
    edges = _edges(latency_ms)
    counts = np.histogram(latency_ms, edges)[0]
    x, y = (edges[0], edges[-1]), (0, int(counts.max(initial=1)))
    chart = Chart("Time to the verdict", "capture to verdict, ms", "parts", x, y, whole=True)
    chart.bars(edges, counts, "good", f"{len(latency_ms)} parts")
    chart.limit(p50, "review", f"p50 {p50:.1f} ms")
    chart.limit(p99, "fail", f"p99 {p99:.1f} ms")
    return "Time from capture to verdict.", chart.svg()


def _operating_points(labelled: Labelled, limits: Limits | None) -> dict[Kind, tuple[float, float, float]]:
    """By limit: the share of good parts rejected, of defects found, and of rejects that are defects (1 for none)."""
    scores, positive, found = labelled.scores, labelled.positive, {}
    for name, limit in _named(limits):
        above = scores > limit
        n_above = int(above.sum())
        right = float(positive[above].mean()) if n_above else 1.0
        found[name] = float(above[~positive].mean()), float(above[positive].mean()), right
    return found


def _draw_limits(chart: Chart, limits: Limits | None) -> None:
    for name, limit in _named(limits):
        chart.limit(limit, name, f"{name} limit {limit:.4g}")


def _named(limits: Limits | None) -> list[tuple[Kind, float]]:
    if limits is None:
        return []
    return [("fail", limits.fail), *([] if limits.review is None else [("review", limits.review)])]  # type: ignore[list-item]


def _marks(limits: Limits | None) -> list[float]:
    return [limit for _, limit in _named(limits)]


def _edges(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = list(values)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, min(MOST_BINS, max(10, round(2 * math.sqrt(len(values))))) + 1)


def _promise_row(what: str, limit: float, promise: Promise) -> list[Cell]:
    reached = promise.achieved <= promise.max_false_reject
    return [
        what,
        (f"{limit:.6g}", "n"),
        (percent(promise.max_false_reject), "n"),
        (percent(promise.achieved), "n" if reached else "n note"),
        (f"{promise.confidence:.6g}", "n"),
        (f"{promise.n_above} of {promise.n_good}", "n"),
    ]


def _check_words(check: PromiseCheck) -> str:
    promised = f"Promised: at most {percent(check.bound)} of good parts have a {check.what.removeprefix('a ')}"
    if check.interval is None:
        return f"{promised}. Not checked: training or calibration saw every good part given."
    seen = (
        f"{check.n_rejected} of {check.n_good} do here ({check.n_rejected / check.n_good:.1%}, exact "
        f"{100 * check.confidence:g}% interval {_interval_words(check.interval)})"
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


def _figure_words(figures: dict[str, Any], name: str) -> str:
    interval = (figures.get("intervals") or {}).get(name)
    return f"{figures[name]:.4f}" + (f" ({interval[0]:.3f} - {interval[1]:.3f})" if interval else "")


def _interval_words(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}"


def _limits_words(limits: Limits) -> str:
    said = [f"fail {limits.fail:.6g}"]
    said += [] if limits.review is None else [f"review {limits.review:.6g}"]
    return ", ".join(said + ([] if limits.pixel is None else [f"pixel {limits.pixel.limit:.6g}"]))


def _version_words(calibration: Calibration) -> str:
    return f"{calibration.version}, set {calibration.created_at} by {calibration.created_by}"


def _version_json(calibration: Calibration) -> dict[str, Any]:
    content = calibration.model_dump(
        mode="json", exclude={"scores", "baseline", "camera", "place", "pictures", "defects"}
    )
    digests = {name: getattr(calibration, name) for name in ("pictures", "defects")}
    return content | {name: {"n": len(of), "fingerprint": fingerprint(of.values())} for name, of in digests.items()}


def _pairs(values: dict[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if value not in (None, "", {})}
    return ", ".join(f"{name} {_plain(value)}" for name, value in plain.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"({_pairs(value)})" if isinstance(value, dict) else str(value)
