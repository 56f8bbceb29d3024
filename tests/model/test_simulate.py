"""Eq. 1 and 2 against loops; what every simulated defect promises."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.model import simulate
from mapl_edge.model.masks import foreground
from mapl_edge.model.simulate import MIN_CHANGE, MIN_PIXELS, OPACITY, Simulator, blend, grain, soft_edge
from mapl_edge.testing import SyntheticLine


@pytest.fixture(scope="module")
def part() -> np.ndarray:
    """A good part on its conveyor, 64x96 px."""
    return cv2.resize(SyntheticLine(seed=4).good(0).image, (96, 64), interpolation=cv2.INTER_AREA)


@pytest.fixture
def opacities(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every δ that a simulator blends with."""
    seen: list[float] = []

    def spied(picture: Any, noise: Any, mask: Any, opacity: float) -> Any:
        seen.append(opacity)
        return blend(picture, noise, mask, opacity)

    monkeypatch.setattr(simulate, "blend", spied)
    return seen


@given(st.integers(0, 2**31), st.floats(0.15, 1.0))
@settings(max_examples=20, deadline=None)
def test_blend_is_equations_1_and_2(seed: int, opacity: float) -> None:
    """I_A = M̄ ⊙ I + δ(M ⊙ I_n) + (1 - δ)(M ⊙ I), pixel by pixel, within rounding."""
    rng = np.random.default_rng(seed)
    picture, noise = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mask = (rng.random((4, 5)) < 0.5).astype(np.float32)

    anomalous = blend(picture, noise, mask, opacity)

    for y, x, c in np.ndindex(4, 5, 3):
        m, i, n = float(mask[y, x]), float(picture[y, x, c]), float(noise[y, x, c])
        foreground_noise = opacity * (m * n) + (1 - opacity) * (m * i)  # Eq. 1
        expected = (1 - m) * i + foreground_noise  # Eq. 2
        assert abs(float(anomalous[y, x, c]) - expected) <= 0.5 + 1e-4


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.2])
def test_soft_edges_fade_inwards(sigma: float) -> None:
    """Outside the mask nothing changes, deep inside all is as before, and it never exceeds 1."""
    mask = np.zeros((40, 40), np.bool_)
    mask[10:30, 12:28] = True

    soft = soft_edge(mask, sigma)

    assert soft.dtype == np.float32
    assert not soft[~mask].any()
    assert (soft[mask] > 0.2).all()
    assert soft.max() <= 1 + 1e-6
    assert soft[16:24, 17:23] == pytest.approx(1, abs=1e-3)
    assert (soft[10, 12:28] < 0.9).all() == (sigma > 0)


def test_a_sample_depends_only_on_the_seed_and_its_number(part: np.ndarray) -> None:
    """So that a run can be repeated, resumed and split."""
    first = [Simulator(5).sample(part, i) for i in range(4)]
    again = [Simulator(5).sample(part, i) for i in reversed(range(4))][::-1]

    for (image, mask), (same_image, same_mask) in zip(first, again, strict=True):
        assert np.array_equal(image, same_image)
        assert np.array_equal(mask, same_mask)
    assert not np.array_equal(first[0][0], Simulator(6).sample(part, 0)[0])


@pytest.mark.parametrize("only_paper", [False, True], ids=["varied", "paper"])
def test_nothing_changes_outside_the_mask_and_something_inside(part: np.ndarray, only_paper: bool) -> None:
    """A label that is wrong by a pixel teaches the wrong thing."""
    for i in range(60):
        image, mask = Simulator(0, only_paper=only_paper).sample(part, i)

        assert np.array_equal(image[mask == 0], part[mask == 0])
        assert mask.sum() >= MIN_PIXELS
        assert mask.max() == 1
        assert (image[mask == 1] != part[mask == 1]).any()


@pytest.mark.parametrize("only_paper", [False, True], ids=["varied", "paper"])
def test_defects_lie_on_the_part(part: np.ndarray, only_paper: bool) -> None:
    """A defect on the conveyor teaches the model to reject dust beside the part."""
    on_part = foreground(part)
    simulator = Simulator(1, only_paper=only_paper)

    inside = [not (simulator.sample(part, i)[1].astype(bool) & ~on_part).any() for i in range(60)]

    assert not on_part.all()
    assert all(inside)


@pytest.mark.parametrize(("rough", "at_most"), [(0, 30), (12, 75)], ids=["smooth", "rough"])
def test_a_defect_can_be_seen(part: np.ndarray, opacities: list[float], rough: int, at_most: int) -> None:
    """It changes twelve grey levels more than the surface's grain in the mean, or δ is 1: nobody could learn from less.

    Half a level is left for rounding.
    """
    picture = (part + np.random.default_rng(0).normal(0, rough, part.shape)).clip(0, 255).astype(np.uint8)
    least, faint = MIN_CHANGE + grain(picture) - 0.5, 0
    for i in range(300):
        image, mask = Simulator(0).sample(picture, i)
        change = np.abs(image.astype(float) - picture)[mask == 1].mean()
        assert change >= least or opacities[-1] == 1, i
        faint += change < least

    assert faint < at_most, "of 300"


