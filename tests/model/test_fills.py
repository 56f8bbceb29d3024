"""What simulated defects show: right shapes, something to see, and what each kind promises."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from mapl_edge.model.fills import (
    altered_light,
    blurred,
    moved_structure,
    plain_colour,
    procedural_texture,
    shuffled_structure,
)
from mapl_edge.testing import SyntheticLine

FROM_SIZE = {"texture": procedural_texture, "colour": plain_colour}
FROM_PICTURE = {"shuffled": shuffled_structure, "light": altered_light, "moved": moved_structure, "blurred": blurred}


@pytest.fixture(scope="module")
def part() -> np.ndarray:
    """A good part on its conveyor, 64x96 px."""
    return cv2.resize(SyntheticLine(seed=4).good(0).image, (96, 64), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("fill", FROM_PICTURE.values(), ids=FROM_PICTURE)
def test_structure_is_of_the_pictures_size_and_another_picture(
    fill: Callable[..., np.ndarray], part: np.ndarray
) -> None:
    """Twelve seeds, twelve pictures; the given one is left as it was."""
    before = part.copy()
    made = [fill(np.random.default_rng(seed), part) for seed in range(12)]

    assert all(m.shape == part.shape and m.dtype == np.uint8 and not np.array_equal(m, part) for m in made)
    assert len({m.tobytes() for m in made}) == 12
    assert np.array_equal(part, before)


@pytest.mark.parametrize("fill", FROM_SIZE.values(), ids=FROM_SIZE)
@pytest.mark.parametrize("size_hw", [(32, 64), (96, 32)])
def test_textures_vary(fill: Callable[..., np.ndarray], size_hw: tuple[int, int]) -> None:
    """Sixteen seeds, sixteen textures of the size asked for."""
    made = [fill(np.random.default_rng(seed), size_hw) for seed in range(16)]

    assert all(m.shape == (*size_hw, 3) and m.dtype == np.uint8 for m in made)
    assert len({m.tobytes() for m in made}) == 16


def test_procedural_textures_have_something_to_see() -> None:
    """More than one colour, in nearly all."""
    made = [procedural_texture(np.random.default_rng(seed), (32, 64)) for seed in range(16)]

    assert sum(m.std() > 5 for m in made) >= 14


def test_plain_colours_are_plain_and_reach_from_black_to_white() -> None:
    """Within one fill hardly more than its cloud; over many all brightnesses, grey ones and coloured ones."""
    made = [plain_colour(np.random.default_rng(seed), (64, 64)) for seed in range(60)]
    means = np.array([m.mean((0, 1)) for m in made])

    assert max(m.std((0, 1)).max() for m in made) < 15
    assert means.min() < 30
    assert means.max() > 225
    assert 15 <= np.sum(np.ptp(means, axis=1) < 3) <= 45, "about half are grey"


def test_shuffled_structure_keeps_the_pixels_and_moves_them(part: np.ndarray) -> None:
    """Structure comes from the part itself; without altered light it is a permutation of its tiles."""
    moved = [shuffled_structure(np.random.default_rng(seed), part) for seed in range(12)]
    permuted = [m for m in moved if np.array_equal(np.sort(m.ravel()), np.sort(part.ravel()))]

    assert len(permuted) >= 2


def test_light_is_altered_by_15_to_80_grey_levels() -> None:
    """Brighter or darker alike, each colour by 0.7 to 1.3 of it; clipped where the picture ends."""
    grey = np.full((8, 8, 3), 128, np.uint8)
    shifts = np.array([altered_light(np.random.default_rng(seed), grey)[0, 0].astype(int) - 128 for seed in range(200)])

    assert (np.abs(shifts) >= 0.7 * 15 - 1).all()
    assert (np.abs(shifts) <= 1.3 * 80 + 1).all()
    assert (np.sign(shifts) == np.sign(shifts[:, :1])).all()
    assert 70 <= np.sum(shifts[:, 0] > 0) <= 130
    assert altered_light(np.random.default_rng(0), np.full((4, 4, 3), 250, np.uint8)).max() <= 255


def test_moved_structure_leaves_no_hole(part: np.ndarray) -> None:
    """What lies outside is mirrored: black wedges would be an easy tell."""
    light = np.maximum(part, 60)

    assert min(moved_structure(np.random.default_rng(seed), light).min() for seed in range(30)) >= 55


def test_blur_takes_detail_and_keeps_the_mean(part: np.ndarray) -> None:
    """Wear has less texture, not another colour."""
    for seed in range(8):
        soft = blurred(np.random.default_rng(seed), part)
        assert cv2.Laplacian(soft, cv2.CV_64F).std() < 0.5 * cv2.Laplacian(part, cv2.CV_64F).std()
        assert abs(soft.mean() - part.mean()) < 3
