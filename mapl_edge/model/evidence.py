"""Evidence: what the decoder and the distance say together, in units of what they say of normal parts.

The decoder knows defects that look like simulated ones; the distance knows whatever is far from all normals, however it
looks. Each is brought to zero mean and unit deviation on normal pictures, then they add up. Where normal parts differ
more in some places than in others (edges, seams), mean and deviation are taken place by place; whether that helps is
decided on held-out normals and simulated defects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.model.decoder import upsample

HEAD_WINDOWS, DISTANCE_WINDOWS = (1, 3, 9), (1, 3, 5)  # cells of stride 4 and of stride 8: a speck to a broad stain
TOP_CELLS = 6  # of stride 4: the size of a 10x10 px defect
SMOOTHING = 5  # cells of stride 8 that share a place's statistics
SHARED = 0.1  # of the overall variance is added at each place: a quiet place is not infinitely trusted


class Evidence(nn.Module):
    """Joins decoder and distance.

    Attributes:
        head_mean, head_std: float32 (1, 1, H/4, W/4), of the decoder's log-odds on normal pictures.
        distance_mean, distance_std: float32 (1, 1, H/8, W/8), of the distance.
        pool_mean, pool_std: float32 (P,), of each pooled value on normal pictures.
        middle: float32 (), joint evidence that the map shows as 0.5: what one in a thousand normal pixels exceeds.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        super().__init__()
        h, w = size_hw
        for name, stride in (("head", 4), ("distance", 8)):
            self.register_buffer(f"{name}_mean", torch.zeros(1, 1, h // stride, w // stride))
            self.register_buffer(f"{name}_std", torch.ones(1, 1, h // stride, w // stride))
        pools = len(HEAD_WINDOWS) + len(DISTANCE_WINDOWS)
        self.register_buffer("pool_mean", torch.zeros(pools))
        self.register_buffer("pool_std", torch.ones(pools))
        self.register_buffer("middle", torch.zeros(()))

    def forward(self, head: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (B, 1, H/4, W/4) and distance (B, 1, H/8, W/8) → raw scores (B,), maps (B, H, W) from 0 to 1."""
        joint, far = self.joint(head, distance)
        pooled = (self._pooled(joint, far) - self._get("pool_mean")) / self._get("pool_std")  # (B, P)
        maps = torch.sigmoid((upsample(joint, 4) - self._get("middle")) / 2)[:, 0]
        return pooled.mean(1), maps

    def joint(self, head: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both at stride 4, (B, 1, H/4, W/4), and the distance's share at stride 8, in deviations."""
        far = (distance - self._get("distance_mean")) / self._get("distance_std")
        near = (head - self._get("head_mean")) / self._get("head_std")
        return near + _mean_over(upsample(far, 2), 3), far

    def fit(self, head: Tensor, distance: Tensor, by_place: bool) -> None:
        """Learn what is usual from normal pictures: log-odds (N, 1, H/4, W/4), distance (N, 1, H/8, W/8)."""
        for name, values, smoothing in (("head", head, 2 * SMOOTHING - 1), ("distance", distance, SMOOTHING)):
            overall = values.var(correction=0) + 1e-6
            mean, variance = values.mean(), overall
            if by_place:
                mean = _mean_over(values.mean(0, keepdim=True), smoothing)
                variance = _mean_over(values.var(0, keepdim=True, correction=0), smoothing) + SHARED * overall
            self._get(f"{name}_mean").copy_(mean.expand_as(self._get(f"{name}_mean")))
            self._get(f"{name}_std").copy_(variance.sqrt().expand_as(self._get(f"{name}_std")))

    def fit_scores(self, head: Tensor, distance: Tensor) -> None:
        """Learn from normal pictures that nothing was fitted to what scores and map values are usual."""
        joint, far = self.joint(head, distance)
        pooled = self._pooled(joint, far)
        self._get("pool_mean").copy_(pooled.mean(0))
        self._get("pool_std").copy_(pooled.std(0, correction=0).clamp_min(1e-3))
        values = joint.flatten().sort().values
        self._get("middle").copy_(values[int(0.999 * (len(values) - 1))])

    def _pooled(self, joint: Tensor, far: Tensor) -> Tensor:
        tops = [_mean_over(joint, k).flatten(1).topk(TOP_CELLS, dim=1).values.mean(1) for k in HEAD_WINDOWS]
        return torch.stack(tops + [_mean_over(far, k).flatten(1).amax(1) for k in DISTANCE_WINDOWS], dim=1)  # (B, P)

    def _get(self, name: str) -> Tensor:
        return self.get_buffer(name)


def _mean_over(x: Tensor, window: int) -> Tensor:
    return x if window == 1 else F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)


def log_odds(logits: Tensor, stride: int) -> Tensor:
    """Logits of normal and anomalous, (B, 2, H/stride, W/stride), stride 4 or 1 → log-odds of anomalous at stride 4."""
    odds = logits[:, 1:] - logits[:, :1]
    return odds if stride == 4 else F.avg_pool2d(odds, 4 // stride)
