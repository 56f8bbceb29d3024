"""Evidence: its sums against numpy written out, and that nothing suspicious ever lowers a score."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from mapl_edge.model.evidence import DISTANCE_WINDOWS, HEAD_WINDOWS, SHARED, TOP_CELLS, Evidence, log_odds

SIZE_HW = (96, 64)


def readings(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-odds and distance of n pictures; they vary more on the right, as at an edge of the part."""
    generator = torch.Generator().manual_seed(seed)
    head, distance = (torch.randn((n, 1, SIZE_HW[0] // s, SIZE_HW[1] // s), generator=generator) for s in (4, 8))
    return -6 + head * torch.linspace(0.5, 3, 16), 0.3 + distance * torch.linspace(0.2, 2, 8)


def fitted(by_place: bool = False) -> Evidence:
    """Evidence that knows what is usual, and its scores' units from other pictures."""
    evidence = Evidence(SIZE_HW)
    evidence.fit(*readings(40), by_place=by_place)
    evidence.fit_scores(*readings(20, seed=1))
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


def written_out(head: Tensor, distance: Tensor, units: dict[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Joint evidence (N, H/4, W/4) and the pooled values of each picture, P numbers each."""
    joints, pooled = [], []
    for near, far in zip(head[:, 0].double().numpy(), distance[:, 0].double().numpy(), strict=True):
        far = (far - units["distance_mean"]) / units["distance_std"]
        joint = (near - units["head_mean"]) / units["head_std"] + mean_over(doubled(far), 3)
        tops = [np.sort(mean_over(joint, k).ravel())[-TOP_CELLS:].mean() for k in HEAD_WINDOWS]
        pooled.append(np.array(tops + [mean_over(far, k).max() for k in DISTANCE_WINDOWS]))
        joints.append(joint)
    return np.stack(joints), pooled


def units_of(head: Tensor, distance: Tensor, by_place: bool) -> dict[str, np.ndarray]:
    """Mean and deviation, over everything or place by place, smoothed over neighbours."""
    units = {}
    for name, values, window in (("head", head, 9), ("distance", distance, 5)):
        plain = values[:, 0].double().numpy()
        mean, variance = np.full(plain.shape[1:], plain.mean()), np.full(plain.shape[1:], plain.var())
        if by_place:
            mean = mean_over(plain.mean(0), window)
            variance = mean_over(plain.var(0), window) + SHARED * plain.var()
        units |= {f"{name}_mean": mean, f"{name}_std": np.sqrt(variance)}
    return units


@pytest.mark.parametrize("by_place", [False, True], ids=["overall", "by-place"])
def test_scores_and_maps_are_the_documented_sums(by_place: bool) -> None:
    """Both in units of normals, added, pooled over windows, in units of normals' scores; middle: one in a thousand."""
    usual, normals, new = readings(40), readings(20, seed=1), readings(3, seed=2)
    units = units_of(*usual, by_place)
    joint_of_normals, of_normals = written_out(*normals, units)
    joint, pooled = written_out(*new, units)
    middle = np.sort(joint_of_normals.ravel())[int(0.999 * (joint_of_normals.size - 1))]

    scores, maps = fitted(by_place)(*new)

    expected = ((np.stack(pooled) - np.mean(of_normals, axis=0)) / np.std(of_normals, axis=0)).mean(1)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(maps.numpy(), joint, strict=True):
        slow = 1 / (1 + np.exp(-(doubled(theirs, 4) - middle) / 2))
        assert ours.shape == SIZE_HW
        np.testing.assert_allclose(ours, slow, atol=1e-4)


def test_normals_score_about_nothing() -> None:
    """Zero mean; and about one pixel in a thousand is above the map's middle."""
    evidence = fitted()

    scores, maps = evidence(*readings(20, seed=1))

    assert abs(float(scores.mean())) < 1e-3
    assert float((maps > 0.5).float().mean()) < 0.002


def test_by_place_trusts_quiet_places_more() -> None:
    """The same rise counts for more where normals hardly differ; overall it counts the same everywhere."""
    rises: dict[bool, list[float]] = {}
    for by_place in (False, True):
        evidence = fitted(by_place)
        head, distance = torch.full((1, 1, 24, 16), -6.0), torch.full((1, 1, 12, 8), 0.3)
        before, _ = evidence.joint(head, distance)
        after, _ = evidence.joint(head + 4, distance)
        rises[by_place] = [float((after - before)[0, 0, 12, column]) for column in (1, 14)]

    assert rises[False][0] == pytest.approx(rises[False][1])
    assert rises[True][0] > 2 * rises[True][1]


def test_a_quiet_place_is_not_infinitely_trusted() -> None:
    """Where normals never differ, a tenth of the overall variance is still there."""
    head, distance = readings(40)
    head[:, :, :, :12] = -6.0
    evidence = Evidence(SIZE_HW)

    evidence.fit(head, distance, by_place=True)

    overall = float(head.var(correction=0))
    assert float(evidence.get_buffer("head_std").min()) == pytest.approx((SHARED * overall) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("by_place", [False, True], ids=["overall", "by-place"])
@pytest.mark.parametrize("side", [1, 3, 6], ids=["speck", "spot", "stain"])
@pytest.mark.parametrize("which", ["head", "distance"])
def test_a_spot_never_lowers_the_score_and_raises_it_when_strong(which: str, side: int, by_place: bool) -> None:
    """Whoever speaks, decoder or distance, and wherever: more evidence, more score."""
    evidence = fitted(by_place)
    head, distance = readings(1, seed=7)
    for y, x in ((0, 0), (5, 3), (6, 2)):
        scores = []
        for strength in (0.0, 0.5, 2.0, 8.0, 30.0):
            spotted = {"head": head.clone(), "distance": distance.clone()}
            spotted[which][0, 0, y : y + side, x : x + side] += strength
            scores.append(float(evidence(spotted["head"], spotted["distance"])[0][0]))
        assert scores == sorted(scores)
        assert scores[-1] > scores[0] + 0.5


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


@pytest.mark.parametrize("by_place", [False, True], ids=["overall", "by-place"])
def test_constant_normals_give_finite_scores(by_place: bool) -> None:
    """Identical pictures have no deviation; dividing by it would make every later score NaN."""
    head, distance = torch.full((5, 1, 24, 16), -7.0), torch.full((5, 1, 12, 8), 0.5)
    evidence = Evidence(SIZE_HW)
    evidence.fit(head, distance, by_place)
    evidence.fit_scores(head, distance)

    same, maps = evidence(head, distance)
    other, _ = evidence(head + 1, distance + 1)

    assert same.isfinite().all()
    assert maps.isfinite().all()
    assert other.isfinite().all()
    assert (other > same).all()


def test_a_single_normal_is_enough() -> None:
    """With four pictures one validates: deviations over pictures are nought then."""
    evidence = Evidence(SIZE_HW)
    evidence.fit(*readings(1), by_place=True)
    evidence.fit_scores(*readings(1))

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
    evidence, other = fitted(by_place=True), Evidence(SIZE_HW)

    other.load_state_dict(evidence.state_dict())

    assert torch.equal(evidence(*readings(2, seed=5))[0], other(*readings(2, seed=5))[0])
    assert not list(evidence.parameters())
