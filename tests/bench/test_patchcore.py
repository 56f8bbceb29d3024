"""PatchCore: its parts against slow definitions, the whole on a planted blob."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from mapl_edge.arrays import UInt8Array
from mapl_edge.model.encoder import pretrained_encoder
from mapl_edge.testing import SyntheticLine
from patchcore import MIN_BANK, NEIGHBOURS, PatchCore, k_centres, patches_from_features, projected


def slow_k_centres(points: np.ndarray, n: int, first: int) -> list[int]:
    """Algorithm 1 word for word: argmax over the rest of the minimum over the chosen."""
    chosen = [first]
    while len(chosen) < n:
        rest = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(float(np.linalg.norm(points[i] - points[c])) for c in chosen)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_k_centres_are_those_of_the_definition(seed: int) -> None:
    """The halved squares and the running minimum change nothing."""
    points = np.random.default_rng(seed).normal(size=(60, 4)).astype(np.float32)

    chosen = k_centres(points, 20, seed)

    assert chosen.tolist() == slow_k_centres(points, 20, int(chosen[0]))


def test_no_centre_is_taken_twice() -> None:
    """Where all points are equal, rounding alone would choose, and might choose the same again."""
    points = np.full((30, 7), 3.1, np.float32)

    assert sorted(k_centres(points, 30, 0)) == list(range(30))


def test_projection_keeps_distances_about_right() -> None:
    """The coreset is chosen in 128 dimensions; in 152 it must still be one."""
    points = np.random.default_rng(0).normal(size=(200, 152)).astype(np.float32)
    before, after = (np.linalg.norm(p[:100] - p[100:], axis=1) for p in (points, projected(points, 0)))

    assert np.mean(after / before) == pytest.approx(1, abs=0.03)
    assert np.std(after / before) < 0.1
    np.testing.assert_array_equal(projected(points[:, :128], 0), points[:, :128])


def test_patches_are_pooled_over_their_neighbours_and_joined() -> None:
    """Row i of the patches is place i of the map, fine channels first; beyond the border there are zeros."""
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(2, 40, 6, 4)).astype(np.float32), np.ones((2, 112, 3, 2), np.float32)
    levels = [torch.zeros(2, 24, 12, 8), torch.from_numpy(fine), torch.from_numpy(coarse)]

    patches, hw = patches_from_features(levels)
    pooled = uniform_filter(fine, (0, 0, 3, 3), mode="constant")

    assert (hw, patches.shape) == ((6, 4), (2 * 6 * 4, 152))
    grid = patches.reshape(2, 6, 4, 152)
    np.testing.assert_allclose(grid[..., :40], pooled.transpose(0, 2, 3, 1), atol=1e-6)
    assert grid[0, 2, 1, 40:] == pytest.approx(grid[0, 3, 1, 40:])
    assert grid[0, 0, 0, 40] == pytest.approx(4 / 9), "a corner of ones among zeros"


def encode_grey(pictures: UInt8Array) -> list[Tensor]:
    """Features that are the picture itself at strides 4, 8 and 16: distances can be worked out by hand."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return [torch.nn.functional.avg_pool2d(x, s) for s in (4, 8, 16)]


@pytest.fixture
def noise() -> np.ndarray:
    """Six pictures of noise, 64x96 px."""
    return np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)


def test_score_is_the_largest_distance_reweighted(noise: UInt8Array) -> None:
    """FAISS against numpy, and Eq. 7 against its letters."""
    core, plain = (PatchCore.fit(encode_grey, noise[:5], 0.5, reweighted=which) for which in (True, False))
    patches, _ = patches_from_features(encode_grey(noise[5:]))
    distances = np.linalg.norm(patches[:, None] - core.bank, axis=2)  # (patches, bank)
    worst = int(distances.min(axis=1).argmax())
    twin = int(distances[worst].argmin())
    around = np.argsort(np.linalg.norm(core.bank - core.bank[twin], axis=1))[:NEIGHBOURS]
    weight = 1 - np.exp(distances[worst, twin]) / np.exp(distances[worst, around]).sum()

    reading, plain_reading = core.read(noise[5]), plain.read(noise[5])

    assert len(core.bank) == 240  # half of 5 pictures of 8 x 12 patches
    assert plain_reading.score == pytest.approx(distances.min(axis=1).max(), rel=1e-4)
    assert reading.score == pytest.approx(plain_reading.score * weight, rel=1e-4)
    assert reading.nearest == twin
    assert (reading.map.shape, reading.map.dtype) == ((64, 96), np.float32)
    assert reading.map.max() <= plain_reading.score


def test_pictures_in_the_whole_bank_score_nothing(noise: UInt8Array) -> None:
    """Every patch finds itself; what is left is rounding."""
    core = PatchCore.fit(encode_grey, noise, 1.0)

    assert core.read(noise[2]).score < 0.01


@pytest.mark.parametrize(("share", "expected"), [(0.0001, MIN_BANK), (0.25, 144), (1.0, 576)])
def test_bank_has_its_share_but_never_too_few(noise: UInt8Array, share: float, expected: int) -> None:
    """Nine neighbours of one patch would make every score zero."""
    core = PatchCore.fit(encode_grey, noise, share)

    assert core.bank.shape == (expected, 6)
    assert core.size_bytes == expected * 6 * 4


def test_the_same_seed_gives_the_same_bank(noise: UInt8Array) -> None:
    """A benchmark must be repeatable; another seed begins elsewhere."""
    one, same, other = (PatchCore.fit(encode_grey, noise, 0.2, seed=seed) for seed in (3, 3, 4))

    np.testing.assert_array_equal(one.bank, same.bank)
    assert not np.array_equal(one.bank, other.bank)


def test_a_planted_blob_stands_out() -> None:
    """It scores above every good part, and the map points at it."""
    # torch's own encoder: tracing it for ONNX Runtime would take ten seconds
    encoder = pretrained_encoder("efficientnet_lite0")

    def encode(pictures: UInt8Array) -> list[Tensor]:
        levels: list[Tensor] = encoder(torch.from_numpy(pictures))
        return levels

    line = SyntheticLine(seed=1, size_hw=(96, 96))
    core = PatchCore.fit(encode, np.stack([line.good(i).image for i in range(20)]), 0.1)
    good = [line.good(i).image for i in range(100, 106)]
    spoilt = good[0].copy()
    spoilt[40:56, 24:40] = (30, 200, 30)

    reading = core.read(spoilt)
    y, x = np.unravel_index(reading.map.argmax(), reading.map.shape)

    assert reading.score > 1.2 * max(core.read(picture).score for picture in good)
    assert 36 <= y < 60
    assert 20 <= x < 44
