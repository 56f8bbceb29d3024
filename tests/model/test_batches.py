"""Batches: what is in each, that a step decides all of it, and that squares are cut where the defects are."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY

from mapl_edge.config import TrainConfig
from mapl_edge.model.batches import CROPS, GRID, ON_DEFECT, Batch, Batches, RealDefect, cut_out, square_side
from mapl_edge.model.detector import Compared
from mapl_edge.model.simulate import Simulator
from mapl_edge.testing import SyntheticLine

PICTURES = np.stack([SyntheticLine(seed=2, size_hw=(96, 64)).good(i).image for i in range(10)])
TRAIN = np.array([0, 2, 3, 5, 7, 8, 9])


def config_with(**changes: Any) -> TrainConfig:
    """Undisturbed pictures, unless the test asks for others."""
    return TrainConfig.model_validate(TINY.model_dump() | {"interference": False, "batch_size": 8} | changes)


def batches(defects: list[RealDefect] | None = None, **changes: Any) -> Batches:
    """Of seven pictures of ten."""
    return Batches(PICTURES, TRAIN, defects or [], Simulator(3), config_with(**changes))


def real(mask: bool) -> RealDefect:
    """A black picture with a defect in its corner."""
    drawn = np.zeros((96, 64), np.uint8)
    drawn[:20, :20] = 1
    return RealDefect(np.zeros((96, 64, 3), np.uint8), drawn if mask else None)


def assert_same(one: Batch, other: Batch) -> None:
    """To the last bit."""
    assert np.array_equal(one.pictures, other.pictures)
    for name in ("masks", "drawn", "own", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.squares == other.squares


@pytest.mark.parametrize("batch_size", [2, 4, 5, 8])
def test_the_first_half_is_normal_and_the_rest_is_not(batch_size: int) -> None:
    """Table 2; normals are training pictures as they are, the others are made from the ones they say."""
    batch = batches(batch_size=batch_size).at(1)
    half = batch_size // 2

    assert batch.pictures.shape == (batch_size, 96, 64, 3)
    assert batch.masks.shape == (batch_size, 96, 64)
    assert batch.labels.tolist() == [0] * half + [-1] * (batch_size - half)
    assert batch.drawn.all()
    for i, own in enumerate(batch.own.tolist()):
        assert own in TRAIN
        mask = batch.masks[i].numpy() > 0
        assert mask.any() == (i >= half)
        assert np.array_equal(batch.pictures[i][~mask], PICTURES[own][~mask])
        assert not mask.any() or not np.array_equal(batch.pictures[i], PICTURES[own])


def test_a_step_has_one_batch() -> None:
    """Whatever was asked for before: else a resumed run would see others than an uninterrupted one."""
    first, again = batches(interference=True), batches(interference=True)
    second_first = first.at(2)

    assert_same(again.at(7), first.at(7))
    assert_same(again.at(2), second_first)
    assert not np.array_equal(first.at(2).pictures, first.at(3).pictures)
    assert not np.array_equal(first.at(2).pictures, batches(interference=True, seed=4).at(2).pictures)


def test_simulated_defects_are_new_in_every_step() -> None:
    """A number used twice would show the same defect again; the trained on and validated never meet either."""
    seen = {batch.pictures[i].tobytes() for batch in map(batches().at, range(1, 21)) for i in range(4, 8)}

    assert len(seen) == 80


def test_pictures_of_a_batch_differ_while_there_are_enough() -> None:
    """Seven pictures, batches of four; with batches of eight one must come twice."""
    assert all(len(set(batches(batch_size=4).at(step).own.tolist())) == 4 for step in range(1, 20))
    assert len(set(batches(batch_size=8).at(1).own.tolist())) < 8


def test_interference_disturbs_about_half() -> None:
    """Normals and defects alike: noise must not come to mean defect."""
    disturbed = np.zeros(8)
    for step in range(1, 41):
        batch = batches(interference=True).at(step)
        for i, own in enumerate(batch.own.tolist()):
            around = batch.masks[i].numpy() == 0
            disturbed[i] += not np.array_equal(batch.pictures[i][around], PICTURES[own][around])

    assert 55 <= disturbed[:4].sum() <= 105
    assert 55 <= disturbed[4:].sum() <= 105


@pytest.mark.parametrize("with_mask", [True, False], ids=["drawn", "not-drawn"])
def test_a_real_defect_is_the_last_of_every_batch(with_mask: bool) -> None:
    """Label 1, made from no training picture; where nobody drew it, its mask says nothing."""
    for step in range(1, 6):
        batch = batches([real(with_mask)]).at(step)

        assert batch.labels.tolist() == [0, 0, 0, 0, -1, -1, -1, 1]
        assert int(batch.own[-1]) == -1
        assert batch.drawn.tolist() == [True] * 7 + [with_mask]
        assert not batch.pictures[-1].any()
        assert float(batch.masks[-1].sum()) == (400 if with_mask else 0)
        assert (batch.own[:-1] >= 0).all()


def test_every_real_defect_gets_its_turn() -> None:
    """Two dozen steps, three defects."""
    defects = [RealDefect(np.full((96, 64, 3), shade, np.uint8), None) for shade in (10, 20, 30)]

    seen = {int(batches(defects).at(step).pictures[-1].mean()) for step in range(1, 25)}

    assert seen == {10, 20, 30}


@pytest.mark.parametrize("size_hw", [(96, 64), (64, 64), (160, 256)])
def test_squares_lie_in_the_picture_and_mostly_over_the_defect(size_hw: tuple[int, int]) -> None:
    """A head that learns from squares of background alone learns nothing."""
    pictures = np.stack([SyntheticLine(seed=2, size_hw=size_hw).good(i).image for i in range(4)])
    config = config_with(contract={"size_hw": size_hw}, crop=64, batch_size=4)
    feed = Batches(pictures, np.arange(4), [], Simulator(3), config)
    over, starts = [], set()
    for step in range(1, 41):
        batch = feed.at(step)
        assert len(batch.squares) == 4
        for mask, squares in zip(batch.masks.numpy(), batch.squares, strict=True):
            assert len(squares) == CROPS
            for top, left in squares:
                assert 0 <= top * GRID <= size_hw[0] - 64
                assert 0 <= left * GRID <= size_hw[1] - 64
                starts.add((top, left))
                if mask.any():
                    over.append(bool(mask[top * GRID : top * GRID + 64, left * GRID : left * GRID + 64].any()))

    assert np.mean(over) >= 0.9 * ON_DEFECT  # a tiny one may slip past the clipped grid
    for axis in (0, 1):
        assert {start[axis] for start in starts} == set(range((size_hw[axis] - 64) // GRID + 1)), "none is left out"


def test_without_crop_whole_pictures_are_learned_from() -> None:
    """The paper's way."""
    assert batches(crop=None).at(1).squares == []


