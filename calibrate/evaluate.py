"""Evaluate: how well does a model tell labelled good parts from defective ones?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.bootstrap import CONFIDENCE, Interval, image_intervals, pixel_intervals
from mapl_edge.calibrate.limits import lower_bound
from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample
from mapl_edge.engine import Reading
from mapl_edge.errors import BackendError
from mapl_edge.interference import Interference
from mapl_edge.judge import Judge
from mapl_edge.masks import InspectedArea
from mapl_edge.metrics import aupro, auroc, average_precision, f1_max
from mapl_edge.prepare import prepared_mask
from mapl_edge.verdict import Outcome

FIGURES = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")


@dataclass(frozen=True, slots=True)
class ScoredPicture:
    """One picture's result; `outcome` is None while there are no limits.

    Attributes:
        has_region: whether regions alone fail the part.
    """

    sample: Sample
    score: float
    outcome: Outcome | None
    has_region: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics over a labelled set. Pixel metrics are NaN where no defect has a mask.

    Pixel metrics compare the model's map with the mask, cropped to the region of interest and resized (nearest);
    defects without a mask are left out of them.

    Attributes:
        intervals: 95 % bootstrap interval of each metric that is a number (`mapl_edge.bootstrap`).
        interference: what the pictures were disturbed with; None: nothing.
    """

    image_auroc: float
    image_ap: float
    image_f1_max: float
    pixel_auroc: float
    pixel_ap: float
    aupro: float
    intervals: dict[str, Interval]
    n_good: int
    n_bad: int
    n_skipped: int
    interference: Interference | None
    pictures: tuple[ScoredPicture, ...]

    @property
    def n_false_rejects(self) -> int:
        """Good parts that do not PASS; 0 while there are no limits."""
        return sum(p.sample.is_good and p.outcome not in (None, Outcome.PASS) for p in self.pictures)

    @property
    def n_missed(self) -> int:
        """Defective parts that PASS."""
        return sum(not p.sample.is_good and p.outcome is Outcome.PASS for p in self.pictures)

    @property
    def image_auroc_at_least(self) -> float | None:
        """One-sided 95 % bound on image_auroc where it is 1, of which bootstrap knows no other value; else None.

        As many pairs of a good and a defective part as there are parts of the rarer kind share no part, so they are
        independent, and each is in the right order with a probability of AUROC at most. None is in the wrong one.
        """
        good, bad = ([p.score for p in self.pictures if p.sample.is_good is kind] for kind in (True, False))
        pairs = min(len(good), len(bad))
        return lower_bound(pairs, pairs, CONFIDENCE) if pairs and max(good) < min(bad) else None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`; NaN becomes null."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
            "intervals": {name: list(self.intervals[name]) if name in self.intervals else None for name in FIGURES},
            "image_auroc_at_least": self.image_auroc_at_least,
            "n_good": self.n_good,
            "n_bad": self.n_bad,
            "n_skipped": self.n_skipped,
            "interference": asdict(self.interference) if self.interference else None,
            "pictures": [
                {
                    "picture": p.sample.name,
                    "label": p.sample.label,
                    "score": p.score,
                    "verdict": p.outcome and p.outcome.value,
                }
                for p in self.pictures
            ],
        }


def evaluate(
    samples: Sequence[Sample],
    look: Callable[[UInt8Array], Reading],
    contract: InputContract,
    limits: Limits | None = None,
    bad: BadPictures | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    interference: Interference | None = None,
    area: InspectedArea | None = None,
) -> Evaluation:
    """Score labelled pictures and measure.

    Args:
        samples: good and defective.
        look: camera picture, uint8 (H, W, 3) BGR → reading.
        contract: the model's; masks are cropped and resized as it says.
        limits: to say verdicts too; None: scores only.
        bad: what to do with unusable pictures.
        progress: called as progress(what, done, total).
        interference: to disturb each camera picture with, by its place in `samples`.
        area: masks; with limits, the scores are those that they judge.
    """
    bad = bad or BadPictures()
    judge = None if limits is None else Judge(limits, contract, area)
    results: list[ScoredPicture] = []
    drawn: list[bool] = []
    masks: list[UInt8Array] = []
    maps: list[FloatArray] = []
    place = {sample: i for i, sample in enumerate(samples)}  # a skipped picture must not change the others' noise
    for done, (sample, image) in enumerate(bad.read(samples), start=1):
        reading = look(interference.apply(image, place[sample]) if interference else image)
        if not math.isfinite(reading.score):
            raise BackendError(f"{sample.path}: the model gave a score of {reading.score}; train or export again")
        judged = judge(reading, image.shape[:2]) if judge else None
        score, outcome = (judged.score, judged.outcome) if judged else (reading.score, None)
        results.append(ScoredPicture(sample, score, outcome, bool(judged and judged.regions)))
        mask = prepared_mask(sample, contract, image.shape[:2])
        if mask is not None:
            drawn.append(not sample.is_good)
            masks.append(mask)
            maps.append(reading.map)
        progress("evaluating", done, len(samples))
    positive = np.array([not r.sample.is_good for r in results])
    scores = np.array([r.score for r in results])
    has_masks = any(mask.any() for mask in masks)
    pixels, values = (np.stack(masks) > 0, np.stack(maps)) if has_masks else (positive[:0], scores[:0])
    nan = float("nan")
    return Evaluation(
        image_auroc=auroc(positive, scores),
        image_ap=average_precision(positive, scores),
        image_f1_max=f1_max(positive, scores),
        pixel_auroc=auroc(pixels, values) if has_masks else nan,
        pixel_ap=average_precision(pixels, values) if has_masks else nan,
        aupro=aupro(masks, maps) if has_masks else nan,
        intervals=image_intervals(positive, scores) | (pixel_intervals(drawn, masks, maps) if has_masks else {}),
        n_good=int((~positive).sum()),
        n_bad=int(positive.sum()),
        n_skipped=len(bad.errors),
        interference=interference,
        pictures=tuple(results),
    )
