"""Simulated anomalies (MAPL §2.1): a mask on the part, filled with foreign texture or structure out of place.

Sample i depends only on the seed, on i and on the pictures given, so a run can be repeated, resumed and split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mapl_edge.arrays import BoolArray, FloatArray, UInt8Array
from mapl_edge.model.fills import (
    altered_light,
    blurred,
    moved_structure,
    plain_colour,
    procedural_texture,
    shuffled_structure,
)
from mapl_edge.model.masks import few_of, foreground, line_mask, perlin_mask, spot_mask

OPACITY = (0.15, 1.0)  # the range of δ in Eq. 1
MIN_PIXELS = 6  # a smaller mask is drawn again; nothing could be learned from it
MIN_CHANGE = 12  # grey levels more than the surface's own grain, mean over the mask: δ is raised to it, as far as 1


@dataclass(frozen=True)
class Simulator:
    """Makes simulated anomalies from normal pictures.

    Attributes:
        seed: with the sample's number it decides everything.
        textures: uint8 (H, W, 3) BGR pictures, of the prepared size or larger; empty: procedural textures.
        donors: other prepared normal pictures, uint8 (H, W, 3), whose structure may appear; empty: the picture's own.
        only_paper: masks from Perlin noise and the paper's two sources alone, every mask as it falls and δ as drawn.
    """

    seed: int
    textures: Sequence[UInt8Array] = ()
    donors: Sequence[UInt8Array] | UInt8Array = ()
    only_paper: bool = False

    def sample(self, picture: UInt8Array, i: int) -> tuple[UInt8Array, UInt8Array]:
        """Simulate anomaly number i on a prepared normal picture.

        Returns:
            The anomalous picture I_A, uint8 (H, W, 3), and its mask M, uint8 (H, W), 0 or 1.
        """
        rng = np.random.default_rng([self.seed, i])
        mask = self._mask(rng, foreground(picture))
        noise = self._texture(rng, picture) if rng.random() < 0.5 else self._structure(rng, picture)  # §3.3
        if bool((picture == picture[:, :, :1]).all()):  # a grey camera sees no colours
            noise = np.repeat(cv2.cvtColor(noise, cv2.COLOR_BGR2GRAY)[:, :, None], 3, axis=2)
        opacity = rng.uniform(*OPACITY)
        if self.only_paper:
            return blend(picture, noise, mask.astype(np.float32), opacity), mask.astype(np.uint8)
        soft = soft_edge(mask, rng.choice((0.0, 0.6, 1.2)))
        changes = soft[mask][:, None] * np.abs(noise[mask].astype(np.float32) - picture[mask])
        seen = float(changes.mean()) if mask.any() else 0.0
        opacity = min(1.0, max(opacity, (MIN_CHANGE + grain(picture)) / max(seen, 1e-3)))
        return blend(picture, noise, soft, opacity), mask.astype(np.uint8)

    def _mask(self, rng: np.random.Generator, part: BoolArray) -> BoolArray:
        mask = part
        for attempt in range(20):
            on = part if attempt < 10 else np.ones_like(part)
            kind = 0.0 if self.only_paper else rng.random()
            if kind < 0.5:
                mask = perlin_mask(rng, part.shape) & on
                if not self.only_paper and rng.random() < 0.6:
                    mask = few_of(rng, mask)
            else:
                mask = (line_mask if kind < 0.75 else spot_mask)(rng, part.shape) & on
            if mask.sum() >= MIN_PIXELS:
                break
        return mask

    def _texture(self, rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
        h, w = picture.shape[:2]
        if not self.only_paper and rng.random() < 0.4:
            return plain_colour(rng, (h, w))
        if not self.textures:
            return procedural_texture(rng, (h, w))
        source = self.textures[int(rng.integers(len(self.textures)))]
        y, x = (int(rng.integers(have - want + 1)) for have, want in zip(source.shape[:2], (h, w), strict=True))
        return source[y : y + h, x : x + w]

    def _structure(self, rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
        kind = 0.0 if self.only_paper else rng.random()
        if kind < 0.25:
            return shuffled_structure(rng, picture)
        if kind < 0.6:
            others = len(self.donors) > 0 and rng.random() < 0.5
            return moved_structure(rng, self.donors[int(rng.integers(len(self.donors)))] if others else picture)
        return altered_light(rng, picture) if kind < 0.9 else blurred(rng, picture)


def blend(picture: UInt8Array, noise: UInt8Array, mask: FloatArray, opacity: float) -> UInt8Array:
    """I_A = M̄ ⊙ I + δ (M ⊙ I_n) + (1 - δ)(M ⊙ I), rounded (Eq. 1 and 2).

    Args:
        picture: I, uint8 (H, W, 3).
        noise: I_n, uint8 (H, W, 3).
        mask: M, float32 (H, W), 0 or 1; between them where the edge is soft: there δ is that much smaller.
        opacity: δ in [0.15, 1].
    """
    weight = np.float32(opacity) * mask[:, :, None]
    mixed = picture + weight * (noise.astype(np.float32) - picture)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def grain(picture: UInt8Array) -> float:
    """How rough a surface is from pixel to pixel: standard deviation in grey levels, from the median deviation."""
    grey = picture[:, :, 1].astype(np.float32)
    return 1.4826 * float(np.median(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2))))


def soft_edge(mask: BoolArray, sigma: float) -> FloatArray:
    """The mask with an edge that fades inwards over about `sigma` pixels, float32 (H, W); 0 outside, as before."""
    hard = mask.astype(np.float32)
    return hard if sigma == 0 else np.asarray(hard * cv2.GaussianBlur(hard, (0, 0), float(sigma)), np.float32)
