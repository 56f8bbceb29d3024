"""Labelled parts and what was said of them: curves, recall of each kind of defect, promises kept or broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mapl_edge.arrays import BoolArray, Float64Array
from mapl_edge.bootstrap import Interval, image_intervals
from mapl_edge.calibrate.evaluate import Evaluation
from mapl_edge.calibrate.limits import lower_bound, upper_bound
from mapl_edge.calibration import Calibration, Promise
from mapl_edge.dataset import GOOD, Sample
from mapl_edge.metrics import auroc, average_precision, f1_max
from mapl_edge.verdict import Outcome

CONFIDENCE = 0.95  # of shares, where no promise says another one

State = Literal["kept", "undecided", "broken", "not checked"]
"""Kept: no more rejects than promised. Broken: more, and by more than chance explains. Undecided: more, but not so."""


@dataclass(frozen=True, slots=True)
class Part:
    """One labelled part.

    Attributes:
        label: "good" or the defect's name.
        outcome: None while there are no limits.
        has_region: whether regions alone fail it.
        sha256: of the picture's file; empty where there is none.
        seen_by: "training", "calibration" or "": the model or the limits know this picture already.
    """

    name: str
    label: str
    score: float
    outcome: Outcome | None
    has_region: bool = False
    sha256: str = ""
    seen_by: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the part is good."""
        return self.label == GOOD


@dataclass(frozen=True, slots=True)
class KindRow:
    """What became of the parts of one label: found (not PASS) `n_found` of `n`, with the exact 95 % interval."""

    label: str
    n: int
    verdicts: dict[str, int]
    n_found: int
    interval: Interval


@dataclass(frozen=True, slots=True)
class PromiseCheck:
    """One promise of the calibration against good parts that neither training nor calibration saw.

    Attributes:
        what: which parts it is about.
        bound: at most this share of good parts, it says.
        n_rejected, n_good: seen here.
        interval: exact (Clopper and Pearson), both sides, at the promise's confidence.
    """

    what: str
    limit: float
    bound: float
    confidence: float
    n_rejected: int
    n_good: int
    interval: Interval | None
    state: State


@dataclass(frozen=True)
class Labelled:
    """Labelled parts, and the figures that `evaluate --json` gives for them."""

    parts: tuple[Part, ...]
    figures: dict[str, Any]

    @property
    def positive(self) -> BoolArray:
        """Which parts are defective, bool (N,)."""
        return np.array([not part.is_good for part in self.parts], np.bool_)

    @property
    def scores(self) -> Float64Array:
        """Raw scores, (N,)."""
        return np.array([part.score for part in self.parts], np.float64)

    @property
    def false_rejects(self) -> tuple[Part, ...]:
        """Good parts that do not PASS, highest score first; without limits all good parts."""
        found = [part for part in self.parts if part.is_good and part.outcome is not Outcome.PASS]
        return tuple(sorted(found, key=lambda part: -part.score))

    @property
    def misses(self) -> tuple[Part, ...]:
        """Defects that PASS, lowest score first; without limits all defects."""
        found = [part for part in self.parts if not part.is_good and part.outcome in (None, Outcome.PASS)]
        return tuple(sorted(found, key=lambda part: part.score))

    @property
    def found(self) -> tuple[Part, ...]:
        """Defects that do not PASS, highest score first."""
        found = [part for part in self.parts if not part.is_good and part.outcome not in (None, Outcome.PASS)]
        return tuple(sorted(found, key=lambda part: -part.score))

    def kinds(self) -> list[KindRow]:
        """One row a label, good parts first."""
        rows = []
        for label in sorted({part.label for part in self.parts}, key=lambda label: (label != GOOD, label)):
            outcomes = [part.outcome for part in self.parts if part.label == label]
            n, n_found = len(outcomes), sum(outcome not in (None, Outcome.PASS) for outcome in outcomes)
            verdicts = {each.value: outcomes.count(each) for each in Outcome}
            rows.append(KindRow(label, n, verdicts, n_found, exact_interval(n_found, n, CONFIDENCE)))
        return rows

    def checks(self, calibration: Calibration) -> list[PromiseCheck]:
        """Each promise against the good parts that are new to model and limits."""
        fresh = [part for part in self.parts if part.is_good and not part.seen_by]
        limits, found = calibration.limits, []
        above_fail = sum(part.score > limits.fail for part in fresh)
        found.append(_check("score above the fail limit", limits.fail, calibration.promise, above_fail, len(fresh)))
        if limits.review is not None and calibration.review_promise is not None:
            above = sum(part.score > limits.review for part in fresh)
            review = calibration.review_promise
            found.append(_check("score above the review limit", limits.review, review, above, len(fresh)))
        if limits.pixel is not None and calibration.pixel_promise is not None:
            n, pixel = sum(part.has_region for part in fresh), calibration.pixel_promise
            found.append(_check("a region above the pixel limit", limits.pixel.limit, pixel, n, len(fresh)))
        return found

    def as_json(self, calibration: Calibration | None) -> dict[str, Any]:
        """Plain values: the figures of `evaluate --json`, then promises, kinds and pictures."""
        pictures = [{**asdict(part), "outcome": part.outcome and part.outcome.value} for part in self.parts]
        return {
            **self.figures,
            "n_false_rejects": len(self.false_rejects) if calibration else None,
            "n_missed": len(self.misses) if calibration else None,
            "promises": [asdict(check) for check in self.checks(calibration)] if calibration else [],
            "kinds": [asdict(row) for row in self.kinds()],
            "pictures": pictures,
        }


