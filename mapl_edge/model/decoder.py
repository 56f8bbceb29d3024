"""From features and their difference to a map: attention (Eq. 9-11), multi-scale fusion (§2.5), U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def spatial_attention(differences: Sequence[Tensor]) -> list[Tensor]:
    """M1, M2, M3 (Eq. 9-11): channel means of DI*, each level multiplied by the coarser one, upsampled.

    Args:
        differences: DI* at strides 4, 8, 16, each (B, C, H, W).

    Returns:
        Three maps (B, 1, H, W), finest first.
    """
    means = [level.mean(1, keepdim=True) for level in differences]
    m3 = means[2]  # Eq. 9
    m2 = means[1] * upsample(m3, 2)  # Eq. 10
    m1 = means[0] * upsample(m2, 2)  # Eq. 11
    return [m1, m2, m3]


class MultiScaleFusion(nn.Module):
    """MSFF (§2.5) without coordinate attention: 3x3 convolution that keeps the channels, align, add, weight by M.

    Args:
        channels: C of each level, finest first; CI has twice as many (x and DI*, §2.3).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.keep = nn.ModuleList(conv_block(2 * c, 2 * c) for c in channels)
        self.squeeze = nn.ModuleList(conv_block(2 * c, c, kernel=1) for c in channels)
        self.align = nn.ModuleList(conv_block(deep, shallow, kernel=1) for shallow, deep in pairwise(channels))

    def forward(self, features: Sequence[Tensor], differences: Sequence[Tensor]) -> list[Tensor]:
        """x and DI*, each one (B, C, H, W) per level → fused and weighted, one (B, C, H, W) per level."""
        joined = [torch.cat(pair, dim=1) for pair in zip(features, differences, strict=True)]  # CI (B, 2C, H, W)
        fused = [squeeze(keep(ci)) for keep, squeeze, ci in zip(self.keep, self.squeeze, joined, strict=True)]
        for i in reversed(range(len(fused) - 1)):
            fused[i] = fused[i] + upsample(self.align[i](fused[i + 1]), 2)
        weights = spatial_attention(differences)
        return [level * weight for level, weight in zip(fused, weights, strict=True)]


class UNetDecoder(nn.Module):
    """Decoder g: from the coarsest level up, joining each finer level by a skip connection (§2.3).

    Args:
        channels: C of each level, finest first, strides 4, 8, 16.
        stride: 4 ends at the finest level; 1 goes on to full resolution as the paper does, at 3.5 times the work.
    """

    def __init__(self, channels: Sequence[int], stride: int = 4) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.up2 = conv_block(c3, c2)
        self.join2 = nn.Sequential(conv_block(2 * c2, c2), conv_block(c2, c2))
        self.up1 = conv_block(c2, c1)
        self.join1 = nn.Sequential(conv_block(2 * c1, c1), conv_block(c1, c1))
        self.finer = nn.ModuleList(conv_block(c1, c1) for _ in range({4: 0, 1: 2}[stride]))
        self.head = nn.Conv2d(c1, 2, 3, padding=1)
        self.stride = stride

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Fused levels (B, C, H, W), finest first → logits (B, 2, H, W) of normal and anomalous, full resolution."""
        e1, e2, e3 = levels
        x = self.join2(torch.cat([self.up2(upsample(e3, 2)), e2], dim=1))
        x = self.join1(torch.cat([self.up1(upsample(x, 2)), e1], dim=1))
        for block in self.finer:
            x = block(upsample(x, 2))
        return upsample(self.head(x), self.stride)


def conv_block(c_in: int, c_out: int, kernel: int = 3) -> nn.Module:
    """Convolution, batch norm, LeakyReLU (the paper's activation, §1)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1)
    )


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear by a whole factor."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
