"""Ageing of the synthetic line's station: what wears out while parts go by."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot


@dataclass(frozen=True, slots=True)
class Ageing:
    """How much a station wears in a thousand parts, and since when; nothing by default.

    Attributes:
        lamp: 0..1, share of its present brightness that the lamp loses in a thousand parts (0.03: 3 %).
        defocus: pixels by which the lens blurs more after a thousand parts (the deviation of a Gaussian; blurs add as
            variances).
        shift: pixels by which the camera slips in a thousand parts; parts go to the right in the picture.
        start: index of the first part that ages; those before it are as new. It may be negative.

    Raises:
        ValueError: lamp is no share, or defocus is negative.
    """

    lamp: float = 0.0
    defocus: float = 0.0
    shift: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.lamp < 1.0:
            raise ValueError(f"lamp is {self.lamp}; expected a share from 0 to below 1")
        if self.defocus < 0.0:
            raise ValueError(f"defocus is {self.defocus}; expected 0 or more pixels in a thousand parts")

    def light(self, index: int) -> float:
        """Factor on the lamp's brightness at this part."""
        return float((1.0 - self.lamp) ** self._thousands(index))

    def blur_px(self, index: int, own_px: float) -> float:
        """Blur of a lens whose own is `own_px`."""
        return hypot(own_px, self.defocus * self._thousands(index))

    def shift_px(self, index: int) -> float:
        """How far the part lies to the right of where it would."""
        return self.shift * self._thousands(index)

    def _thousands(self, index: int) -> float:
        return max(0, index - self.start) / 1000