@pytest.mark.parametrize(
    ("crop", "size_hw", "side"), [(96, (256, 256), 96), (96, (96, 64), 64), (256, (160, 416), 160), (64, (64, 64), 64)]
)
def test_squares_are_no_larger_than_the_picture(crop: int, size_hw: tuple[int, int], side: int) -> None:
    """A narrow picture has smaller ones."""
    assert square_side(config_with(crop=crop), size_hw) == side


def compared_of(batch: Batch) -> Compared:
    """Numbers that tell picture, channel and place."""
    b, h, w = batch.masks.shape
    generator = torch.Generator().manual_seed(0)

    def level(c: int, stride: int) -> torch.Tensor:
        return torch.rand((b, c, h // stride, w // stride), generator=generator)

    return Compared(
        [level(c, s) for c, s in ((3, 4), (4, 8), (5, 16))],
        [level(c, s) for c, s in ((3, 4), (4, 8), (5, 16))],
        level(1, 8),
        torch.zeros((b, h // 8, w // 8), dtype=torch.int64),
    )


@pytest.mark.parametrize("with_mask", [True, False], ids=["drawn", "not-drawn"])
def test_cut_out_is_slicing_at_every_level(with_mask: bool) -> None:
    """The same square of the picture at strides 1, 4, 8 and 16; picture by picture, square by square."""
    batch = batches([real(with_mask)]).at(3)
    compared = compared_of(batch)

    squares, masks, drawn = cut_out(compared, batch, 64)

    at = [(i, top * 16, left * 16) for i, starts in enumerate(batch.squares) for top, left in starts]
    assert len(at) == 16
    for n, (i, y, x) in enumerate(at):
        for ours, whole, s in [
            *zip(squares.features, compared.features, (4, 8, 16), strict=True),
            *zip(squares.differences, compared.differences, (4, 8, 16), strict=True),
            (squares.distance, compared.distance, 8),
        ]:
            expected = whole[i, :, y // s : (y + 64) // s, x // s : (x + 64) // s]
            assert expected.shape[1:] == (64 // s, 64 // s)
            assert torch.equal(ours[n], expected)
        assert torch.equal(masks[n], batch.masks[i, y : y + 64, x : x + 64])
        assert bool(drawn[n]) == bool(batch.drawn[i])


def test_without_squares_all_is_passed_on() -> None:
    """Untouched."""
    batch = batches(crop=None).at(3)
    compared = compared_of(batch)

    squares, masks, drawn = cut_out(compared, batch, 96)

    assert squares is compared
    assert torch.equal(masks, batch.masks)
    assert torch.equal(drawn, batch.drawn)
