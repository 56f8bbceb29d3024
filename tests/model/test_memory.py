"""Eq. 7 and 8 against loops written from the paper."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.model.memory import ImageMemory

SHAPES = [(3, 8, 6), (4, 4, 3), (5, 2, 2)]


def pyramids(n: int, seed: int) -> list[torch.Tensor]:
    """Random features, one (n, C, H, W) per level."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((n, *shape), generator=generator) for shape in SHAPES]


def slow_nearest_and_difference(
    x: list[torch.Tensor], memory: list[torch.Tensor], exclude: int = -1
) -> tuple[int, list[np.ndarray]]:
    """For each sample i: DI_i = (MI_i - x)², element by element (Eq. 7); the one with the least sum wins (Eq. 8)."""
    best, best_sum, best_difference = -1, np.inf, []
    for i in range(len(memory[0])):
        if i == exclude:
            continue
        difference, total = [], 0.0
        for level, stored in zip(x, memory, strict=True):
            values = np.zeros(level.shape)
            for position in np.ndindex(*level.shape):
                values[position] = (float(stored[i][position]) - float(level[position])) ** 2
                total += values[position]
            difference.append(values)
        if total < best_sum:
            best, best_sum, best_difference = i, total, difference
    return best, best_difference


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_nearest_sample_and_difference_are_those_of_the_paper(seed: int, samples: int) -> None:
    """The matrix product is only a faster way to the same sample."""
    stored, x = pyramids(samples, seed), pyramids(2, seed + 1)
    memory = ImageMemory(samples, SHAPES)
    memory.fill(stored)

    index = memory.nearest(x)
    difference = memory.difference(x, index)

    for b in range(2):
        expected, slow = slow_nearest_and_difference([level[b] for level in x], stored)
        assert int(index[b]) == expected
        for level, loop in zip(difference, slow, strict=True):
            np.testing.assert_allclose(level[b].numpy(), loop, rtol=1e-5, atol=1e-6)


def test_a_picture_of_the_memory_is_not_compared_with_itself() -> None:
    """Training would otherwise see normals without any difference, which no new part has."""
    stored = pyramids(6, 0)
    memory = ImageMemory(6, SHAPES)
    memory.fill(stored)

    without_self = memory.nearest(stored, exclude=torch.arange(6))

    assert memory.nearest(stored).tolist() == list(range(6))
    for i in range(6):
        assert int(without_self[i]) == slow_nearest_and_difference([level[i] for level in stored], stored, exclude=i)[0]


def test_memory_travels_with_the_weights() -> None:
    """A bank outside the state dict is lost at the first save."""
    memory, other = ImageMemory(4, SHAPES), ImageMemory(4, SHAPES)
    memory.fill(pyramids(4, 5))

    other.load_state_dict(memory.state_dict())

    assert torch.equal(memory.bank, other.bank)
    assert not list(memory.parameters()), "the memory is not trained"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_nearest_holds_at_any_feature_scale(scale: float) -> None:
    """Cancellation in |m|² - 2xm must not change who is nearest."""
    stored = [level * scale for level in pyramids(5, 2)]
    memory = ImageMemory(5, SHAPES)
    memory.fill(stored)

    assert memory.nearest([level * 1.01 for level in stored]).tolist() == [0, 1, 2, 3, 4]
