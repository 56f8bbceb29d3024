"""Apart: a good part that sets the limit by itself, far above all others; it may be a defect among the good parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapl_edge.calibration import Calibration


@dataclass(frozen=True, slots=True)
class Apart:
    """The part that the limit is the score of, and what all below it have: the next one's score, and their median."""

    name: str
    score: float
    next_score: float
    median: float

    def __str__(self) -> str:
        return (
            f"{self.name} alone sets the limit: its score {self.score:.6g} lies farther above that of the next good "
            f"part, {self.next_score:.6g}, than that one above the median, {self.median:.6g}. Look at it: if it is "
            "no good part, take it out and calibrate again, or defects pass that it hides"
        )


def apart(calibration: Calibration) -> Apart | None:
    """Who sets a limit that was promised from good parts, if nobody else is near; None: somebody is, or who is unknown.

    Gap and range are those of Dixon's ratio (1950), the range from the median on: only the upper tail sets a limit.
    """
    scores, names = np.array(calibration.scores), list(calibration.pictures)
    at = len(scores) - 1 - calibration.promise.n_above
    if calibration.rule != "promise" or len(scores) != len(names) or at < 1:
        return None
    order = np.argsort(scores, kind="stable")
    highest, following, median = scores[order[at]], scores[order[at - 1]], float(np.median(scores))
    if highest != calibration.limits.fail or highest - following <= following - median:
        return None
    return Apart(names[order[at]], float(highest), float(following), median)