@pytest.mark.parametrize("sigma", [0, 4, 16])
def test_grain_is_the_deviation_of_the_surface(sigma: int) -> None:
    """About: a smooth ramp has none, noise has nearly its own, and an edge or two do not count."""
    ramp = np.linspace(60, 180, 96) + np.zeros((96, 1))
    ramp[:, 48:50] += 60
    noisy = ramp + np.random.default_rng(0).normal(0, sigma, ramp.shape)
    picture = np.repeat(noisy.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)

    assert grain(picture) == pytest.approx(sigma, abs=0.15 * sigma + 0.8)


@pytest.mark.parametrize("only_paper", [False, True], ids=["varied", "paper"])
def test_opacity_is_from_its_range(part: np.ndarray, opacities: list[float], only_paper: bool) -> None:
    """δ in [0.15, 1], all of it."""
    for i in range(200):
        Simulator(0, only_paper=only_paper).sample(part, i)

    assert OPACITY == (0.15, 1.0)
    assert 0.15 <= min(opacities) < 0.2
    assert 0.95 < max(opacities) <= 1.0


def test_a_grey_camera_sees_no_colours(part: np.ndarray) -> None:
    """On a grey picture colour alone would tell the simulated from the real."""
    grey = cv2.cvtColor(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    textures = [np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)]

    for simulator in (Simulator(0), Simulator(0, textures, [part]), Simulator(0, only_paper=True)):
        for i in range(30):
            image, _ = simulator.sample(grey, i)
            assert (image == image[:, :, :1]).all()


def test_a_colour_camera_sees_colours(part: np.ndarray) -> None:
    """The rule for grey pictures must not catch others."""
    coloured = [Simulator(0).sample(part, i)[0] for i in range(60)]

    assert sum(bool(np.ptp(image.astype(int), axis=2).max() > 40) for image in coloured) > 10


@pytest.mark.parametrize("only_paper", [False, True], ids=["varied", "paper"])
def test_texture_and_structure_come_about_equally_often(
    part: np.ndarray, monkeypatch: pytest.MonkeyPatch, only_paper: bool
) -> None:
    """§3.3; of 400 each within three standard deviations of a half."""
    counts = {"_texture": 0, "_structure": 0}

    def count(name: str) -> Any:
        def made(self: Simulator, rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
            counts[name] += 1
            return 255 - picture

        return made

    for name in counts:
        monkeypatch.setattr(Simulator, name, count(name))
    for i in range(400):
        Simulator(2, only_paper=only_paper).sample(part, i)

    assert sum(counts.values()) == 400
    assert 170 <= counts["_texture"] <= 230


FILLS = ("altered_light", "blurred", "moved_structure", "plain_colour", "procedural_texture", "shuffled_structure")
MASKS = ("few_of", "line_mask", "perlin_mask", "soft_edge", "spot_mask")


def called(part: np.ndarray, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, n: int = 60) -> set[str]:
    """Which masks and fills this simulator uses."""
    names: set[str] = set()
    for name in (*FILLS, *MASKS):
        real = getattr(simulate, name)
        monkeypatch.setattr(
            simulate, name, lambda *arguments, _name=name, _real=real: (names.add(_name), _real(*arguments))[1]
        )
    for i in range(n):
        simulator.sample(part, i)
    return names


def test_the_papers_simulation_is_nothing_but_the_papers(part: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perlin masks as they fall, a texture or the shuffled part (§2.1, §3.3)."""
    names = called(part, Simulator(0, only_paper=True), monkeypatch)

    assert names == {"perlin_mask", "procedural_texture", "shuffled_structure"} | (names & {"altered_light"})


def test_ours_uses_every_kind(part: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never drawn is dead code."""
    assert called(part, Simulator(0), monkeypatch, 150) == {*FILLS, *MASKS}


def test_given_textures_take_the_place_of_procedural_ones(part: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own; cut from anywhere in them."""
    texture = np.full((200, 300, 3), (9, 99, 199), np.uint8)
    names = called(part, Simulator(0, [texture], only_paper=True), monkeypatch)
    shown = [Simulator(0, [texture], only_paper=True)._texture(np.random.default_rng(i), part) for i in range(3)]

    assert "procedural_texture" not in names
    assert all(np.array_equal(cut, texture[:64, :96]) for cut in shown)


def test_structure_may_be_another_parts(part: np.ndarray) -> None:
    """Half of the moved structure is a donor's."""
    donor = np.full_like(part, (0, 0, 255))
    red = [
        np.array_equal(Simulator(0, donors=[donor])._structure(np.random.default_rng(i), part), donor)
        for i in range(200)
    ]

    assert 15 <= sum(red) <= 60


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_grey_can_be_simulated_on(value: int) -> None:
    """No part to find and no structure; still a defect, and no error."""
    flat = np.full((64, 96, 3), value, np.uint8)
    changed = 0
    for i in range(60):
        image, mask = Simulator(0).sample(flat, i)
        assert np.array_equal(image[mask == 0], flat[mask == 0])
        changed += not np.array_equal(image, flat)

    assert changed > 30
