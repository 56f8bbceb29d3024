"""Interference: what a factory does to a camera's picture, imitated: sensor noise and changes of contrast.

The MAPL paper measures on BHAD, whose pictures were given Gaussian noise and contrast changes to imitate industrial
interference (§3.1); it tells no strengths, so the defaults are ours. `mapl-edge evaluate --interference` measures
under it; training may use it as augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mapl_edge.arrays import UInt8Array


@dataclass(frozen=True, slots=True)
class Interference:
    """Noise and contrast change of camera pictures.

    Both belong to the camera, so they come before `prepare`: a model never sees the noise of single camera pixels where
    the picture is shrunk to its input, because shrinking averages some of it away, as it would on the line.

    Attributes:
        noise_sigma: standard deviation of the noise, in grey levels of 255.
        contrast: the contrast factor of a picture lies between these two, each equally likely; 1 changes nothing.
        seed: other seeds give other noise and other factors.

    Raises:
        ValueError: a field is out of its range.
    """

    noise_sigma: float = 10.0
    contrast: tuple[float, float] = (0.8, 1.2)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise_sigma < math.inf:
            raise ValueError(f"noise_sigma is {self.noise_sigma}; expected 0 or more grey levels")
        low, high = self.contrast
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"contrast is {self.contrast}; expected (low, high), 0 or more, the smaller one first")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")

    def apply(self, image: UInt8Array, i: int) -> UInt8Array:
        """A disturbed copy of camera picture number `i`; it depends on the picture, the seed and `i` alone.

        Contrast changes about the picture's mean grey level. Noise is drawn for each pixel, for each channel its
        own; but once for all three where the picture is grey (B = G = R): a grey camera's noise is grey.

        Args:
            image: uint8 (H, W, 3), BGR.
            i: 0 or more.

        Returns:
            uint8 (H, W, 3), rounded and clipped.
        """
        return self._disturbed(np.random.default_rng([self.seed, i]), image, 1.0)

    def augment(self, rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
        """A copy disturbed by a strength drawn from 0 to this one's, uint8 (H, W, 3); `seed` plays no part."""
        return self._disturbed(rng, picture, rng.random())

    def _disturbed(self, rng: np.random.Generator, image: UInt8Array, strength: float) -> UInt8Array:
        low, high = (1 + strength * (bound - 1) for bound in self.contrast)
        factor, mean = np.float32(rng.uniform(low, high)), np.float32(image.mean())
        is_grey = bool((image == image[:, :, :1]).all())
        noise = rng.standard_normal((*image.shape[:2], 1 if is_grey else 3), dtype=np.float32)
        noise *= np.float32(strength * self.noise_sigma)
        disturbed = (image - mean) * factor + mean + noise  # (H, W, 3) float32
        return np.asarray(np.clip(np.rint(disturbed), 0, 255), np.uint8)
