"""Where simulated defects lie: Perlin noise against its definition, lines and spots of the stated sizes, the part."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from mapl_edge.model import masks
from mapl_edge.model.masks import (
    LINE_LENGTH,
    LINE_WIDTH,
    SPOT_RADIUS,
    few_of,
    foreground,
    line_mask,
    perlin_mask,
    perlin_noise,
    spot_mask,
)


def test_perlin_noise_is_gradient_noise() -> None:
    """Against the definition: corner gradients times offsets, smoothly weighted, for every pixel."""
    h, w, ny, nx = 12, 16, 3, 2
    noise = perlin_noise(np.random.default_rng(7), (h, w), (ny, nx))
    angle = np.random.default_rng(7).uniform(0, 2 * np.pi, (ny + 1, nx + 1))

    def smooth(t: float) -> float:
        return t * t * t * (t * (6 * t - 15) + 10)

    for row, column in np.ndindex(h, w):
        y, x = (row + 0.5) * ny / h, (column + 0.5) * nx / w
        iy, ix = int(y), int(x)
        total = 0.0
        for dy, dx in np.ndindex(2, 2):
            a = angle[iy + dy, ix + dx]
            weight_y = smooth(y - iy) if dy else 1 - smooth(y - iy)
            weight_x = smooth(x - ix) if dx else 1 - smooth(x - ix)
            total += weight_y * weight_x * (np.sin(a) * (y - iy - dy) + np.cos(a) * (x - ix - dx))
        assert noise[row, column] == pytest.approx(np.sqrt(2) * total, abs=1e-5)


@pytest.mark.parametrize("shape", [perlin_mask, line_mask, spot_mask])
@pytest.mark.parametrize("size_hw", [(96, 64), (256, 256), (160, 416)])
def test_masks_have_the_pictures_shape_and_repeat(shape: Callable[..., np.ndarray], size_hw: tuple[int, int]) -> None:
    """The same seed, the same mask; others differ."""
    found = [shape(np.random.default_rng(seed), size_hw) for seed in range(20)]

    assert all(mask.shape == size_hw and mask.dtype == np.bool_ for mask in found)
    assert np.array_equal(found[3], shape(np.random.default_rng(3), size_hw))
    assert len({mask.tobytes() for mask in found if mask.any()}) > 10


@pytest.mark.parametrize("shape", [line_mask, spot_mask])
def test_lines_and_spots_are_in_the_picture(shape: Callable[..., np.ndarray]) -> None:
    """One that lies outside would be a defect without a pixel; wherever, each part of the picture gets some."""
    everywhere = np.zeros((256, 256), int)
    for seed in range(300):
        mask = shape(np.random.default_rng(seed), (256, 256))
        assert mask.sum() >= 4
        everywhere += mask

    assert everywhere.reshape(4, 64, 4, 64).sum((1, 3)).min() > 100


def test_lines_have_the_stated_lengths_and_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn, measured on a canvas so large that rounding does not count; the canvas is twice the picture."""
    drawn: list[tuple[float, int]] = []

    def line(canvas: Any, start: Any, end: Any, colour: Any, thickness: int, kind: int) -> None:
        drawn.append((float(np.hypot(*np.subtract(end, start))), thickness))

    monkeypatch.setattr(masks.cv2, "line", line)
    lengths, widths = [], []
    for seed in range(200):
        drawn.clear()
        line_mask(np.random.default_rng(seed), (1000, 1600))
        lengths.append(sum(length for length, _ in drawn) / 2000)
        widths += [thickness / 2000 for _, thickness in drawn]

    assert LINE_LENGTH[0] * 0.99 <= min(lengths) < LINE_LENGTH[0] * 1.5
    assert LINE_LENGTH[1] * 0.7 < max(lengths) <= LINE_LENGTH[1] * 1.01
    assert LINE_WIDTH[0] * 0.55 <= min(widths) < LINE_WIDTH[0]
    assert LINE_WIDTH[1] < max(widths) <= LINE_WIDTH[1] * 1.25, "uneven: from 0.6 to 1.2 of the width"


