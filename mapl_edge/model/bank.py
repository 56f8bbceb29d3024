"""Bank: the normal pictures behind a memory, and their usual distance from each other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mapl_edge.arrays import IntArray, UInt8Array
from mapl_edge.config import TrainConfig
from mapl_edge.interference import Interference
from mapl_edge.model.detector import Detector
from mapl_edge.model.frozen import Encode
from mapl_edge.place import moved

DISTURBED_SHARE = 0.3  # of the pictures are in a patch memory a second time, disturbed; more would crowd out clean ones
MOST_MOVED = 200  # pictures that are in it a second time, moved: of many, some lie there anyway
USUAL = 96  # pictures that tell the usual distance


class Bank:
    """The normal pictures behind a memory.

    Attributes:
        pictures: uint8 (K, H, W, 3), each once.
        size: samples or patches that the memory holds.
    """

    def __init__(self, pictures: UInt8Array, numbers: IntArray, config: TrainConfig) -> None:
        self.pictures = pictures
        k, none = len(pictures), np.arange(0)
        rng, patches = np.random.default_rng([config.seed, 3]), config.memory == "patch"
        disturbs, px = config.interference and patches, config.moved_px if config.moved_px and patches else 0.0
        disturbed = rng.choice(k, math.ceil(DISTURBED_SHARE * k), replace=False) if disturbs else none
        copies = [Interference().augment(rng, pictures[i]) for i in disturbed]
        beside = rng.choice(k, min(k, MOST_MOVED), replace=False) if px else none
        copies += [np.asarray(moved(pictures[i], *rng.uniform(-px, px, 2)), np.uint8) for i in beside]
        self._all = np.concatenate([pictures, np.stack(copies)]) if copies else pictures
        self._n_in_place = k + len(disturbed)
        self._sources = torch.from_numpy(np.concatenate([np.arange(k), disturbed, beside]))
        places = pictures.shape[1] * pictures.shape[2] // 64
        self.size = k if config.memory == "image" else min(config.memory_patches, places * len(self._all))
        self._slot_of = {int(number): slot for slot, number in enumerate(numbers)}

    def slots(self, own: Tensor) -> Tensor:
        """Which of the bank's pictures a training picture is, by its number; -1 for none. int64 (B,)."""
        return torch.tensor([self._slot_of.get(int(number), -1) for number in own])

    def fill(self, detector: Detector, encode: Encode) -> None:
        """Fill the detector's memory as its encoder is now, and learn the unit of the distance."""
        was_training = detector.training
        detector.eval()
        with torch.no_grad():
            detector.fill_memory(_encode_all(encode, self._all), self._sources)
            detector.distance_unit.copy_(torch.tensor([0.0, 1.0]))
            distance = self._usual_distance(detector, encode)
            detector.distance_unit.copy_(torch.stack([distance.mean(), distance.std(correction=0).clamp_min(1e-6)]))
        detector.train(was_training)

    def refill(self, detector: Detector, encode: Encode) -> None:
        """Fill the memory of a trained detector with these pictures; its scales and units stay what the head knows."""
        with torch.no_grad():
            detector.memory.fill(_encode_all(lambda few: detector.scaled(encode(few)), self._all), self._sources)

    def _usual_distance(self, detector: Detector, encode: Encode) -> Tensor:
        """Of its pictures where they lie, (N, 1, H/8, W/8), none compared with itself unless it is the only one."""
        chosen = np.linspace(0, self._n_in_place - 1, min(USUAL, self._n_in_place)).astype(int)
        distances = []
        for i in range(0, len(chosen), 8):
            part = chosen[i : i + 8]
            exclude = None if len(self.pictures) == 1 else self._sources[part]
            distances.append(detector.compare(detector.scaled(encode(self._all[part])), exclude).distance)
        return torch.cat(distances)


def _encode_all(encode: Encode, pictures: UInt8Array) -> list[Tensor]:
    """Each level as one tensor, filled in place: parts and their sum at once would be twice as much."""
    levels: list[Tensor] = []
    for i in range(0, len(pictures), 8):
        part = encode(pictures[i : i + 8])
        levels = levels or [level.new_empty(len(pictures), *level.shape[1:]) for level in part]
        for level, some in zip(levels, part, strict=True):
            level[i : i + 8] = some
    return levels
