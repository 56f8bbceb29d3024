"""Validation: held-out normals and simulated defects on them. Whatever training chooses, it chooses by these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mapl_edge.arrays import BoolArray, Float64Array, IntArray, UInt8Array
from mapl_edge.interference import Interference
from mapl_edge.metrics import auroc, average_precision
from mapl_edge.model.bank import Bank
from mapl_edge.model.detector import Compared, Detector
from mapl_edge.model.evidence import log_odds
from mapl_edge.model.frozen import Encode
from mapl_edge.model.simulate import Simulator

SIMULATED_PER_PICTURE = 2
FIRST_NUMBER = 1 << 40  # simulations for validation are numbered from here, far from those trained on
GROUPS = 20  # of normals that are left out in turn to tell how far chance moves a score
STEP = 4  # of the map's pixels every fourth in both directions is measured: maps are no finer


@dataclass(frozen=True)
class DistanceScore:
    """How well a distance tells held-out normals from simulated defects.

    Attributes:
        all: 0 to 1, on all pictures.
        without: float64 (G,), with a group of normals and all that was made from them left out, for each group;
            none where there is only one normal.
    """

    all: float
    without: Float64Array

    def clearly_above(self, other: DistanceScore) -> bool:
        """Whether this one, of the same pictures, is better by more than one standard error of the difference.

        The error is the jackknife's over the groups (Efron & Stein, 1981, "The jackknife estimate of variance").
        """
        n = len(self.without)
        if n < 2:
            return False
        differences = self.without - other.without
        error = float(np.sqrt((n - 1) / n * np.sum((differences - differences.mean()) ** 2)))
        return self.all - other.all > error


class Validation:
    """Pictures that nothing is fitted to but the units of the score.

    Attributes:
        pictures: uint8 (N, H, W, 3), of each normal itself, then defects simulated on it.
        masks: uint8 (N, H, W).
        own: int64 (N,), the number of the normal that each was made from.
    """

    def __init__(self, normals: UInt8Array, numbers: IntArray, simulator: Simulator, disturb: bool) -> None:
        images, masks = [], []
        for n, normal in enumerate(normals):
            for k in range(SIMULATED_PER_PICTURE + 1):
                image, mask = normal, np.zeros(normal.shape[:2], np.uint8)
                if k > 0:
                    image, mask = simulator.sample(normal, FIRST_NUMBER + n * SIMULATED_PER_PICTURE + k)
                if disturb and (n + k) % 2:
                    number = n * (SIMULATED_PER_PICTURE + 1) + k
                    image = Interference().augment(np.random.default_rng([simulator.seed, FIRST_NUMBER, number]), image)
                images.append(image)
                masks.append(mask)
        self.pictures, self.masks = np.stack(images), np.stack(masks)
        self.own = torch.from_numpy(np.repeat(numbers, SIMULATED_PER_PICTURE + 1))
        self._compared: list[Compared] = []

    def compare(self, detector: Detector, encode: Encode, bank: Bank | None = None) -> None:
        """Encode and compare all pictures; again whenever encoder or memory moved.

        `bank` is given where the memory holds these normals too: then none is compared with itself.
        """
        detector.eval()  # batch statistics must not move: the memory would be stale
        exclude = None if bank is None else bank.slots(self.own)
        with torch.inference_mode():
            self._compared = [
                detector.compare(
                    detector.scaled(encode(self.pictures[i : i + 8])), None if exclude is None else exclude[i : i + 8]
                )
                for i in range(0, len(self.pictures), 8)
            ]

    def head(self, detector: Detector) -> tuple[Tensor, Tensor]:
        """The decoder's log-odds (N, 1, H/4, W/4) and the distance (N, 1, H/8, W/8)."""
        with torch.inference_mode():
            stride = detector.decoder.stride
            odds = torch.cat([log_odds(detector.decode(part), stride) for part in self._compared])
        return odds, torch.cat([part.distance for part in self._compared])

    def score(self, detector: Detector) -> dict[str, float]:
        """How well the detector as it is now tells normals from simulated defects; its evidence is fitted first."""
        detector.eval()
        positive = self.masks.any((1, 2))
        with torch.inference_mode():
            if detector.evidence is not None:
                odds, distance = self.head(detector)
                detector.evidence.fit(odds, distance, torch.from_numpy(positive))
                scores, maps = detector.evidence(odds, distance)
            else:
                judged = [detector.judge(part, detector.decode(part)) for part in self._compared]
                scores, maps = (torch.cat(values) for values in zip(*judged, strict=True))
        few = np.s_[:, STEP // 2 :: STEP, STEP // 2 :: STEP]
        image_ap = average_precision(positive, scores.numpy())
        n, h, w = self.masks.shape
        cells = self.masks.reshape(n, h // STEP, STEP, w // STEP, STEP).max((2, 4))  # a speck between them counts too
        pixel_ap = average_precision(cells.ravel() > 0, maps.numpy()[few].ravel())
        return {
            "validation_image_auroc": auroc(positive, scores.numpy()),
            "validation_image_ap": image_ap,
            "validation_pixel_ap": pixel_ap,
            "validation_score": (image_ap + pixel_ap) / 2,
        }

    def distance_score(self) -> DistanceScore:
        """How well the distance alone does so: mean of image AUROC and pixel AP, at stride 8."""
        distance = torch.cat([part.distance for part in self._compared])[:, 0].numpy()
        n, h, w = distance.shape
        cells: BoolArray = np.asarray(self.masks.reshape(n, h, 8, w, 8).max((2, 4)) > 0)
        positive: BoolArray = np.asarray(self.masks.any((1, 2)))

        def score(those: BoolArray) -> float:
            by_picture = auroc(positive[those], distance[those].reshape(those.sum(), -1).max(1))
            return (by_picture + average_precision(cells[those].ravel(), distance[those].ravel())) / 2

        groups = np.unique(self.own.numpy(), return_inverse=True)[1] % GROUPS
        without = [score(groups != group) for group in np.unique(groups)] if len(np.unique(groups)) > 1 else []
        return DistanceScore(score(np.ones(n, bool)), np.array(without))

    def golden(self, detector: Detector, count: int) -> UInt8Array:
        """Pictures to prove engines with, uint8 (count, H, W, 3), normal and anomalous.

        Of a patch memory those whose nearest patches are nearest by far: a tie within rounding may be decided either
        way, and would look like a broken engine.
        """
        margin = getattr(detector.memory, "margin", None)
        if margin is None:
            return self.pictures[:: max(1, -(-len(self.pictures) // count))]
        with torch.inference_mode():
            gaps = torch.cat([margin(part.features) for part in self._compared]).numpy()
        anomalous = self.masks.any((1, 2))
        clear = [np.flatnonzero(those)[np.argsort(-gaps[those], kind="stable")] for those in (~anomalous, anomalous)]
        chosen = np.concatenate([clear[0][: count // 2], clear[1][: count - count // 2]])
        golden: UInt8Array = self.pictures[np.sort(chosen)]
        return golden
