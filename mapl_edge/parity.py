"""Parity: does an engine answer the golden pictures as the reference did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapl_edge.bundle import Golden
from mapl_edge.engine import Engine
from mapl_edge.errors import ParityError

FP32_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest differences over all golden pictures; truthy when both are within the tolerance.

    Attributes:
        score_error: of scores, which have no limit: absolute up to a score of 1, relative to the score above.
        map_error: of map values, which are from 0 to 1: absolute.
    """

    engine: str
    pictures: int
    score_error: float
    map_error: float
    tolerance: float

    def __bool__(self) -> bool:
        return self.score_error <= self.tolerance and self.map_error <= self.tolerance  # False for NaN too

    def __str__(self) -> str:
        return (
            f"{self.engine}: score within {self.score_error:.1e}, map within {self.map_error:.1e} of the reference "
            f"on {self.pictures} golden pictures (tolerance {self.tolerance:.0e})"
        )


def parity(engine: Engine, golden: Golden, tolerance: float = FP32_TOLERANCE) -> Parity:
    """Run the golden pictures through an engine and compare.

    Raises:
        ParityError: the engine gives another shape.
    """
    score_error = map_error = 0.0
    for picture, score, expected in zip(golden.pictures, golden.scores, golden.maps, strict=True):
        reading = engine.infer(picture)
        if reading.map.shape != expected.shape:
            raise ParityError(f"{engine.name}: map has shape {reading.map.shape}, the reference {expected.shape}")
        difference = abs(reading.score - float(score)) / max(1.0, abs(float(score)))
        score_error = float(np.maximum(score_error, difference))
        map_error = float(np.maximum(map_error, np.abs(reading.map - expected).max()))
    return Parity(engine.name, len(golden.pictures), score_error, map_error, tolerance)


def require_parity(engine: Engine, golden: Golden, tolerance: float = FP32_TOLERANCE) -> Parity:
    """Like `parity`, but raise ParityError with the figures unless the engine answers as the reference did."""
    result = parity(engine, golden, tolerance)
    if not result:
        raise ParityError(f"{result}; this engine must not be used: report it with the versions of its libraries")
    return result
