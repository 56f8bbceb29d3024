"""Parity: does an engine answer the golden pictures as the reference did, and does `prepare` prepare as it did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import Golden
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine
from mapl_edge.engine_record import TOLERANCE
from mapl_edge.errors import ParityError
from mapl_edge.prepare import prepare

FP32_TOLERANCE = TOLERANCE["fp32"]
PATTERN_TOLERANCE = 2  # of 255: other builds of OpenCV round differently, other ways to resize differ by dozens


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


def pattern(contract: InputContract) -> UInt8Array:
    """A camera picture that any other crop, resize or order of colours would show in: stripes, edges and noise.

    uint8 (H, W, 3) BGR, about twice the size of what it is prepared to, or as large as the region of interest needs.
    """
    h, w = (int(2.3 * side) for side in contract.size_hw)
    if contract.roi_xywh is not None:
        left, top, width, height = contract.roi_xywh
        h, w = top + height, left + width
    y, x = np.mgrid[:h, :w]
    stripes = 127 + 120 * np.sin(x / 3.1 + y / 17)
    edges = 255 * ((x // 23 + y // 31) % 2)
    noise = np.random.default_rng(0).integers(0, 256, (h, w))
    return np.stack([stripes, edges, noise], axis=-1).astype(np.uint8)


def require_same_preparation(contract: InputContract, golden: Golden) -> None:
    """Raise ParityError unless `prepare` still makes of the pattern what it made when the bundle was exported."""
    if golden.pattern is None:
        return
    found = prepare(pattern(contract), contract)
    off = int(np.abs(found.astype(int) - golden.pattern).max()) if found.shape == golden.pattern.shape else 255
    if off > PATTERN_TOLERANCE:
        raise ParityError(
            f"pictures are prepared otherwise here than where the bundle was exported (off by {off} of 255, expected "
            f"at most {PATTERN_TOLERANCE}); install the OpenCV that the bundle's manifest names, or export again here"
        )
