"""Where a simulated defect lies: M_p of MAPL §2.1 (Perlin noise), and the shapes of common damage: lines and spots."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi, sin

import cv2
import numpy as np

from mapl_edge.arrays import BoolArray, FloatArray, UInt8Array

PERLIN_SCALES = (1, 2, 4, 8, 16)  # cells along a side: large blobs to small specks
LINE_LENGTH, LINE_WIDTH = (0.06, 0.8), (0.004, 0.02)  # of the shorter side: a hair to a gash
SPOT_RADIUS = (0.006, 0.12)  # of the shorter side: a pinhole to a patch
MIN_CONTRAST = 20  # grey levels between part and background; less is one surface


def perlin_mask(rng: np.random.Generator, size_hw: tuple[int, int]) -> BoolArray:
    """M_p: two-dimensional Perlin noise of random scale and angle, cut at a threshold. bool (H, W)."""
    h, w = size_hw
    cells = tuple(int(rng.choice(PERLIN_SCALES)) for _ in range(2))
    noise = perlin_noise(rng, size_hw, (cells[0], cells[1]))
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.uniform(-90, 90)), 1.0)
    turned = cv2.warpAffine(noise, turn, (w, h), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned > 0.5, dtype=np.bool_)


def line_mask(rng: np.random.Generator, size_hw: tuple[int, int]) -> BoolArray:
    """A scratch, crack or hair: a line that bends as it goes, of uneven width. bool (H, W)."""
    h, w = size_hw
    side, pieces = min(h, w), int(rng.integers(4, 12))
    length, width = (side * _log_uniform(rng, *share) for share in (LINE_LENGTH, LINE_WIDTH))
    angle = rng.uniform(0, 2 * pi) + np.cumsum(rng.normal(0, rng.choice((0.0, 0.05, 0.15, 0.4)), pieces))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (length / pieces)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    points += (rng.uniform(0, w), rng.uniform(0, h)) - points.mean(axis=0)
    canvas = np.zeros((2 * h, 2 * w), np.uint8)  # twice as large: lines thinner than a pixel have their place too
    corners = np.rint(2 * points).astype(int).tolist()
    for start, end in pairwise(corners):
        thickness = max(1, round(2 * width * rng.uniform(0.6, 1.2)))
        cv2.line(canvas, start, end, (255,), thickness, cv2.LINE_AA)
    return np.asarray(cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA) > 110, np.bool_)


def spot_mask(rng: np.random.Generator, size_hw: tuple[int, int]) -> BoolArray:
    """One to three dents, pores, stains or chips: ellipses with an uneven edge. bool (H, W)."""
    h, w = size_hw
    mask = np.zeros(size_hw, np.uint8)
    t = np.linspace(0, 2 * pi, 24, endpoint=False)
    for _ in range(int(rng.integers(1, 4))):
        radius, ratio = min(h, w) * _log_uniform(rng, *SPOT_RADIUS), rng.uniform(0.4, 1)
        edge = 1 + sum(
            amount * rng.random() * np.sin(waves * t + rng.uniform(0, 2 * pi))
            for waves, amount in ((2, 0.25), (3, 0.2), (7, 0.1))
        )
        x, y, turn = radius * edge * np.cos(t), ratio * radius * edge * np.sin(t), rng.uniform(0, pi)
        outline = np.stack([x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)], axis=1)
        outline += (rng.uniform(0, w), rng.uniform(0, h))
        cv2.fillPoly(mask, [np.rint(8 * outline).astype(np.int32)], (1,), shift=3)  # in eighths of a pixel
    return mask > 0


def few_of(rng: np.random.Generator, mask: BoolArray) -> BoolArray:
    """One to three of the mask's connected regions: most real defects come alone."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    kept = rng.choice(np.arange(1, count), size=min(int(rng.integers(1, 4)), count - 1), replace=False)
    return np.isin(labels, kept)


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
    if contrast < MIN_CONTRAST or not 0.05 < part.mean() < 0.95:
        return everywhere
    # Shadows and holes inside the outline belong to the part: a defect may lie there too.
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(grey.shape, np.uint8)
    cv2.drawContours(filled, list(outlines), -1, (1,), thickness=cv2.FILLED)
    return filled.astype(np.bool_)


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


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
