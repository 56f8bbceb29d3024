"""Bank: which pictures stand behind a memory, and what is usual of them."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import Tensor

from mapl_edge.config import TrainConfig
from mapl_edge.model.bank import MOST_MOVED, Bank
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import empty_encoder
from mapl_edge.model.frozen import Encode
from mapl_edge.place import moved
from mapl_edge.testing import SyntheticLine

PICTURES = np.stack([SyntheticLine(seed=2, size_hw=(96, 64)).good(i).image for i in range(10)])
NUMBERS = np.array([3, 4, 8, 9, 12, 15, 20, 21, 22, 30])


def made(**changes: Any) -> tuple[Bank, Detector, Encode]:
    """A bank, an untrained detector, and its encoder as a function of pictures."""
    config = TrainConfig.model_validate(TINY.model_dump() | {"encoder": "vaegan"} | changes)
    torch.manual_seed(0)
    encoder = empty_encoder(config.encoder)
    bank = Bank(PICTURES, NUMBERS, config)

    def encode(pictures: np.ndarray) -> list[Tensor]:
        return cast(list[Tensor], encoder(torch.from_numpy(pictures)))

    return bank, Detector(encoder, empty_memory(config, encoder.channels, bank.size), config), encode


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        pytest.param({"memory": "image"}, 10, id="pictures"),
        pytest.param({"memory_patches": 100}, 100, id="patches"),
        pytest.param({"memory_patches": 10**6}, 13 * 96, id="all-patches-disturbed-ones-too"),
        pytest.param({"memory_patches": 10**6, "interference": False}, 10 * 96, id="all-patches"),
        pytest.param({"memory_patches": 10**6, "moved_px": 4.0}, 23 * 96, id="all-patches-moved-ones-too"),
        pytest.param({"memory": "image", "moved_px": 4.0}, 10, id="pictures-are-not-moved"),
    ],
)
def test_size_is_what_the_memory_holds(changes: dict[str, Any], size: int) -> None:
    """Pictures of an image memory, each once; patches of the pictures, of every third again disturbed, and moved."""
    bank, detector, encode = made(**changes)

    bank.fill(detector, encode)

    assert bank.size == size
    assert detector.memory.size == size
    assert np.array_equal(bank.pictures, PICTURES)


def test_slots_tell_whose_picture_it_is() -> None:
    """By its number among the training pictures; -1 for one that is not in the bank, and for a real defect."""
    bank, _, _ = made()

    assert bank.slots(torch.tensor([30, 3, 5, -1, 12])).tolist() == [9, 0, -1, -1, 4]


def test_sources_are_the_banks_pictures() -> None:
    """Also of disturbed copies: whoever leaves out a picture leaves out its copy."""
    bank, detector, encode = made(memory_patches=10**6)
    bank.fill(detector, encode)
    sources = detector.memory.source

    counts = torch.bincount(sources, minlength=10)

    assert len(counts) == 10
    assert sorted(counts.tolist()) == [96] * 7 + [192] * 3


def test_a_part_beside_its_place_is_nearer_to_normals_that_were_moved() -> None:
    """By up to as far: it is hardly farther away than where normals lie. Whose copy a patch is of is known."""
    beside = np.stack([moved(picture, 2.5, -2.0) for picture in PICTURES])
    farther = {}
    for px in (0.0, 4.0):
        bank, detector, encode = made(memory_patches=10**6, moved_px=px)
        bank.fill(detector, encode)
        assert sorted(torch.bincount(detector.memory.source).tolist())[0] == (96 if px == 0 else 192)
        detector.distance_unit.copy_(torch.tensor([0.0, 1.0]))
        with torch.no_grad():
            where, aside = (detector.eval().encode(torch.from_numpy(pictures)) for pictures in (PICTURES, beside))
            at, off = (float(detector.compare(x, torch.arange(10)).distance.mean()) for x in (where, aside))
        farther[px] = off / at - 1

    assert farther[0.0] > 0.05
    assert farther[4.0] < farther[0.0] / 2


def test_of_many_pictures_some_are_moved() -> None:
    """Memory of the machine, and those that lie there anyway."""
    many = np.repeat(PICTURES, 25, axis=0)
    config = TrainConfig.model_validate(TINY.model_dump() | {"moved_px": 4.0, "interference": False})

    bank = Bank(many, np.arange(250), config.model_copy(update={"memory_patches": 10**9}))

    assert bank.size == (250 + MOST_MOVED) * 96


@pytest.mark.parametrize("memory", ["image", "patch"])
def test_the_distance_has_its_unit_from_pictures_compared_with_others(memory: str) -> None:
    """Zero mean, unit deviation; compared with themselves they would say that all is alike."""
    bank, detector, encode = made(memory=memory, interference=False, memory_patches=10**6)

    bank.fill(detector, encode)

    with torch.no_grad():
        features = detector.eval().encode(torch.from_numpy(PICTURES))
        apart, itself = detector.compare(features, torch.arange(10)), detector.compare(features)
    assert float(apart.distance.mean()) == pytest.approx(0, abs=1e-4)
    assert float(apart.distance.std(correction=0)) == pytest.approx(1, rel=1e-3)
    assert float(itself.distance.mean()) < -0.5


def test_channels_are_scaled_to_unit_deviation_on_normals() -> None:
    """A squared difference counts alike in all channels; one that hardly moves is not blown up."""
    bank, detector, encode = made(interference=False)
    bank.fill(detector, encode)

    with torch.no_grad():
        features = detector.eval().encode(torch.from_numpy(PICTURES))

    for level in features:
        deviation = level.std(dim=(0, 2, 3))
        assert deviation.max() <= 1 + 1e-3
        assert float(deviation.median()) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_filling_leaves_the_mode_as_it_was_and_the_encoder_untouched(training: bool) -> None:
    """Batch statistics that move while filling would make the memory stale at once."""
    bank, detector, encode = made()
    detector.train(training)

    bank.fill(detector, encode)

    detector.check_fresh()
    assert detector.training is training


def test_a_single_picture_is_compared_with_itself() -> None:
    """There is no other; its distances must still have a unit."""
    _, detector, encode = made(interference=False)
    config = TrainConfig.model_validate(TINY.model_dump() | {"encoder": "vaegan", "interference": False})
    alone = Bank(PICTURES[:1], NUMBERS[:1], config)
    single = Detector(detector.encoder, empty_memory(config, detector.encoder.channels, alone.size), config)

    alone.fill(single, encode)

    assert single.distance_unit.isfinite().all()
    assert single.distance_unit[1] > 0


def test_refilling_changes_the_memory_alone() -> None:
    """The head learned with these scales and this unit; only what is remembered may be more."""
    bank, detector, encode = made(memory_patches=10**6)
    few = Bank(PICTURES[:6], NUMBERS[:6], TrainConfig.model_validate(TINY.model_dump() | {"encoder": "vaegan"}))
    few.fill(detector, encode)
    before = {name: value.clone() for name, value in detector.state_dict().items()}

    bank.refill(detector.eval(), encode)

    changed = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"memory"}
    assert set(detector.memory.source.tolist()) == set(range(10))
    detector.check_fresh()
