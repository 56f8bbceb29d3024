"""Simulated anomalies (MAPL §2.1): a Perlin mask on the part, filled with a foreign texture or shuffled structure.

Sample i depends only on the seed and on i, so a run can be repeated, resumed and split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mapl_edge.arrays import BoolArray, FloatArray, UInt8Array

OPACITY = (0.15, 1.0)  # the range of δ in Eq. 1
PERLIN_SCALES = (1, 2, 4, 8, 16)  # cells along a side: large blobs to small specks
MIN_PIXELS = 12  # a smaller mask is drawn again; nothing could be learned from it


@dataclass(frozen=True)
class Simulator:
    """Makes simulated anomalies from normal pictures.

    Attributes:
        seed: with the sample's number it decides everything.
        textures: uint8 (H, W, 3) BGR pictures, of the prepared size or larger; empty: procedural textures.
    """

    seed: int
    textures: Sequence[UInt8Array] = ()

    def sample(self, picture: UInt8Array, i: int) -> tuple[UInt8Array, UInt8Array]:
        """Simulate anomaly number i on a prepared normal picture.

        Returns:
            The anomalous picture I_A, uint8 (H, W, 3), and its mask M, uint8 (H, W), 0 or 1.
        """
        rng = np.random.default_rng([self.seed, i])
        part = foreground(picture)
        mask = np.zeros(picture.shape[:2], np.bool_)
        for attempt in range(20):
            mask = perlin_mask(rng, picture.shape[:2]) & (part if attempt < 10 else True)
            if rng.random() < 0.5:
                mask = few_of(rng, mask)
            if mask.sum() >= MIN_PIXELS:
                break
        source = rng.random()  # texture and structure with equal probability (§3.3)
        if source < 0.5:
            noise = self._texture(rng, picture)
        else:
            noise = shuffled_structure(rng, picture) if source < 0.75 else altered_light(rng, picture)
        anomalous = blend(picture, noise, mask, opacity=rng.uniform(*OPACITY))
        return anomalous, mask.astype(np.uint8)

    def _texture(self, rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
        h, w = picture.shape[:2]
        if not self.textures:
            return procedural_texture(rng, (h, w))
        source = self.textures[int(rng.integers(len(self.textures)))]
        y, x = (int(rng.integers(have - want + 1)) for have, want in zip(source.shape[:2], (h, w), strict=True))
        return source[y : y + h, x : x + w]


def blend(picture: UInt8Array, noise: UInt8Array, mask: BoolArray, opacity: float) -> UInt8Array:
    """I_A = M̄ ⊙ I + δ (M ⊙ I_n) + (1 - δ)(M ⊙ I), rounded (Eq. 1 and 2).

    Args:
        picture: I, uint8 (H, W, 3).
        noise: I_n, uint8 (H, W, 3).
        mask: M, bool (H, W).
        opacity: δ in [0.15, 1].
    """
    mixed = cv2.addWeighted(noise, opacity, picture, 1 - opacity, 0)
    return np.where(mask[:, :, None], mixed, picture).astype(np.uint8)


def perlin_mask(rng: np.random.Generator, size_hw: tuple[int, int]) -> BoolArray:
    """M_p: two-dimensional Perlin noise of random scale and angle, cut at a threshold. bool (H, W)."""
    h, w = size_hw
    cells = tuple(int(rng.choice(PERLIN_SCALES)) for _ in range(2))
    noise = perlin_noise(rng, size_hw, (cells[0], cells[1]))
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.uniform(-90, 90)), 1.0)
    turned = cv2.warpAffine(noise, turn, (w, h), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned > 0.5, dtype=np.bool_)


def few_of(rng: np.random.Generator, mask: BoolArray) -> BoolArray:
    """One to three of the mask's connected regions: most real defects come alone."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    kept = rng.choice(np.arange(1, count), size=min(int(rng.integers(1, 4)), count - 1), replace=False)
    return np.isin(labels, kept)


