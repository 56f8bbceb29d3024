"""p-value: how unusual a raw score is among the good parts that a bundle was calibrated with (conformal)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class PValues:
    """Makes a score readable: 0.01 means the same on every part, whatever the model's scores look like.

    The p-value is (1 + number of calibration normals with a score at or above this one) / (n + 1). At most the share α
    of good parts has one of α or less, for any distribution; the least value is 1 / (n + 1).
    """

    def __init__(self, normals: Sequence[float]) -> None:
        """Take the calibration scores of good parts; there are none where they were not kept yet."""
        self._ascending = sorted(normals)

    def __call__(self, score: float) -> float | None:
        """None without calibration scores."""
        n = len(self._ascending)
        return (1 + n - bisect_left(self._ascending, score)) / (n + 1) if n else None
