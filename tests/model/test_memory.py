"""Both memories against loops written from the paper, the patch search also against FAISS."""

from typing import Literal

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mapl_edge.model.memory import ImageMemory, Memory, PatchMemory, descriptors

SHAPES = [(3, 8, 6), (4, 4, 3), (5, 2, 2)]
CHANNELS = (3, 4, 5)


def pyramids(n: int, seed: int) -> list[Tensor]:
    """Random features, one (n, C, H, W) per level; sizes that no picture has."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((n, *shape), generator=generator) for shape in SHAPES]


def features(n: int, seed: int, hw: tuple[int, int] = (3, 2)) -> list[Tensor]:
    """Features of n pictures of 16·h x 16·w px: every cell of one of stride 16 has its own value at all levels."""
    generator = torch.Generator().manual_seed(seed)
    h, w = hw
    return [
        torch.rand((n, c, h * factor, w * factor), generator=generator)
        for c, factor in zip(CHANNELS, (4, 2, 1), strict=True)
    ]


def patch_memory(stored: list[Tensor], patches: int = 0, **settings: float) -> PatchMemory:
    """A memory that holds all patches of these pictures, or so many."""
    n, _, h, w = stored[1].shape
    memory = PatchMemory(patches or n * h * w, CHANNELS, **settings)  # type: ignore[arg-type]
    memory.fill(stored, torch.arange(n))
    return memory


def slow_nearest_and_difference(
    x: list[Tensor], memory: list[Tensor], exclude: int = -1
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


def slow_descriptors(levels: list[Tensor]) -> np.ndarray:
    """Each level averaged over 3x3 cells, zeros outside; then brought to stride 8, coarse by bilinear interpolation."""
    averaged = []
    for level in levels:
        values = level.numpy().astype(float)
        out = np.zeros_like(values)
        for b, c, y, x in np.ndindex(*values.shape):
            for dy, dx in np.ndindex(3, 3):
                at = y + dy - 1, x + dx - 1
                if 0 <= at[0] < values.shape[2] and 0 <= at[1] < values.shape[3]:
                    out[b, c, y, x] += values[b, c, at[0], at[1]] / 9
        averaged.append(out)
    fine, middle, coarse = averaged
    b, _, h, w = middle.shape
    joined = np.zeros((b, sum(CHANNELS), h, w))
    for i, y, x in np.ndindex(b, h, w):
        four = fine[i, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(axis=(1, 2))
        sy, sx = max((y + 0.5) / 2 - 0.5, 0), max((x + 0.5) / 2 - 0.5, 0)
        y0, x0 = int(sy), int(sx)
        y1, x1 = min(y0 + 1, coarse.shape[2] - 1), min(x0 + 1, coarse.shape[3] - 1)
        top = coarse[i, :, y0, x0] * (1 - sx + x0) + coarse[i, :, y0, x1] * (sx - x0)
        below = coarse[i, :, y1, x0] * (1 - sx + x0) + coarse[i, :, y1, x1] * (sx - x0)
        joined[i, :, y, x] = np.concatenate([four, middle[i, :, y, x], top * (1 - sy + y0) + below * (sy - y0)])
    return joined


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_nearest_sample_and_difference_are_those_of_the_paper(seed: int, samples: int) -> None:
    """The matrix product is only a faster way to the same sample."""
    stored, x = features(samples, seed), features(2, seed + 1)
    memory = ImageMemory(samples, [level.shape[1:] for level in stored])
    memory.fill(stored, torch.arange(samples))

    match = memory.match(x)

    for b in range(2):
        expected, slow = slow_nearest_and_difference([level[b] for level in x], stored)
        assert (match.sources[b] == expected).all()
        for level, values, loop in zip(x, match.values, slow, strict=True):
            np.testing.assert_allclose((values[b] - level[b]).square().numpy(), loop, rtol=1e-5, atol=1e-6)
        between = slow_descriptors(x)[b] - slow_descriptors([level[expected : expected + 1] for level in stored])[0]
        np.testing.assert_allclose(match.distance[b, 0].numpy(), np.linalg.norm(between, axis=0), rtol=1e-4, atol=1e-5)


def test_a_picture_of_the_memory_is_not_compared_with_itself() -> None:
    """Training would otherwise see normals without any difference, which no new part has."""
    stored = features(6, 0)
    memory = ImageMemory(6, [level.shape[1:] for level in stored])
    memory.fill(stored, torch.arange(10, 16))

    without_self = memory.match(stored, exclude=torch.arange(10, 16)).sources[:, 0, 0] - 10

    assert memory.match(stored, exclude=torch.full((6,), -1)).sources[:, 0, 0].tolist() == list(range(10, 16))
    for i in range(6):
        assert int(without_self[i]) == slow_nearest_and_difference([level[i] for level in stored], stored, exclude=i)[0]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_nearest_holds_at_any_feature_scale(scale: float) -> None:
    """Cancellation in |m|² - 2xm must not change who is nearest."""
    stored = [level * scale for level in pyramids(5, 2)]
    memory = ImageMemory(5, SHAPES)
    memory.fill(stored, torch.arange(5))

    assert memory.nearest(memory.queries([level * 1.01 for level in stored]))[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scope", ["image", "patch"])
def test_memory_travels_with_the_weights(scope: str) -> None:
    """What is outside the state dict is lost at the first save: a copy must answer alike, to the last bit."""
    stored, x = features(4, 5), features(2, 6)

    def empty() -> Memory:
        if scope == "patch":
            return PatchMemory(30, CHANNELS, position_weight=0.5)
        return ImageMemory(4, [level.shape[1:] for level in stored])

    memory, other = empty(), empty()
    memory.fill(stored, torch.arange(4))
    other.load_state_dict(memory.state_dict())
    match, same = memory.match(x), other.match(x)

    assert not list(memory.parameters()), "the memory is not trained"
    assert torch.equal(match.distance, same.distance)
    assert torch.equal(match.sources, same.sources)
    assert all(torch.equal(a, b) for a, b in zip(match.values, same.values, strict=True))


@pytest.mark.parametrize("scope", ["image", "patch"])
@pytest.mark.parametrize("batch", [1, 3])
def test_another_may_do_the_search(scope: str, batch: int) -> None:
    """Queries, the nearest of the vectors by plain distance, and what is there: `match`, to the last bit."""
    stored, x = features(6, 5), features(batch, 6)
    memory: Memory = ImageMemory(6, [level.shape[1:] for level in stored])
    if scope == "patch":
        memory = PatchMemory(60, CHANNELS, position_weight=0.5)
    memory.fill(stored, torch.arange(6))
    queries, vectors = memory.queries(x), memory.vectors()

    index = (queries.double().unsqueeze(2) - vectors.double()).square().sum(3).argmin(2)  # (B, Q)
    match, found = memory.match(x), memory.at(x, index)

    assert queries.shape == (batch, 24 if scope == "patch" else 1, vectors.shape[1])
    assert len(vectors) == memory.size
    assert torch.equal(memory.nearest(queries), index)
    assert torch.equal(match.distance, found.distance)
    assert torch.equal(match.sources, found.sources)
    assert all(torch.equal(a, b) for a, b in zip(match.values, found.values, strict=True))


def test_descriptors_are_averages_of_three_by_three() -> None:
    """Against a loop, zeros beyond the border, all levels at stride 8."""
    levels = features(2, 3)

    np.testing.assert_allclose(descriptors(levels).numpy(), slow_descriptors(levels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position_weight", [0.0, 0.5])
@pytest.mark.parametrize("patches", [1, 63, 64, 80, 200])
def test_patch_search_is_that_of_faiss(position_weight: float, patches: int) -> None:
    """IndexFlatL2 on the same codes finds the same patch, its picture and its distance, whatever fills a last block."""
    stored, x = features(12, 0), features(3, 1)
    memory = patch_memory(stored, patches, position_weight=position_weight)
    described = memory._described(x)
    index = faiss.IndexFlatL2(memory.codes.shape[0])
    index.add(np.ascontiguousarray(memory.vectors()))

    match = memory.match(x)

    _, nearest = index.search(memory.queries(x).flatten(0, 1).numpy(), 1)
    between = described - memory.descriptors[nearest[:, 0]]
    assert match.sources.flatten().tolist() == memory.source[nearest[:, 0]].tolist()
    expected = between.norm(dim=1) / memory.spread[nearest[:, 0]].sqrt()
    np.testing.assert_allclose(match.distance.flatten().numpy(), expected.numpy(), rtol=1e-5)
    assert len(set(nearest[:, 0].tolist())) > min(10, patches // 2), "otherwise the test says little"


def test_where_all_components_are_kept_the_patch_is_nearest_up_to_rounding() -> None:
    """With twelve features there are twelve components; a code is at most half a step off in each, twice over."""
    stored, x = features(5, 2), features(1, 3)
    memory = patch_memory(stored)
    patches, places = (slow_descriptors(levels).transpose(0, 2, 3, 1).reshape(-1, 12) for levels in (stored, x))
    step = 1 / float(memory.basis.norm(dim=0)[0])
    memory.spread.fill_(1)
    off = []

    match = memory.match(x)

    for place, distance in zip(places, match.distance.flatten(), strict=True):
        least = min(float(np.linalg.norm(place - patch)) for patch in patches)
        off.append(float(distance) - least)
        assert -1e-5 < off[-1] <= 2 * np.sqrt(12) * step
    assert float(np.mean(off)) < 0.1 * step, "hardly ever another patch than the nearest"


def test_spread_is_the_mean_distance_to_the_five_nearest() -> None:
    """By scikit-learn; of a lone patch, and of one that is there several times, a step."""
    from sklearn.neighbors import NearestNeighbors

    stored = features(12, 0)
    memory, lone, copies = patch_memory(stored, 80), patch_memory(stored, 1), PatchMemory(7, CHANNELS)
    copies.fill([torch.zeros_like(level[:1]) for level in stored], torch.zeros(1, dtype=torch.int64))

    distances, _ = NearestNeighbors(n_neighbors=6).fit(memory.vectors()).kneighbors(memory.vectors())

    np.testing.assert_allclose(memory.spread.numpy(), np.maximum(distances[:, 1:].mean(1), 1), rtol=1e-5)
    assert lone.spread.tolist() == [1.0]
    assert copies.spread.tolist() == [1.0] * 7


def test_codes_are_whole_numbers_that_bytes_can_multiply() -> None:
    """7 bits with sign; what lies outside the memory's range is cut, and sums of products stay exact in float32."""
    stored, x = features(12, 0), [100 * level for level in features(2, 1)]
    memory = patch_memory(stored, 80)

    codes = torch.cat([memory.vectors(), memory.queries(x).flatten(0, 1)])

    assert torch.equal(codes, codes.round())
    assert memory.vectors().abs().max() == 63
    assert codes.abs().max() == 63
    assert 64 * 3 * 63**2 < 2**24, "the largest sum of 64 components of |x - m|² - |x|²"