def perlin_noise(rng: np.random.Generator, size_hw: tuple[int, int], cells: tuple[int, int]) -> FloatArray:
    """Gradient noise after Perlin (1985), about -1 to 1, float32 (H, W).

    Each lattice corner has a random unit gradient; a pixel's value is the smoothly weighted mean of its four corners'
    gradients times the pixel's offset from them, scaled by √2.
    """
    h, w = size_hw
    ny, nx = cells
    angle = rng.uniform(0, 2 * np.pi, (ny + 1, nx + 1)).astype(np.float32)
    gy, gx = np.sin(angle), np.cos(angle)
    y = (np.arange(h, dtype=np.float32) + 0.5) * (ny / h)
    x = (np.arange(w, dtype=np.float32) + 0.5) * (nx / w)
    iy, ix = y.astype(int), x.astype(int)
    fy, fx = (y - iy)[:, None], (x - ix)[None, :]

    def corner(dy: int, dx: int) -> FloatArray:
        at = np.ix_(iy + dy, ix + dx)
        return np.asarray(gy[at] * (fy - dy) + gx[at] * (fx - dx), dtype=np.float32)

    sy, sx = (t**3 * (t * (6 * t - 15) + 10) for t in (fy, fx))
    top = corner(0, 0) * (1 - sx) + corner(0, 1) * sx
    below = corner(1, 0) * (1 - sx) + corner(1, 1) * sx
    return np.asarray(np.sqrt(2) * (top * (1 - sy) + below * sy), dtype=np.float32)


def foreground(picture: UInt8Array) -> BoolArray:
    """M_I: where the part is, by binarisation (§2.1). bool (H, W).

    Otsu's threshold on the blurred grey picture; the side that the border belongs to is the background, be it darker or
    lighter. A picture that does not split (a surface that fills the view) is foreground everywhere.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (7, 7), 0)
    _, light = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    everywhere = np.ones(grey.shape, np.bool_)
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]) > 0
    share = float(border.mean())
    inside = light > 0
    if 0.2 < share < 0.8:  # the border belongs to neither side
        return everywhere
    part = ~inside if share >= 0.8 else inside
    contrast = abs(float(grey[part].mean()) - float(grey[~part].mean())) if part.any() and not part.all() else 0.0
    if contrast < 20 or not 0.05 < part.mean() < 0.95:
        return everywhere
    # Shadows and holes inside the outline belong to the part: a defect may lie there too.
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(grey.shape, np.uint8)
    cv2.drawContours(filled, list(outlines), -1, (1,), thickness=cv2.FILLED)
    return filled.astype(np.bool_)


def shuffled_structure(rng: np.random.Generator, picture: UInt8Array, cells: int = 8) -> UInt8Array:
    """The picture itself with altered light, cut into cells x cells tiles that are shuffled: foreign structure."""
    h, w = picture.shape[:2]
    altered = altered_light(rng, picture) if rng.random() < 0.5 else picture
    if rng.random() < 0.5:
        altered = altered[:, ::-1]
    if rng.random() < 0.5:
        altered = altered[::-1]
    tiles = altered.reshape(cells, h // cells, cells, w // cells, 3).swapaxes(1, 2).reshape(cells**2, h // cells, -1, 3)
    tiles = tiles[rng.permutation(cells**2)]
    return np.ascontiguousarray(
        tiles.reshape(cells, cells, h // cells, w // cells, 3).swapaxes(1, 2).reshape(h, w, 3), dtype=np.uint8
    )


def altered_light(rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
    """The picture brighter or darker in each colour, by 15 to 80 grey levels: stains, burns, dents that catch light."""
    sign = rng.choice((-1.0, 1.0))
    shift = sign * rng.uniform(15, 80) * rng.uniform(0.7, 1.3, 3)
    return np.asarray(np.clip(picture + shift, 0, 255), dtype=np.uint8)


def procedural_texture(rng: np.random.Generator, size_hw: tuple[int, int]) -> UInt8Array:
    """A texture made of noise: stripes, grain or clouds between two random colours. uint8 (H, W, 3)."""
    h, w = size_hw
    kind = rng.integers(3)
    if kind == 0:  # clouds
        cells = int(rng.choice((4, 8, 16, 32)))
        value = perlin_noise(rng, size_hw, (cells, cells))
    elif kind == 1:  # stripes, bent by noise
        angle, waves = rng.uniform(0, np.pi), rng.uniform(4, 60)
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        along = (x * np.cos(angle) + y * np.sin(angle)) / w
        value = np.sin(2 * np.pi * waves * along + 4 * perlin_noise(rng, size_hw, (4, 4))).astype(np.float32)
    else:  # grain
        coarse = rng.normal(0, 0.6, (h // 2, w // 2)).astype(np.float32)
        value = np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    t = np.clip(value * 0.5 + 0.5, 0, 1)[:, :, None]
    first, second = rng.uniform(0, 255, (2, 3))
    return np.asarray(first * (1 - t) + second * t, dtype=np.float32).astype(np.uint8)
