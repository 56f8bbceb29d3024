"""judge: the one place that decides. Evaluate, calibrate's what-if, replay and run use it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mapl_edge.arrays import AnyArray, BoolArray, FloatArray
from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.engine import Reading
from mapl_edge.masks import InspectedArea, map_score
from mapl_edge.placement import placement
from mapl_edge.regions import Region, regions_above
from mapl_edge.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided of one reading, and why.

    Attributes:
        score: the graph's raw score; with masks, the masked map's (`mapl_edge.masks.map_score`).
        regions: those that fail the part; empty without a pixel limit.
        outlines: of the regions on the anomaly map, float64 (N, 2) each, to draw.
        ignored: bool (H, W) of the anomaly map, to draw; None without masks.
    """

    outcome: Outcome
    score: float
    regions: tuple[Region, ...] = ()
    outlines: tuple[AnyArray, ...] = ()
    ignored: BoolArray | None = None


class Judge:
    """Limits and masks, ready to judge readings.

    A part fails whose score lies above the fail limit, or that has a region above the pixel limit that survives the
    filter, where there is one. Between review and fail limit it is REVIEW.
    """

    def __init__(self, limits: Limits, contract: InputContract, area: InspectedArea | None = None) -> None:
        self._limits, self._contract, self._area = limits, contract, area
        self._plain = area is None and limits.pixel is None

    def __call__(self, reading: Reading, picture_hw: tuple[int, int]) -> Judgement:
        """Judge a reading of a camera picture of this height and width.

        Raises:
            ContractMismatch: the masks are for pictures of another size.
        """
        if self._plain:
            return Judgement(judge(reading, self._limits), reading.score)
        seen, score = counted(reading, self._area, picture_hw)
        ignored = None if self._area is None else self._area.ignored
        if self._limits.pixel is None or not math.isfinite(score):
            return Judgement(judge_score(score, self._limits), score, ignored=ignored)
        place = placement(self._contract, picture_hw)
        regions = regions_above(seen, self._limits.pixel, place)
        outcome = judge_score(score, self._limits, has_region=bool(regions))
        outlines = tuple(place.to_prepared(np.array(region.polygon)) for region in regions)
        return Judgement(outcome, score, regions, outlines, ignored)


def counted(reading: Reading, area: InspectedArea | None, picture_hw: tuple[int, int]) -> tuple[FloatArray, float]:
    """What of a reading counts: its map, and its score, which is NaN where the map has a value that is no number.

    Raises:
        ContractMismatch: the masks are for pictures of another size.
    """
    if area is not None:
        area.check(picture_hw)
    if not math.isfinite(float(reading.map.sum(dtype=np.float64))):
        return reading.map, math.nan
    if area is None:
        return reading.map, reading.score
    seen = area.seen(reading.map)
    return seen, map_score(seen)


def judge(reading: Reading, limits: Limits) -> Outcome:
    """By the score alone: FAIL above `limits.fail`, REVIEW above `limits.review`, PASS otherwise.

    A score that is no number is ERROR.
    """
    return judge_score(reading.score, limits)


def judge_score(score: float, limits: Limits, has_region: bool = False) -> Outcome:
    """The same for a stored verdict, of which only the score is left and whether a region failed the part."""
    if not math.isfinite(score):
        return Outcome.ERROR
    if has_region or score > limits.fail:
        return Outcome.FAIL
    if limits.review is not None and score > limits.review:
        return Outcome.REVIEW
    return Outcome.PASS
