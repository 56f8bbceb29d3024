"""Eq. 1 and 2 against loops; the masks, textures and their promises."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.model.simulate import (
    MIN_PIXELS,
    Simulator,
    blend,
    foreground,
    perlin_noise,
    procedural_texture,
    shuffled_structure,
)
from mapl_edge.testing import SyntheticLine


@pytest.fixture(scope="module")
def part() -> np.ndarray:
    """A good part on its conveyor, 64x96 px."""
    return cv2.resize(SyntheticLine(seed=4).good(0).image, (96, 64), interpolation=cv2.INTER_AREA)


@given(st.integers(0, 2**31), st.floats(0.15, 1.0))
@settings(max_examples=20, deadline=None)
def test_blend_is_equations_1_and_2(seed: int, opacity: float) -> None:
    """I_A = M̄ ⊙ I + δ(M ⊙ I_n) + (1 - δ)(M ⊙ I), pixel by pixel, within rounding."""
    rng = np.random.default_rng(seed)
    picture, noise = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mask = rng.random((4, 5)) < 0.5

    anomalous = blend(picture, noise, mask, opacity)

    for y, x, c in np.ndindex(4, 5, 3):
        m, i, n = float(mask[y, x]), float(picture[y, x, c]), float(noise[y, x, c])
        foreground_noise = opacity * (m * n) + (1 - opacity) * (m * i)  # Eq. 1
        expected = (1 - m) * i + foreground_noise  # Eq. 2
        assert abs(float(anomalous[y, x, c]) - expected) <= 0.5 + 1e-4


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


def test_a_sample_depends_only_on_the_seed_and_its_number(part: np.ndarray) -> None:
    """So that a run can be repeated, resumed and split."""
    first = [Simulator(5).sample(part, i) for i in range(4)]
    again = [Simulator(5).sample(part, i) for i in reversed(range(4))][::-1]

    for (image, mask), (same_image, same_mask) in zip(first, again, strict=True):
        assert np.array_equal(image, same_image)
        assert np.array_equal(mask, same_mask)
    assert not np.array_equal(first[0][0], Simulator(6).sample(part, 0)[0])


def test_nothing_changes_outside_the_mask_and_something_inside(part: np.ndarray) -> None:
    """A label that is wrong by a pixel teaches the wrong thing."""
    for i in range(30):
        image, mask = Simulator(0).sample(part, i)

        assert np.array_equal(image[mask == 0], part[mask == 0])
        assert mask.sum() >= MIN_PIXELS
        assert (image[mask == 1] != part[mask == 1]).any()


def test_defects_lie_on_the_part(part: np.ndarray) -> None:
    """A defect on the conveyor teaches the model to reject dust beside the part."""
    on_part = foreground(part)

    inside = [not (Simulator(1).sample(part, i)[1].astype(bool) & ~on_part).any() for i in range(30)]

    assert all(inside)


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


def test_a_surface_that_fills_the_view_is_foreground_everywhere() -> None:
    """There is no outline to find on a plate or a cloth."""
    surface = np.random.default_rng(0).normal(128, 10, (64, 64, 3)).clip(0, 255).astype(np.uint8)

    assert foreground(surface).all()


def test_shuffled_structure_keeps_the_pixels_and_moves_them(part: np.ndarray) -> None:
    """Structure comes from the part itself; without altered light it is a permutation of its tiles."""
    moved = [shuffled_structure(np.random.default_rng(s), part) for s in range(12)]
    permuted = [m for m in moved if np.array_equal(np.sort(m.ravel()), np.sort(part.ravel()))]

    assert len(permuted) >= 2
    assert all(m.shape == part.shape and not np.array_equal(m, part) for m in moved)


def test_procedural_textures_vary() -> None:
    """Sixteen seeds, sixteen textures with something to see."""
    textures = [procedural_texture(np.random.default_rng(s), (32, 64)) for s in range(16)]

    assert all(t.shape == (32, 64, 3) and t.dtype == np.uint8 for t in textures)
    assert len({t.tobytes() for t in textures}) == 16
    assert sum(t.std() > 5 for t in textures) >= 14
