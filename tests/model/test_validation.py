"""Validation: what it holds, what it measures, and that measuring moves nothing."""

from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TINY
from torch import Tensor, nn

from mapl_edge.arrays import Float64Array
from mapl_edge.config import TrainConfig
from mapl_edge.metrics import auroc, average_precision
from mapl_edge.model.bank import Bank
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import empty_encoder
from mapl_edge.model.frozen import Encode
from mapl_edge.model.simulate import Simulator
from mapl_edge.model.validation import SIMULATED_PER_PICTURE, DistanceScore, Validation
from mapl_edge.testing import SyntheticLine

PICTURES = np.stack([SyntheticLine(seed=2, size_hw=(96, 64)).good(i).image for i in range(8)])


def made(**changes: Any) -> tuple[Detector, Encode]:
    """An untrained detector with a filled memory, and its encoder as a function of pictures."""
    config = TrainConfig.model_validate(TINY.model_dump() | {"encoder": "vaegan", "interference": False} | changes)
    torch.manual_seed(0)
    encoder = empty_encoder(config.encoder)
    bank = Bank(PICTURES[:5], np.arange(5), config)
    detector = Detector(encoder, empty_memory(config, encoder.channels, bank.size), config)

    def encode(pictures: np.ndarray) -> list[Tensor]:
        return cast(list[Tensor], encoder(torch.from_numpy(pictures)))

    bank.fill(detector, encode)
    return detector, encode