def labelled_from_evaluation(
    evaluation: Evaluation, digests: Mapping[Sample, str], trained_on: Sequence[str], calibrated_on: Sequence[str]
) -> Labelled:
    """Name each part with its picture's SHA-256, and say whether the model or the limits know it already."""
    seen = dict.fromkeys(calibrated_on, "calibration") | dict.fromkeys(trained_on, "training")
    parts = []
    for each in evaluation.pictures:
        digest = digests.get(each.sample, "")
        what = each.sample.name, each.sample.label, each.score, each.outcome, each.has_region
        parts.append(Part(*what, digest, seen.get(digest, "")))
    figures = evaluation.as_json()
    del figures["pictures"]
    return Labelled(tuple(parts), figures)


def labelled_from_parts(parts: Sequence[Part]) -> Labelled:
    """Of parts whose anomaly maps nobody compared with masks: metrics of the score alone."""
    positive, scores = np.array([not part.is_good for part in parts]), np.array([part.score for part in parts])
    figures = {
        "image_auroc": auroc(positive, scores),
        "image_ap": average_precision(positive, scores),
        "image_f1_max": f1_max(positive, scores),
    }
    return Labelled(
        tuple(parts),
        {
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
            "intervals": {name: list(found) for name, found in image_intervals(positive, scores).items()},
            "n_good": int((~positive).sum()),
            "n_bad": int(positive.sum()),
        },
    )


def exact_interval(events: int, n: int, confidence: float) -> Interval:
    """Clopper and Pearson, both sides, of a share of which `events` in `n` were seen; n at least 1."""
    side = (1 + confidence) / 2
    return lower_bound(events, n, side), upper_bound(events, n, side)


def _check(what: str, limit: float, promise: Promise, n_rejected: int, n: int) -> PromiseCheck:
    bound, confidence = promise.achieved, promise.confidence
    if n == 0:
        return PromiseCheck(what, limit, bound, confidence, 0, 0, None, "not checked")
    state: State = "kept"
    if n_rejected / n > bound:
        state = "broken" if lower_bound(n_rejected, n, confidence) > bound else "undecided"
    interval = exact_interval(n_rejected, n, confidence)
    return PromiseCheck(what, limit, bound, confidence, n_rejected, n, interval, state)
