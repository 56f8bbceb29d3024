"""Predictor q (MAPL §2): the anomaly score of a whole picture from the encoder's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HIDDEN = 64


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The vector r = h(x) that the pseudo-labeler and q both see.

    Of each level every channel's mean and maximum over the picture: the mean tells a change of the whole part, the
    maximum keeps a defect of a few pixels, which a mean over thousands of places would drown.

    Args:
        features: float32 (B, C, H, W), one per level; sizes may differ from level to level.

    Returns:
        float32 (B, D), D = `pooled_dims` of the levels' channels, level by level means then maxima. Gradient flows
        through, to the encoder where it trains.
    """
    return torch.cat([value for x in features for value in (x.mean(dim=(2, 3)), x.amax(dim=(2, 3)))], dim=1)  # (B, D)


def pooled_dims(channels: Sequence[int]) -> int:
    """D: how long the vector of `pooled` is for levels of so many channels."""
    return 2 * sum(channels)


class Predictor(nn.Module):
    """q: pooled features → logit of "anomalous" (§2: q(r) is the sigmoid of it).

    The paper does not draw it; this is one hidden layer. The layer norm in front brings means and maxima, whose sizes
    differ by an order, to one scale without statistics of a batch, which at four pictures would be noise.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dims), nn.Linear(dims, HIDDEN), nn.LeakyReLU(inplace=True), nn.Linear(HIDDEN, 1)
        )

    def forward(self, pooled_features: Tensor) -> Tensor:
        """float32 (B, D) → logits (B,)."""
        logits: Tensor = self.layers(pooled_features).squeeze(1)
        return logits