def test_each_normal_comes_with_simulated_defects() -> None:
    """The normal itself first, undisturbed; what was simulated differs inside its mask only."""
    validation = Validation(PICTURES[:3], np.arange(3), Simulator(0), disturb=False)
    per = SIMULATED_PER_PICTURE + 1

    assert validation.pictures.shape == (3 * per, 96, 64, 3)
    assert validation.masks.any((1, 2)).tolist() == [k > 0 for _ in range(3) for k in range(per)]
    for i, (picture, mask) in enumerate(zip(validation.pictures, validation.masks, strict=True)):
        assert np.array_equal(picture[mask == 0], PICTURES[i // per][mask == 0])


def test_half_is_disturbed_always_alike() -> None:
    """Normals and defects; chosen thresholds must not move from run to run."""
    calm, noisy, again = (Validation(PICTURES[:4], np.arange(4), Simulator(0), disturb=d) for d in (False, True, True))
    changed = (calm.pictures != noisy.pictures).any((1, 2, 3))

    assert np.array_equal(noisy.pictures, again.pictures)
    assert np.array_equal(calm.masks, noisy.masks)
    assert changed.sum() == 6
    assert 0 < changed[::3].sum() < 4


@pytest.mark.parametrize("memory", ["image", "patch"])
def test_distance_score_is_auroc_and_ap_of_the_distance(memory: str) -> None:
    """The largest distance of each picture; and place by place at stride 8, where any pixel of a cell is defective."""
    detector, encode = made(memory=memory)
    validation = Validation(PICTURES[5:], np.arange(5, 8), Simulator(0), disturb=False)
    validation.compare(detector, encode)
    with torch.no_grad():
        distance = detector.compare(detector.encode(torch.from_numpy(validation.pictures))).distance[:, 0].numpy()
    defective = [
        [m[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].any() for y, x in np.ndindex(12, 8)] for m in validation.masks
    ]

    score = validation.distance_score()

    by_picture = auroc(validation.masks.any((1, 2)), distance.max((1, 2)))
    by_place = average_precision(np.array(defective).ravel(), distance.ravel())
    assert score.all == pytest.approx((by_picture + by_place) / 2, abs=1e-6)
    assert 0 < np.sum(defective) < np.size(defective)


def test_scores_without_a_group_are_those_of_the_others_pictures() -> None:
    """A normal and what was simulated on it are left out together, once each."""
    detector, encode = made(memory="patch")
    numbers = np.array([5, 6, 7])
    validation = Validation(PICTURES[numbers], numbers, Simulator(0), disturb=False)
    validation.compare(detector, encode)
    others = []
    for left_out in numbers:
        kept = numbers[numbers != left_out]
        fewer = Validation(PICTURES[numbers], numbers, Simulator(0), disturb=False)
        those = np.isin(fewer.own.numpy(), kept)
        fewer.pictures, fewer.masks, fewer.own = fewer.pictures[those], fewer.masks[those], fewer.own[those]
        fewer.compare(detector, encode)
        others.append(fewer.distance_score().all)

    assert validation.distance_score().without == pytest.approx(others, abs=1e-6)


def test_one_score_is_clearly_above_another_by_a_standard_error() -> None:
    """Of a mean over groups the jackknife's error is s / sqrt(n) exactly."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.6, 0.1, 20), rng.normal(0.6, 0.1, 20)
    error = scipy.stats.sem(ours - theirs)

    def score(values: Float64Array) -> DistanceScore:
        return DistanceScore(values.mean(), np.array([np.delete(values, k).mean() for k in range(len(values))]))

    gap = error - (ours - theirs).mean()
    assert score(ours + gap + 1e-6).clearly_above(score(theirs))
    assert not score(ours + gap - 1e-6).clearly_above(score(theirs))


def test_one_normal_shows_nothing_clearly() -> None:
    """Chance cannot be told, so what supposes less stays."""
    detector, encode = made(memory="patch")
    validation = Validation(PICTURES[7:], np.array([7]), Simulator(0), disturb=False)
    validation.compare(detector, encode)
    score = validation.distance_score()

    assert score.without.size == 0
    assert not score.clearly_above(DistanceScore(-1.0, score.without))


@pytest.mark.parametrize("changes", [{}, {"distance": False}, {"decoder_stride": 1}], ids=["evidence", "plain", "fine"])
def test_scores_are_those_that_the_detector_gives(changes: dict[str, Any]) -> None:
    """Image figures from the very scores that the detector would tell of these pictures."""
    detector, encode = made(**changes)
    validation = Validation(PICTURES[5:], np.arange(5, 8), Simulator(0), disturb=False)
    validation.compare(detector, encode)

    figures = validation.score(detector)

    with torch.no_grad():
        scores, _, _ = detector.eval()(torch.from_numpy(validation.pictures))
    positive = validation.masks.any((1, 2))
    assert figures["validation_image_auroc"] == pytest.approx(auroc(positive, scores.numpy()))
    assert figures["validation_image_ap"] == pytest.approx(average_precision(positive, scores.numpy()))
    image, pixel = figures["validation_image_ap"], figures["validation_pixel_ap"]
    assert figures["validation_score"] == pytest.approx((image + pixel) / 2)


def test_defects_between_the_measured_pixels_count() -> None:
    """A small data set has two simulated defects; if both were overlooked, no step would ever be the best."""
    detector, encode = made()
    validation = Validation(PICTURES[5:6], np.array([5]), Simulator(0), disturb=False)
    validation.masks[:] = 0
    validation.masks[1:, 41, 21] = 1
    validation.compare(detector, encode)

    figures = validation.score(detector)

    assert all(np.isfinite(value) for value in figures.values())


def test_comparing_moves_no_batch_statistics() -> None:
    """Also while the encoder trains: else its memory would be stale by being measured."""
    detector, encode = made()
    validation = Validation(PICTURES[5:], np.arange(5, 8), Simulator(0), disturb=False)
    detector.train()

    validation.compare(detector, encode)
    validation.score(detector)

    detector.check_fresh()


def test_normals_that_are_in_the_memory_are_not_compared_with_themselves() -> None:
    """Once all is chosen they are remembered too; each picture made from one leaves that one out."""
    detector, encode = made(memory_patches=10**6)
    config = TrainConfig.model_validate(
        TINY.model_dump() | {"encoder": "vaegan", "interference": False, "memory_patches": 10**6}
    )
    bank, validation = (
        Bank(PICTURES, np.arange(8) + 10, config),
        Validation(PICTURES[5:], np.arange(15, 18), Simulator(0), disturb=False),
    )
    detector.memory = empty_memory(config, detector.encoder.channels, bank.size)
    bank.refill(detector.eval(), encode)

    validation.compare(detector, encode)
    with_themselves = validation._compared[0]
    validation.compare(detector, encode, bank)
    apart = validation._compared[0]

    assert validation.own.tolist() == [15] * 3 + [16] * 3 + [17] * 3
    assert (with_themselves.sources[0] == 5).all()
    for i, own in enumerate(validation.own[:8].tolist()):
        assert not (apart.sources[i] == own - 10).any()
    assert apart.distance[0].mean() > with_themselves.distance[0].mean()


@pytest.mark.parametrize("count", [2, 6, 8, 50])
def test_golden_pictures_are_clear_and_of_both_kinds(count: int) -> None:
    """Nearest patches that are nearest by far; as many as are asked for, while there are."""
    detector, encode = made()
    validation = Validation(PICTURES, np.arange(8), Simulator(0), disturb=False)
    validation.compare(detector, encode)
    memory = cast(nn.Module, detector.memory)

    golden = validation.golden(detector, count)

    normal = [any(np.array_equal(g, p) for p in PICTURES) for g in golden]
    assert len(golden) == min(count // 2, 8) + min(count - count // 2, 16)
    assert sum(normal) == min(count // 2, 8)
    margins = memory.margin(detector.encode(torch.from_numpy(golden)))  # type: ignore[operator]
    others = memory.margin(detector.encode(torch.from_numpy(validation.pictures)))  # type: ignore[operator]
    assert margins.min() >= others.min()
    assert margins.mean() >= others.mean() - 1e-6
