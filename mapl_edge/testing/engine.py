"""FakeEngine: an engine without a model, for tests of everything around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.engine import Reading


class FakeEngine:
    """A `mapl_edge.engine.Engine` that computes its score with a function.

    The map is the score everywhere, the nearest sample is 0.

    Args:
        score: prepared picture, uint8 (H, W, 3) → raw score; default: the mean grey value over 255.

    Attributes:
        calls: how many pictures it read.
        loaded, closed: whether it was.
    """

    name = "fake"

    def __init__(self, score: Callable[[UInt8Array], float] = lambda picture: float(picture.mean()) / 255) -> None:
        self._score = score
        self.calls = 0
        self.loaded = self.closed = False

    def load(self) -> None:
        """See `Engine`."""
        self.loaded = True

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Engine`."""
        self.calls += 1
        score = self._score(picture)
        return Reading(score, np.full(picture.shape[:2], score, np.float32), 0)

    def infer_many(self, pictures: UInt8Array) -> list[Reading]:
        """See `Engine`."""
        return [self.infer(picture) for picture in pictures]

    def close(self) -> None:
        """See `Engine`."""
        self.closed = True
