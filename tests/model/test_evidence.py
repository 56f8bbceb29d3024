"""Evidence: its sums against numpy written out, and that nothing suspicious ever lowers a score."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import linregress
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mapl_edge.model.evidence import (
    DISTANCE_WINDOWS,
    JOINT_WINDOWS,
    TOP_CELLS,
    Evidence,
    log_odds,
    reliability,
)

SIZE_HW = (96, 64)


def readings(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-odds and distance of n normal pictures."""
    generator = torch.Generator().manual_seed(seed)
    head, distance = (torch.randn((n, 1, SIZE_HW[0] // s, SIZE_HW[1] // s), generator=generator) for s in (4, 8))
    return -6 + 1.5 * head, distance


def held_out(shift: float = 10.0) -> tuple[Tensor, Tensor, Tensor]:
    """20 normals and 20 simulated defects, in a corner of which the decoder says so much more; which are which."""
    head, distance = readings(40, seed=1)
    anomalous = torch.arange(40) % 2 == 1
    head[anomalous, :, 3:8, 4:9] += shift
    distance[anomalous, :, 2:4, 2:4] += 3
    return head, distance, anomalous


def fitted(shift: float = 10.0) -> Evidence:
    """Evidence that knows what is usual, and how far to trust the decoder."""
    evidence = Evidence()
    evidence.fit(*held_out(shift))
    return evidence


def mean_over(plane: np.ndarray, window: int) -> np.ndarray:
    """The mean of the cells of a window that lie inside the picture."""
    ones = uniform_filter(np.ones_like(plane), window, mode="constant")
    return np.asarray(uniform_filter(plane, window, mode="constant") / ones)


def doubled(plane: np.ndarray, factor: int = 2) -> np.ndarray:
    """Bilinear, corners not aligned, edges repeated; a row's or column's weights as a matrix."""

    def matrix(n: int) -> np.ndarray:
        weights = np.zeros((n * factor, n))
        for i in range(n * factor):
            at = min(max((i + 0.5) / factor - 0.5, 0), n - 1)
            low = int(at)
            weights[i, low] += 1 - (at - low)
            weights[i, min(low + 1, n - 1)] += at - low
        return weights

    return np.asarray(matrix(plane.shape[0]) @ plane @ matrix(plane.shape[1]).T)


def written_out(
    head: Tensor, distance: Tensor, unit: tuple[float, float], weight: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint evidence (N, H/4, W/4), the pooled values (N, P) and levels (N, 1)."""
    joints, pooled, levels = [], [], []
    for near, far in zip(head[:, 0].double().numpy(), distance[:, 0].double().numpy(), strict=True):
        joint = weight * (near - unit[0]) / unit[1] + mean_over(doubled(far), 3)
        tops = [np.sort(mean_over(joint, k).ravel())[-TOP_CELLS:].mean() for k in JOINT_WINDOWS]
        pooled.append(tops + [mean_over(far, k).max() for k in DISTANCE_WINDOWS])
        joints.append(joint)
        h, w = far.shape
        levels.append([np.quantile(far.reshape(h // 2, 2, w // 2, 2).mean((1, 3)), 0.5, method="higher")])
    return np.stack(joints), np.array(pooled), np.array(levels)


@pytest.mark.parametrize("shift", [0.5, 2.0, 10.0], ids=["unsure", "fair", "sure"])
def test_scores_and_maps_are_the_documented_sums(shift: float) -> None:
    """Decoder weighted, pooled over windows, less half of what the level explains; middle: one in a thousand."""
    head, distance, anomalous = held_out(shift)
    plain = head.double().numpy()
    unit = plain[~anomalous.numpy()].mean(), plain[~anomalous.numpy()].std()
    tops = np.sort(plain.reshape(40, -1), axis=1)[:, -TOP_CELLS:].mean(1)
    weight = max(0.0, 2 * roc_auc_score(anomalous.numpy(), tops) - 1) ** 2
    joint_of_normals, of_normals, levels = written_out(head[~anomalous], distance[~anomalous], unit, weight)
    middle = np.sort(joint_of_normals.ravel())[int(0.999 * (joint_of_normals.size - 1))]
    new = readings(3, seed=2)
    joint, pooled, level = written_out(*new, unit, weight)
    slope = [max(0.0, linregress(levels[:, 0], column).slope) / 2 for column in of_normals.T]
    of_normals -= levels * slope
    pooled -= level.clip(levels.min(), levels.max()) * slope
    evidence = fitted(shift)

    scores, maps = evidence(*new)

    assert float(evidence.weight) == pytest.approx(weight, abs=1e-5)
    deviations = (pooled - of_normals.mean(0)) / of_normals.std(0)
    expected = weight * deviations[:, :3].mean(1) + (1 - weight) * deviations[:, 3:].mean(1)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(maps.numpy(), joint, strict=True):
        slow = 1 / (1 + np.exp(-(doubled(theirs, 4) - middle) / 2))
        assert ours.shape == SIZE_HW
        np.testing.assert_allclose(ours, slow, atol=1e-4)


def test_normals_score_about_nothing() -> None:
    """Zero mean; and about one pixel in a thousand is above the map's middle."""
    head, distance, anomalous = held_out()

    scores, maps = fitted()(head[~anomalous], distance[~anomalous])

    assert abs(float(scores.mean())) < 1e-3
    assert float((maps > 0.5).float().mean()) < 0.002


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        pytest.param([1.0, 2.0], [3.0, 4.0], 1.0, id="tells-all-apart"),
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, id="guesses"),
        pytest.param([3.0, 4.0], [1.0, 2.0], 0.0, id="worse-than-a-guess"),
        pytest.param([1.0, 3.0], [2.0, 4.0], 0.25, id="three-of-four-pairs"),
        pytest.param([5.0, 5.0], [5.0, 5.0], 0.0, id="ties"),
        pytest.param([1.0], [], 1.0, id="nothing-to-tell-apart"),
        pytest.param([], [1.0], 1.0, id="no-normal"),
    ],
)
def test_reliability(good: list[float], bad: list[float], expected: float) -> None:
    """(2 AUROC - 1)², by hand."""
    scores, anomalous = torch.tensor(good + bad), torch.tensor([False] * len(good) + [True] * len(bad))

    assert reliability(scores, anomalous) == pytest.approx(expected)


def test_a_decoder_that_guesses_is_not_heard() -> None:
    """On such a surface the distance alone decides."""
    evidence, (head, distance) = fitted(shift=-1.0), readings(2, seed=7)

    scores, _ = evidence(head, distance)
    others, _ = evidence(head + 50 * torch.rand_like(head), distance)

    assert float(evidence.weight) == 0
    assert torch.equal(scores, others)


@pytest.mark.parametrize("side", [1, 3, 6], ids=["speck", "spot", "stain"])
@pytest.mark.parametrize("which", ["head", "distance"])
def test_a_spot_never_lowers_the_score_and_raises_it_when_strong(which: str, side: int) -> None:
    """Whoever speaks, decoder or distance, and wherever: more evidence, more score."""
    evidence = fitted()
    head, distance = readings(1, seed=7)
    for y, x in ((0, 0), (5, 3), (6, 2)):
        scores = []
        for strength in (0.0, 0.5, 2.0, 8.0, 30.0):
            spotted = {"head": head.clone(), "distance": distance.clone()}
            spotted[which][0, 0, y : y + side, x : x + side] += strength
            scores.append(float(evidence(spotted["head"], spotted["distance"])[0][0]))
        assert scores == sorted(scores)
        assert scores[-1] > scores[0] + 0.5


def rough_and_smooth() -> Evidence:
    """Evidence of parts of two surfaces, one of which lies farther from the memory everywhere, and varies more."""
    head, distance = readings(40, seed=4)
    distance[::2] = 2 + 1.5 * distance[::2]
    evidence = Evidence()
    evidence.fit(head, distance, torch.zeros(40, dtype=torch.bool))
    return evidence


def test_half_of_what_a_rough_surface_explains_is_taken_away() -> None:
    """Rough normals score higher than smooth ones still, by half as much as without."""
    evidence = rough_and_smooth()
    head, distance = readings(40, seed=5)
    distance[::2] = 2 + 1.5 * distance[::2]
    joint = evidence.joint(head, distance)

    scores, _ = evidence(head, distance)

    ahead = float(scores[::2].mean() - scores[1::2].mean())
    evidence.level_slope.zero_()
    pooled = evidence._pooled(joint, distance)
    without = (pooled[::2].mean(0) - pooled[1::2].mean(0)) / evidence.pool_std
    assert ahead == pytest.approx(float(without @ evidence.pool_share) / 2, rel=0.15)


def test_a_part_that_is_far_everywhere_is_not_explained_away() -> None:
    """Beyond the levels of normal parts nothing is: a wrong part scores as high as it is far."""
    evidence = rough_and_smooth()
    head, distance = readings(1, seed=6)
    top = float(evidence.level_range[1])

    scores = [float(evidence(head, distance + top + more)[0][0]) for more in (1.0, 5.0, 25.0)]

    joint_and_far = 1 / evidence.pool_std  # all pooled values grow by as much as the distance does
    for i, more in ((0, 4.0), (1, 20.0)):
        assert scores[i + 1] - scores[i] == pytest.approx(more * float(joint_and_far @ evidence.pool_share), rel=1e-3)


@pytest.mark.parametrize("which", ["head", "distance"])
def test_the_map_shows_the_spot(which: str) -> None:
    """Its highest pixel lies over the evidence."""
    head, distance = readings(1, seed=7)
    stride = {"head": 4, "distance": 8}[which]
    {"head": head, "distance": distance}[which][0, 0, 5, 3] += 60

    _, maps = fitted()(head, distance)

    y, x = np.unravel_index(int(maps[0].argmax()), SIZE_HW)
    assert abs(y + 0.5 - 5.5 * stride) <= stride
    assert abs(x + 0.5 - 3.5 * stride) <= stride
    assert maps.max() > 0.9


def test_constant_pictures_give_finite_scores() -> None:
    """Identical pictures have no deviation; dividing by it would make every later score NaN."""
    head, distance = torch.full((6, 1, 24, 16), -7.0), torch.full((6, 1, 12, 8), 0.5)
    evidence = Evidence()
    evidence.fit(head, distance, torch.arange(6) > 2)
    evidence.weight.fill_(1.0)

    same, maps = evidence(head, distance)
    other, _ = evidence(head + 1, distance + 1)

    assert same.isfinite().all()
    assert maps.isfinite().all()
    assert other.isfinite().all()
    assert (other > same).all()


@pytest.mark.parametrize("anomalous", [[False, True], [False, False]], ids=["with-a-defect", "alone"])
def test_a_single_normal_is_enough(anomalous: list[bool]) -> None:
    """With four pictures one validates: deviations over pictures are nought then."""
    evidence = Evidence()
    evidence.fit(*readings(2), torch.tensor(anomalous))

    scores, maps = evidence(*readings(2, seed=3))

    assert scores.isfinite().all()
    assert maps.isfinite().all()


@pytest.mark.parametrize("stride", [4, 1])
def test_log_odds_are_the_logits_difference_at_stride_4(stride: int) -> None:
    """From a decoder of full resolution the mean of 4x4 pixels."""
    logits = torch.randn(2, 2, 16 // stride, 8 // stride, generator=torch.Generator().manual_seed(0))

    odds = log_odds(logits, stride)

    cell = 4 // stride
    assert odds.shape == (2, 1, 4, 2)
    for b, y, x in np.ndindex(2, 4, 2):
        part = logits[b, :, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
        assert float(odds[b, 0, y, x]) == pytest.approx(float((part[1] - part[0]).mean()), abs=1e-5)


def test_units_travel_with_the_weights() -> None:
    """Scores of a saved model must be those of the trained one."""
    evidence, other = fitted(), Evidence()

    other.load_state_dict(evidence.state_dict())

    assert torch.equal(evidence(*readings(2, seed=5))[0], other(*readings(2, seed=5))[0])
    assert not list(evidence.parameters())