def test_lines_are_as_wide_as_drawn() -> None:
    """Area over length on the mask itself: the smaller canvas keeps what the larger one was told."""
    ratios = []
    for seed in range(100):
        mask = line_mask(np.random.default_rng(seed), (512, 512))
        (_, _), sides, _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
        ratios.append(mask.sum() / max(sides) / 512)

    assert min(ratios) > LINE_WIDTH[0] * 0.4
    assert np.median(ratios) < LINE_WIDTH[1] * 1.5


def test_spots_have_the_stated_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    """One to three; each outline is an uneven ellipse about its radius, flattened to no less than 0.4."""
    outlines: list[np.ndarray] = []
    real = cv2.fillPoly

    def fill(canvas: Any, points: list[np.ndarray], *rest: Any, shift: int) -> Any:
        outlines.append(points[0] / 2**shift)
        return real(canvas, points, *rest, shift=shift)

    monkeypatch.setattr(masks.cv2, "fillPoly", fill)
    counts, longest, areas = [], [], []
    for seed in range(300):
        before = len(outlines)
        mask = spot_mask(np.random.default_rng(seed), (1000, 1600))
        here = outlines[before:]
        counts.append(len(here))
        for outline in here:
            centre = outline.mean(axis=0)
            assert (centre > -30).all()
            assert (centre < (1630, 1030)).all()
            longest.append(np.linalg.norm(outline - centre, axis=1).max() / 1000)
            areas.append(cv2.contourArea(outline.astype(np.float32)) / 1000**2)
        assert mask.sum() <= sum(areas[-len(here) :]) * 1000**2 * 1.1 + 50

    assert set(counts) == {1, 2, 3}
    assert SPOT_RADIUS[0] * 0.9 <= min(longest) < SPOT_RADIUS[0] * 1.5
    assert SPOT_RADIUS[1] * 0.7 < max(longest) <= SPOT_RADIUS[1] * 1.6
    assert min(areas) > 0.4 * 0.5 * np.pi * SPOT_RADIUS[0] ** 2
    assert max(areas) < 1.6 * np.pi * SPOT_RADIUS[1] ** 2


def test_few_of_keeps_whole_regions() -> None:
    """One to three of nine; a lone one stays, and so does nothing."""
    nine = np.zeros((30, 30), np.bool_)
    for y, x in np.ndindex(3, 3):
        nine[10 * y + 2 : 10 * y + 6, 10 * x + 2 : 10 * x + 6] = True
    counts = set()

    for seed in range(40):
        kept = few_of(np.random.default_rng(seed), nine)
        assert not (kept & ~nine).any()
        assert kept.sum() % 16 == 0
        counts.add(int(kept.sum()) // 16)

    assert counts == {1, 2, 3}
    one = nine.copy()
    one[8:] = one[:, 8:] = False
    assert np.array_equal(few_of(np.random.default_rng(0), one), one)
    assert not few_of(np.random.default_rng(0), np.zeros((8, 8), np.bool_)).any()


@pytest.mark.parametrize("dark_part", [False, True], ids=["light on dark", "dark on light"])
def test_foreground_is_found_on_either_ground(dark_part: bool) -> None:
    """Which side is the part is told by the border, not by its brightness; holes belong to the part."""
    picture = np.full((64, 64, 3), 40, np.uint8)
    cv2.circle(picture, (32, 32), 20, (200, 200, 200), -1)
    cv2.circle(picture, (32, 32), 5, (40, 40, 40), -1)
    expected = np.zeros((64, 64), np.uint8)
    cv2.circle(expected, (32, 32), 20, 1, -1)

    found = foreground(255 - picture if dark_part else picture)

    assert np.mean(found != expected.astype(bool)) < 0.03


@pytest.mark.parametrize("spread", [0, 10], ids=["one-grey", "grained"])
def test_a_surface_that_fills_the_view_is_foreground_everywhere(spread: int) -> None:
    """There is no outline to find on a plate or a cloth."""
    surface = np.random.default_rng(0).normal(128, spread, (64, 64, 3)).clip(0, 255).astype(np.uint8)

    assert foreground(surface).all()
