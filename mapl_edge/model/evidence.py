"""Evidence: what the decoder and the distance say together, in units of what they say of normal parts.

The decoder knows defects that look like simulated ones; the distance knows whatever is far from all normals, however it
looks. Each is brought to zero mean and unit deviation on normal pictures, then they add up. The decoder's voice is
weighted by how well it tells simulated defects from normals: on a surface where it cannot, it has little to say of real
ones either. A rough part is far from all others everywhere, which is no defect: what the highest places say is lowered
by what a picture's level, its median distance, makes one expect of a normal picture. Nothing here needs a real defect.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.model.decoder import upsample

JOINT_WINDOWS, DISTANCE_WINDOWS = (1, 3, 9), (1, 3, 5)  # cells of stride 4 and of stride 8: a speck to a broad stain
TOP_CELLS = 6  # of stride 4: the size of a 10x10 px defect
LEVEL_SHARE = 0.5  # of the least-squares slope: a defect raises a picture's level a little too


class Evidence(nn.Module):
    """Joins decoder and distance.

    Attributes:
        head_unit: float32 (2,), mean and deviation of the decoder's log-odds on normal pictures.
        weight: float32 (), of the decoder, 0 to 1.
        level_slope: float32 (P,), how much of a pooled value a picture's level explains; 0: none.
        level_range: float32 (2,), lowest and highest level of normal pictures: beyond them nothing is explained away.
        pool_mean, pool_std: float32 (P,), of each pooled value on normal pictures, less what their level explains.
        pool_share: float32 (P,), how much each counts, 1 in all: joint evidence by the decoder's weight, distance by
            what that leaves.
        middle: float32 (), joint evidence that the map shows as 0.5: what one in a thousand normal pixels exceeds.
    """

    head_unit: Tensor
    weight: Tensor
    level_slope: Tensor
    level_range: Tensor
    pool_mean: Tensor
    pool_std: Tensor
    pool_share: Tensor
    middle: Tensor

    def __init__(self) -> None:
        super().__init__()
        pools = len(JOINT_WINDOWS) + len(DISTANCE_WINDOWS)
        self.register_buffer("head_unit", torch.tensor([0.0, 1.0]))
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("level_slope", torch.zeros(pools))
        self.register_buffer("level_range", torch.zeros(2))
        self.register_buffer("pool_mean", torch.zeros(pools))
        self.register_buffer("pool_std", torch.ones(pools))
        self.register_buffer("pool_share", torch.full((pools,), 1 / pools))
        self.register_buffer("middle", torch.zeros(()))

    def forward(self, head: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder and distance → raw scores and anomaly maps.

        Args:
            head: log-odds, float32 (B, 1, H/4, W/4).
            distance: float32 (B, 1, H/8, W/8), zero mean and unit deviation on normal pictures.

        Returns:
            Scores (B,): the weighted mean of several pooled values, each in deviations from its mean on normal
            pictures; no limits. Maps (B, H, W), 0 to 1.
        """
        joint = self.joint(head, distance)
        level = _level(distance).clamp(self.level_range[0], self.level_range[1])
        pooled = self._pooled(joint, distance) - level * self.level_slope
        scores = ((pooled - self.pool_mean) / self.pool_std * self.pool_share).sum(1)
        return scores, torch.sigmoid(upsample((joint - self.middle) / 2, 4).squeeze(1))

    def joint(self, head: Tensor, distance: Tensor) -> Tensor:
        """The weighted sum of both, in deviations, float32 (B, 1, H/4, W/4)."""
        near = (head - self.head_unit[0]) / self.head_unit[1]
        return self.weight * near + _mean_over(upsample(distance, 2), 3)

    def fit(self, head: Tensor, distance: Tensor, anomalous: Tensor) -> None:
        """Learn all attributes from held-out pictures, normal ones and simulated defects on them.

        Args:
            head, distance: as in `forward`, of N pictures.
            anomalous: bool (N,), which have a simulated defect; at least one has none.
        """
        normal = head[~anomalous]
        self.head_unit.copy_(torch.stack([normal.mean(), normal.std(correction=0).clamp_min(1e-3)]))
        self.weight.fill_(reliability(_top(head, 1), anomalous))
        joint_share, far_share = self.weight / len(JOINT_WINDOWS), (1 - self.weight) / len(DISTANCE_WINDOWS)
        self.pool_share[: len(JOINT_WINDOWS)], self.pool_share[len(JOINT_WINDOWS) :] = joint_share, far_share
        joint, far = self.joint(head, distance)[~anomalous], distance[~anomalous]
        pooled, level = self._pooled(joint, far), _level(far)
        self.level_range.copy_(torch.cat([level.min(0).values, level.max(0).values]))
        self.level_slope.copy_(LEVEL_SHARE * _slope(level, pooled))
        pooled = pooled - level * self.level_slope
        self.pool_mean.copy_(pooled.mean(0))
        self.pool_std.copy_(pooled.std(0, correction=0).clamp_min(1e-3))
        values = joint.flatten().sort().values
        self.middle.copy_(values[int(0.999 * (len(values) - 1))])

    def _pooled(self, joint: Tensor, far: Tensor) -> Tensor:
        tops = [_top(joint, window) for window in JOINT_WINDOWS]
        tops += [_mean_over(far, window).flatten(1).amax(1) for window in DISTANCE_WINDOWS]
        return torch.stack(tops, dim=1)  # (B, P)


def reliability(scores: Tensor, anomalous: Tensor) -> float:
    """The squared Gini coefficient (2 AUROC - 1)² of scores (N,): 1 where they tell all apart, 0 where they guess.

    1 as well where there is nothing to tell apart, and 0 where they are worse than a guess.
    """
    good, bad = scores[~anomalous], scores[anomalous]
    if not len(good) or not len(bad):
        return 1.0
    above = (bad.unsqueeze(1) > good).double() + 0.5 * (bad.unsqueeze(1) == good).double()
    return max(0.0, 2 * float(above.mean()) - 1) ** 2


def log_odds(logits: Tensor, stride: int) -> Tensor:
    """Logits of normal and anomalous, (B, 2, H/stride, W/stride), stride 4 or 1 → log-odds of anomalous at stride 4."""
    return at_stride_4(logits[:, 1:] - logits[:, :1], stride)


def at_stride_4(odds: Tensor, stride: int) -> Tensor:
    """Log-odds (B, 1, H/stride, W/stride), stride 4 or 1 → (B, 1, H/4, W/4)."""
    return odds if stride == 4 else F.avg_pool2d(odds, 4 // stride)


def _level(distance: Tensor) -> Tensor:
    """The median over cells of stride 16, (B, 1, H/8, W/8) → (B, 1); of an even number the upper of the middle two."""
    cells = F.avg_pool2d(distance, 2).flatten(1)
    return cells.topk((cells.shape[1] + 1) // 2, dim=1).values[:, -1:]


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Of the line through y (N, P) over x (N, 1) by least squares, never downwards, (P,); 0 where x does not vary."""
    away = x - x.mean()
    return ((away * (y - y.mean(0))).sum(0) / away.square().sum().clamp_min(1e-6)).clamp_min(0)


def _top(x: Tensor, window: int) -> Tensor:
    return _mean_over(x, window).flatten(1).topk(TOP_CELLS, dim=1).values.mean(1)


def _mean_over(x: Tensor, window: int) -> Tensor:
    return x if window == 1 else F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)
