"""Batches: what training sees at each step, decided by the seed and the step alone, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mapl_edge.arrays import IntArray, UInt8Array
from mapl_edge.config import TrainConfig
from mapl_edge.interference import Interference
from mapl_edge.model.detector import Compared
from mapl_edge.model.simulate import Simulator

CROPS = 2  # squares from each picture
ON_DEFECT = 0.8  # share of an anomalous picture's squares that lie over its defect
DISTURBED = 0.5  # share of pictures that are disturbed
GRID = 16  # squares begin at whole cells of the coarsest level


@dataclass(frozen=True)
class RealDefect:
    """One real defective part: prepared picture uint8 (H, W, 3), mask uint8 (H, W) or None where nobody drew it."""

    picture: UInt8Array
    mask: UInt8Array | None


@dataclass(frozen=True)
class Batch:
    """B pictures, the first half normal.

    Attributes:
        pictures: uint8 (B, H, W, 3).
        masks: float32 (B, H, W), 1 where the defect is.
        drawn: bool (B,), whether the mask is the truth; else it says nothing.
        own: int64 (B,), which training picture it was made from; -1: a real defect.
        labels: int64 (B,): 0 normal, 1 real defect, -1 simulated, to be labelled by the pseudo-labeler.
        squares: top and left in cells of stride 16, for each picture; empty: learn from whole pictures.
    """

    pictures: UInt8Array
    masks: Tensor
    drawn: Tensor
    own: Tensor
    labels: Tensor
    squares: list[list[tuple[int, int]]]


class Batches:
    """Batch `step`: half normal, half anomalous (Table 2); of these the last is a real defect where there are some."""

    def __init__(
        self,
        pictures: UInt8Array,
        train: IntArray,
        defects: Sequence[RealDefect],
        simulator: Simulator,
        config: TrainConfig,
    ) -> None:
        self._pictures, self._train, self._defects = pictures, train, defects
        self._simulator, self._config = simulator, config
        self._interference = Interference()

    def at(self, step: int) -> Batch:
        """The batch of this step, counted from 1."""
        config = self._config
        b = config.batch_size
        rng = np.random.default_rng([config.seed, 2, step])
        chosen = rng.choice(self._train, b, replace=len(self._train) < b)
        own, labels, drawn = chosen.copy(), np.zeros(b, np.int64), np.ones(b, np.bool_)
        images, masks = [], []
        for i, index in enumerate(chosen):
            image, mask = self._pictures[index], np.zeros(self._pictures.shape[1:3], np.uint8)
            if i == b - 1 and self._defects:
                real = self._defects[int(rng.integers(len(self._defects)))]
                image, mask = real.picture, mask if real.mask is None else real.mask
                own[i], labels[i], drawn[i] = -1, 1, real.mask is not None
            elif i >= b // 2:
                image, mask = self._simulator.sample(image, step * b + i)
                labels[i] = -1
            if config.interference and rng.random() < DISTURBED:
                image = self._interference.augment(rng, image)
            images.append(image)
            masks.append(mask)
        squares = [self._squares(rng, mask) for mask in masks] if config.crop else []
        truth = torch.from_numpy(np.stack(masks)).float()
        known, source, kind = (torch.from_numpy(values) for values in (drawn, own, labels))
        return Batch(np.stack(images), truth, known, source, kind, squares)

    def _squares(self, rng: np.random.Generator, mask: UInt8Array) -> list[tuple[int, int]]:
        side = square_side(self._config, mask.shape)
        ends = [(length - side) // GRID for length in mask.shape]  # the last place to begin
        places = np.argwhere(mask)
        squares = []
        for _ in range(CROPS):
            top, left = (int(rng.integers(end + 1)) for end in ends)
            if len(places) and rng.random() < ON_DEFECT:
                inside = places[rng.integers(len(places))] - rng.integers(side, size=2)
                top, left = (int(np.clip(at // GRID, 0, end)) for at, end in zip(inside, ends, strict=True))
            squares.append((top, left))
        return squares


def square_side(config: TrainConfig, size_hw: Sequence[int]) -> int:
    """Side of the squares in pixels: as configured, or the whole of a smaller picture's shorter side."""
    return min(config.crop or max(size_hw), *size_hw)


def cut_out(compared: Compared, batch: Batch, side: int) -> tuple[Compared, Tensor, Tensor]:
    """The batch's squares of what was compared, their masks (N, side, side) and whether these are drawn (N,).

    Where the batch has no squares, all of it.
    """
    if not batch.squares:
        return compared, batch.masks, batch.drawn
    at = [(i, top, left) for i, starts in enumerate(batch.squares) for top, left in starts]

    def cut(x: Tensor) -> Tensor:
        """(B, C, H/s, W/s) → (N, C, side/s, side/s)."""
        stride = batch.masks.shape[1] // x.shape[2]
        cells, size = GRID // stride, side // stride
        return torch.stack([x[i, :, y * cells : y * cells + size, z * cells : z * cells + size] for i, y, z in at])

    squares = Compared(
        [cut(x) for x in compared.features],
        [cut(x) for x in compared.differences],
        cut(compared.distance),
        compared.sources,
    )
    return squares, cut(batch.masks.unsqueeze(1))[:, 0], batch.drawn[[i for i, _, _ in at]]
