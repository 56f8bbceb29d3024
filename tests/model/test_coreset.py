"""Reductions of a patch memory: the definition, and what nobody wants to meet: twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.model.coreset import cluster_centres, coreset


def slow_greedy(points: np.ndarray, n: int, first: int) -> list[int]:
    """Algorithm 1 word for word: argmax over the rest of the minimum over the chosen."""
    chosen = [first]
    while len(chosen) < n:
        rest = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(float(np.linalg.norm(points[i] - points[c])) for c in chosen)))
    return chosen


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1, 3, 8, 64]))
@settings(max_examples=40, deadline=None)
def test_coreset_is_greedy_k_centre(seed: int, count: int, group: int) -> None:
    """The expanded squares, and groups that are compared late, change nothing."""
    points = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mapl_edge.model.coreset.GROUP", group)
        chosen = coreset(torch.from_numpy(points), count, seed)

    assert chosen.tolist() == slow_greedy(points.astype(float), count, int(chosen[0]))


def test_the_seed_draws_the_first() -> None:
    """The same seed chooses alike; others begin elsewhere."""
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))

    assert torch.equal(coreset(points, 20, 5), coreset(points, 20, 5))
    assert len({int(coreset(points, 1, seed)[0]) for seed in range(8)}) > 4


def test_a_rare_normal_patch_is_kept() -> None:
    """One of a thousand; a random choice of ten would nearly always lose it."""
    points = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    points[617] += 10

    assert 617 in coreset(points, 10, 0)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(torch.full((30, 7), 3.1), id="all-alike"),
        pytest.param(torch.zeros(30, 7), id="zeros"),
        pytest.param(torch.arange(10.0).repeat_interleave(3).view(30, 1).expand(30, 7) * 1e3, id="triplets"),
        pytest.param(torch.randn(30, 7, generator=torch.Generator().manual_seed(0)) * 1e-20, id="tiny"),
    ],
)
@pytest.mark.parametrize("count", [1, 10, 29, 30, 31, 100])
def test_no_patch_is_taken_twice(points: torch.Tensor, count: int) -> None:
    """Where all are equal rounding alone would choose, and might choose the same again."""
    chosen = coreset(points, count, 0).tolist()

    assert len(set(chosen)) == len(chosen) == min(count, 30)
    assert set(chosen) <= set(range(30))


def test_of_triplets_each_kind_comes_first() -> None:
    """Ten different patches before any twin."""
    points = torch.arange(10.0).repeat_interleave(3).view(30, 1)

    assert sorted(i // 3 for i in coreset(points, 10, 0).tolist()) == list(range(10))


def test_cluster_centres_are_real_patches_of_each_cluster() -> None:
    """Four clouds, four centres, one of each; sorted."""
    cloud = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    cloud += torch.arange(4).repeat_interleave(25).view(100, 1) * 10

    chosen = cluster_centres(cloud, 4, 0)

    assert chosen.dtype == torch.int64
    assert [i // 25 for i in chosen.tolist()] == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 7, 30, 50])
@pytest.mark.parametrize("alike", [False, True], ids=["different", "alike"])
def test_cluster_centres_are_each_one_once(count: int, alike: bool) -> None:
    """Two centres may lie next to the same patch, and it is stored once; more than there are cannot be had."""
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))

    chosen = cluster_centres(torch.ones(30, 4) if alike else points, count, 0).tolist()

    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= min(count, 30)
    assert set(chosen) <= set(range(30))


def test_clustering_repeats_by_its_seed() -> None:
    """A run must be repeatable to the last bit."""
    points = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))

    assert torch.equal(cluster_centres(points, 20, 3), cluster_centres(points, 20, 3))
