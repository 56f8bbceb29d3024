"""What a simulated defect shows: I_n of MAPL §2.1, foreign texture or structure of the part out of place."""

from __future__ import annotations

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.model.masks import perlin_noise


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


def plain_colour(rng: np.random.Generator, size_hw: tuple[int, int]) -> UInt8Array:
    """One colour with a little cloud in it: paint, oil, soot, bare metal, a hole. uint8 (H, W, 3)."""
    colour = np.full(3, rng.uniform(0, 255)) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    cloud = perlin_noise(rng, size_hw, (16, 16))[:, :, None] * rng.uniform(0, 25)
    return np.asarray(np.clip(colour + cloud, 0, 255), dtype=np.uint8)


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


def moved_structure(rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
    """A part from elsewhere: turned, up to half larger or smaller, shifted; what lies outside is mirrored."""
    h, w = picture.shape[:2]
    centre, angle = (rng.uniform(0.2, 0.8) * w, rng.uniform(0.2, 0.8) * h), rng.uniform(0, 360)
    move = np.asarray(cv2.getRotationMatrix2D(centre, angle, float(np.exp(rng.uniform(-0.4, 0.4)))), np.float64)
    move[:, 2] += rng.uniform(-0.4, 0.4, 2) * (w, h)
    return np.asarray(cv2.warpAffine(picture, move, (w, h), borderMode=cv2.BORDER_REFLECT), np.uint8)


def blurred(rng: np.random.Generator, picture: UInt8Array) -> UInt8Array:
    """The picture out of focus: wear, smears, missing texture."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(2, 6)), np.uint8)