def test_search_sees_the_leading_components() -> None:
    """The code's space holds scikit-learn's leading components, all as wide, and each of its axes varies alike."""
    from sklearn.decomposition import PCA

    channels = (30, 30, 30)
    generator = torch.Generator().manual_seed(0)
    levels = [
        torch.rand((20, c, 12 // s, 8 // s), generator=generator) for c, s in zip(channels, (1, 2, 4), strict=True)
    ]
    memory = PatchMemory(100, channels)
    memory.fill(levels, torch.arange(20))
    described = descriptors(levels).permute(0, 2, 3, 1).reshape(-1, 90).numpy()
    pca = PCA(64).fit(described)

    ours = memory.basis.numpy() / np.linalg.norm(memory.basis.numpy(), axis=0)

    assert memory.basis.shape == (90, 64)
    np.testing.assert_allclose(memory.mean.numpy(), pca.mean_, atol=1e-5)
    np.testing.assert_allclose(ours.T @ ours, np.eye(64), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(pca.components_ @ ours, axis=1)[:40], 1, atol=1e-2)
    np.testing.assert_allclose(((described @ ours).var(0)).sum(), pca.explained_variance_.sum(), rtol=1e-2)
    spreads = (described @ ours).std(0)
    assert spreads.max() < 0.6 * pca.explained_variance_.max() ** 0.5, "so that few bits tell more"


def test_a_picture_in_the_memory_finds_itself() -> None:
    """All its patches are there, so nothing differs: the values are the stored columns, put back in their places."""
    stored = features(3, 4)
    memory = patch_memory(stored)

    match = memory.match(stored)

    assert match.distance.max() < 1e-3
    assert match.sources.flatten(1).tolist() == [[i] * 24 for i in range(3)]
    assert torch.equal(match.values[0], stored[0])
    assert torch.equal(match.values[1], stored[1])
    assert match.values[2].shape == stored[2].shape


def test_the_coarsest_values_are_those_of_an_even_picture() -> None:
    """Stride 16 is stored interpolated; where the level is even nothing is lost by it."""
    stored = features(3, 4)
    stored[2] = stored[2][:, :, :1, :1].expand(-1, -1, 3, 2).clone()

    match = patch_memory(stored).match(stored)

    assert torch.allclose(match.values[2], stored[2], atol=1e-6)


@pytest.mark.parametrize("position_weight", [0.0, 2.0])
def test_no_patch_is_of_the_own_picture(position_weight: float) -> None:
    """Also where another picture of the same source (a disturbed copy) is in the memory."""
    stored = features(4, 7)
    copies = [torch.cat([level, level + 1e-3]) for level in stored]
    sources = torch.tensor([5, 6, 7, 8] * 2)
    memory = PatchMemory(8 * 24, CHANNELS, position_weight=position_weight)
    memory.fill(copies, sources)

    apart = memory.match(stored, exclude=sources[:4])
    mixed = memory.match(stored, exclude=torch.tensor([5, -1, 7, -1]))

    assert not (apart.sources == sources[:4].view(4, 1, 1)).any()
    assert (apart.distance > 0.01).all()
    assert torch.equal(mixed.sources[[0, 2]], apart.sources[[0, 2]])
    assert torch.equal(mixed.values[0][[0, 2]], apart.values[0][[0, 2]])
    assert (mixed.sources[[1, 3]] == sources[[1, 3]].view(2, 1, 1)).all()


def test_what_is_left_out_changes_nothing_else() -> None:
    """The slower search with `exclude` agrees with the one over the memory without that picture."""
    stored, x = features(4, 7), features(4, 8)
    memory = patch_memory(stored)
    without_first = PatchMemory(3 * 24, CHANNELS)
    state = {k: v[memory.source != 0] if len(v.shape) and len(v) == 96 else v for k, v in memory.state_dict().items()}
    without_first.load_state_dict({k: v for k, v in state.items() if k not in ("codes", "squares")}, strict=False)
    without_first._index()

    memory.spread.fill_(1)
    without_first.spread.fill_(1)

    excluded, smaller = memory.match(x, exclude=torch.zeros(4, dtype=torch.int64)), without_first.match(x)

    assert torch.equal(excluded.sources, smaller.sources)
    assert torch.allclose(excluded.distance, smaller.distance, atol=1e-5)


def marked_places(n: int, seed: int) -> list[Tensor]:
    """Features whose level of stride 8 tells the place: channel 0 the row, channel 1 the column."""
    levels = features(n, seed)
    _, _, h, w = levels[1].shape
    levels[1][:, 0] = torch.arange(h).view(1, h, 1).expand(n, h, w) * 1e-4
    levels[1][:, 1] = torch.arange(w).view(1, 1, w).expand(n, h, w) * 1e-4
    return levels


def test_with_a_large_position_weight_the_match_is_from_the_same_place() -> None:
    """Parts that always lie alike are compared place by place; without the code, hardly any match is."""
    stored, x = marked_places(6, 0), marked_places(2, 9)
    same = []

    for weight in (0.0, 50.0):
        match = patch_memory(stored, position_weight=weight).match(x)
        same.append(float((match.values[1][:, :2] == x[1][:, :2]).all(1).float().mean()))

    assert same[0] < 0.5
    assert same[1] == 1.0


def test_position_code_is_what_is_documented() -> None:
    """Distance from the middle, 1 at the border, times the descriptors' deviation, times the weight."""
    stored = features(6, 0)
    memory = patch_memory(stored, position_weight=0.5)
    plain = slow_descriptors(stored)
    unit = np.sqrt(plain.transpose(1, 0, 2, 3).reshape(12, -1).var(axis=1, ddof=1).sum())

    rows = memory._described(stored)

    assert rows.shape == (6 * 6 * 4, 14)
    coded = rows.view(6, 6, 4, 14).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(coded[:, :12], plain, rtol=1e-5, atol=1e-6)
    for y, x in np.ndindex(6, 4):
        np.testing.assert_allclose(coded[:, 12, y, x], 0.5 * unit * (2 * y / 5 - 1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(coded[:, 13, y, x], 0.5 * unit * (2 * x / 3 - 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["coreset", "kmeans"])
def test_fewer_patches_than_places_are_repeated(reduction: Literal["coreset", "kmeans"]) -> None:
    """A small data set must not leave rows of zeros, which would be a normal patch that nobody saw."""
    stored = features(2, 1)
    memory = PatchMemory(100, CHANNELS, reduction)

    memory.fill(stored, torch.tensor([3, 4]))

    match = memory.match(stored)
    assert (memory.columns != 0).any(1).all()
    assert set(memory.source.tolist()) == {3, 4}
    assert match.distance.max() < 1e-3
    assert torch.equal(match.values[1], stored[1])


@pytest.mark.parametrize("reduction", ["coreset", "kmeans"])
def test_patches_are_real_ones(reduction: Literal["coreset", "kmeans"]) -> None:
    """Also centres of clusters: each column is that of one place, with that place's descriptor and picture."""
    stored = features(20, 1)
    memory = PatchMemory(40, CHANNELS, reduction)
    memory.fill(stored, torch.arange(100, 120))
    described = descriptors(stored).permute(0, 2, 3, 1).reshape(-1, 12)
    middles = stored[1].permute(0, 2, 3, 1).reshape(-1, 4)

    for descriptor, column, source in zip(memory.descriptors, memory.columns, memory.source, strict=True):
        place = int((described - descriptor).square().sum(1).argmin())
        assert torch.equal(described[place], descriptor)
        assert torch.equal(middles[place], column[12:16])
        assert int(source) == 100 + place // 24


def test_margin_tells_a_tie_from_a_clear_choice() -> None:
    """A patch between two twins may find either, in any engine; one that lies on a single patch finds that."""
    stored = features(3, 4)
    twice = [torch.cat([level, level[:1]]) for level in stored]
    memory = patch_memory(twice)

    margin = memory.margin(stored)

    assert margin.shape == (3,)
    assert margin[0] == 0
    assert margin[1:].min() > 0.01


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_below_the_margin_rounding_does_not_matter(seed: int) -> None:
    """What an engine's arithmetic moves a code by, in steps, leaves the two nearest in their order."""
    stored, x = features(6, seed), features(3, seed + 1)
    memory = patch_memory(stored, 60)
    margin = memory.margin(x).view(3, 1, 1)
    exact = ((descriptors(x).permute(0, 2, 3, 1).reshape(3, 24, 12) - memory.mean) @ memory.basis).double()
    noise = torch.rand(exact.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    first, second = (
        (torch.cdist(memory.queries(x).double(), memory.vectors().double())).topk(2, largest=False).indices.unbind(2)
    )

    moved = (exact + 0.999 * margin * noise).round().clamp(-63, 63)

    near, far = ((moved - memory.vectors()[which].double()).square().sum(2) for which in (first, second))
    assert (near <= far).all()
    assert (near < far)[margin.flatten() > 0].all()
