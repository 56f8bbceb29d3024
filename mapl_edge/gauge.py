"""Gauge: what limits look at in a reading. Calibrate sets limits by it, teaching sets them again by the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mapl_edge.calibration import Calibration, Limits, RegionFilter
from mapl_edge.contract import InputContract
from mapl_edge.engine import Reading
from mapl_edge.judge import counted, judge_score
from mapl_edge.masks import InspectedArea
from mapl_edge.placement import placement
from mapl_edge.regions import region_level
from mapl_edge.verdict import Outcome


class Mark(NamedTuple):
    """What limits look at in one part.

    Attributes:
        score: the raw score; with masks, the masked map's.
        level: the lowest of the map's values above which no region survives; None where no pixel limit is set.
    """

    score: float
    level: float | None = None

    def verdict(self, limits: Limits) -> Outcome:
        """PASS, REVIEW or FAIL, ERROR for a score that is no number."""
        has_region = limits.pixel is not None and self.level is not None and self.level > limits.pixel.limit
        return judge_score(self.score, limits, has_region)


@dataclass(frozen=True, slots=True)
class Gauge:
    """Marks readings of one bundle.

    Attributes:
        area: of the camera's masks, if it has any.
        regions: what a region must have, where there is or shall be a pixel limit.
    """

    contract: InputContract
    area: InspectedArea | None = None
    regions: RegionFilter | None = None

    def __call__(self, reading: Reading, picture_hw: tuple[int, int]) -> Mark:
        """Mark a reading of a camera picture of this height and width.

        Raises:
            ContractMismatch: the masks are for pictures of another size.
        """
        if self.area is None and self.regions is None:
            return Mark(reading.score)
        seen, score = counted(reading, self.area, picture_hw)
        if self.regions is None:
            return Mark(score)
        return Mark(score, region_level(seen, self.regions, placement(self.contract, picture_hw)))


class MarkedPart(NamedTuple):
    """A part of a calibration: the SHA-256 of its picture, and its mark."""

    digest: str
    mark: Mark


def good_marks(calibration: Calibration) -> list[Mark]:
    """Of the good parts, in their order; none where calibration.yaml does not hold all that its limits look at."""
    return _marks(calibration.scores, calibration.levels, calibration.limits)


def defect_marks(calibration: Calibration) -> list[Mark]:
    """The same of the defects."""
    return _marks(calibration.defect_scores, calibration.defect_levels, calibration.limits)


def _marks(scores: Sequence[float], levels: Sequence[float], limits: Limits) -> list[Mark]:
    if limits.pixel is None:
        return [Mark(score) for score in scores]
    return list(map(Mark, scores, levels))
