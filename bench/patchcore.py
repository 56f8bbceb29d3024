"""PatchCore, the baseline of the benchmarks, on our own encoder (Roth et al., CVPR 2022, arXiv 2106.08265).

A bank of patch features from good parts, thinned to a coreset; a part is as anomalous as its patch that lies farthest
from the bank. It differs from the paper in the encoder (EfficientNet-Lite0 for WideResNet50) and, as anomalib does, in
leaving out the pooling to 1,024 channels: ours has 152.
"""

from __future__ import annotations

import cv2
import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mapl_edge.arrays import FloatArray, IntArray, UInt8Array
from mapl_edge.engine import Reading
from mapl_edge.model.frozen import Encode

BATCH = 8
PROJECTED = 128  # dimensions in which the coreset is chosen (§3.2)
NEIGHBOURS = 9  # b of the re-weighting (§3.3)
BLUR_SIGMA = 4.0  # pixels (§3.3)
MIN_BANK, MAX_BANK = 100, 10_000


class PatchCore:
    """A bank of normal patches and the search in it.

    Attributes:
        bank: float32 (M, 152), the coreset.
    """

    def __init__(self, encode: Encode, bank: FloatArray, reweighted: bool = True) -> None:
        self._encode, self._reweighted = encode, reweighted
        self.bank = np.ascontiguousarray(bank, np.float32)
        self._index = faiss.IndexFlatL2(self.bank.shape[1])
        self._index.add(self.bank)

    @classmethod
    def fit(
        cls,
        encode: Encode,
        pictures: UInt8Array,
        coreset_share: float = 0.01,
        seed: int = 0,
        reweighted: bool = True,
    ) -> PatchCore:
        """Fill the bank from good parts and thin it out (§3.1, §3.2).

        Args:
            encode: the frozen encoder, see `mapl_edge.model.frozen`.
            pictures: good parts, prepared, uint8 (N, H, W, 3) BGR.
            coreset_share: of all patches, what stays in the bank; but at least 100 of them, where there are as many,
                and at most 10,000: choosing takes time in proportion to patches times centres.
            seed: of the random projection and the first centre.
            reweighted: whether `read` scores with Eq. 7 (the paper) or with the plain distance.
        """
        parts = [patches_from_features(encode(pictures[i : i + BATCH]))[0] for i in range(0, len(pictures), BATCH)]
        patches = np.concatenate(parts)  # (N * H/8 * W/8, 152)
        parts.clear()
        n = min(len(patches), MAX_BANK, max(MIN_BANK, round(coreset_share * len(patches))))
        return cls(encode, patches[k_centres(projected(patches, seed), n, seed)], reweighted)

    @property
    def size_bytes(self) -> int:
        """Of the bank alone; the encoder comes on top."""
        return self.bank.nbytes

    def read(self, picture: UInt8Array) -> Reading:
        """Score one prepared picture, uint8 (H, W, 3) BGR (§3.3).

        The map holds distances, bilinearly enlarged and blurred; the score is the largest patch distance before both,
        re-weighted. `nearest` is the patch of the bank that the most anomalous patch was compared with.
        """
        patches, (h, w) = patches_from_features(self._encode(picture[None]))
        squared, nearest = self._index.search(patches, 1)
        distances = np.sqrt(np.maximum(squared[:, 0], 0))  # (h * w,)
        worst = int(distances.argmax())
        score, twin = float(distances[worst]), int(nearest[worst, 0])
        if self._reweighted:
            score *= self._weight(patches[worst], twin)
        grown = cv2.resize(distances.reshape(h, w), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        blurred = cv2.GaussianBlur(grown, (0, 0), BLUR_SIGMA)
        return Reading(score, np.asarray(blurred, np.float32), twin)

    def _weight(self, patch: FloatArray, twin: int) -> float:
        """1 - exp|x - m*| / Σ exp|x - m| over the b patches m nearest to m*, m* itself among them (Eq. 7)."""
        _, around = self._index.search(self.bank[twin : twin + 1], min(NEIGHBOURS, len(self.bank)))
        distances = np.linalg.norm(self.bank[around[0]] - patch, axis=1).astype(np.float64)
        own = float(np.linalg.norm(self.bank[twin] - patch))
        return 1 - 1 / float(np.exp(distances - own).sum())  # both sides of the fraction divided by its numerator


def patches_from_features(features: list[Tensor]) -> tuple[FloatArray, tuple[int, int]]:
    """Locally aware patch features (§3.1): strides 8 and 16, pooled over 3×3 neighbours, joined at stride 8.

    Args:
        features: one (B, C, H/s, W/s) for each stride s of 4, 8 and 16; the first is not used.

    Returns:
        float32 (B * H/8 * W/8, C2 + C3), row by row and picture by picture, and (H/8, W/8).
    """
    fine, coarse = (F.avg_pool2d(level, 3, stride=1, padding=1) for level in features[1:])
    h, w = fine.shape[2:]
    coarse = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    joined = torch.cat([fine, coarse], dim=1)  # (B, C2 + C3, H/8, W/8)
    patches = joined.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H/8 * W/8, C2 + C3)
    return np.ascontiguousarray(patches.numpy(), np.float32), (h, w)


def projected(points: FloatArray, seed: int) -> FloatArray:
    """A random projection of (N, D) to (N, 128) that keeps distances on average; points of fewer dimensions stay."""
    d = points.shape[1]
    if d <= PROJECTED:
        return points
    matrix = np.random.default_rng([seed, 0]).standard_normal((d, PROJECTED), dtype=np.float32) / PROJECTED**0.5
    return np.asarray(points @ matrix, np.float32)


def k_centres(points: FloatArray, n: int, seed: int) -> IntArray:
    """Greedy k-centre (Algorithm 1): each next centre is the point farthest from all centres so far.

    Args:
        points: float32 (N, D).
        n: how many centres, at most N; no point is taken twice, not even where points are equal.
        seed: of the first centre, which is random.

    Returns:
        int64 (n,), indices in the order in which they were chosen.
    """
    x = torch.from_numpy(points)
    half_squares = x.square().sum(1) / 2  # (N,)
    # Of |x - c|² = |x|² - 2 x·c + |c|², halved: one matrix-vector product per centre reads the points once.
    far = torch.full_like(half_squares, float("inf"))  # half the squared distance to the nearest centre
    chosen = np.empty(n, np.int64)
    chosen[0] = np.random.default_rng([seed, 1]).integers(len(points))
    for k in range(n - 1):
        c = int(chosen[k])
        torch.minimum(far, torch.addmv(half_squares, x, x[c], alpha=-1) + half_squares[c], out=far)
        far[c] = -float("inf")
        chosen[k + 1] = int(far.argmax())
    return chosen
