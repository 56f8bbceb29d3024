"""From features and their difference to a map: attention (Eq. 9-11), multi-scale fusion (§2.5), U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 64)  # channels of the slim fusion, finest level first


def spatial_attention(differences: Sequence[Tensor]) -> list[Tensor]:
    """M1, M2, M3 (Eq. 9-11): channel means of DI*, each level multiplied by the coarser one, upsampled.

    Args:
        differences: DI* at strides 4, 8, 16, each (B, C, H, W).

    Returns:
        Three maps (B, 1, H, W), finest first.
    """
    means = [_channel_mean(level) for level in differences]
    m3 = means[2]  # Eq. 9
    m2 = means[1] * upsample(m3, 2)  # Eq. 10
    m1 = means[0] * upsample(m2, 2)  # Eq. 11
    return [m1, m2, m3]


class MultiScaleFusion(nn.Module):
    """MSFF (§2.5): convolve each level's CI, align, add, weight by M.

    The paper convolves CI with all its 2C channels; `slim` squeezes CI first, for a fourth of the work and less.

    Args:
        channels: C of each level, finest first; CI has twice as many (x and DI*, §2.3), and one more with `distance`.
        kind: "full": 3x3 convolution that keeps the channels, then squeeze to C (the paper's). "slim": squeeze to
            WIDTHS, then 3x3. "none": as "slim", but no level hears of a coarser one (Table 4, "No msff").
        attention: weight fused features by 1 + M, by M (the paper's), or not at all.
        coordinate: coordinate attention after the 3x3 convolution (Table 4, "Added CA").
        distance: whether CI holds the distance to the memory as one more channel.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kind: Literal["slim", "full", "none"] = "slim",
        attention: Literal["residual", "multiply", "none"] = "residual",
        coordinate: bool = False,
        distance: bool = False,
    ) -> None:
        super().__init__()
        self.attention, self.distance = attention, distance
        self.widths = tuple(channels) if kind == "full" else WIDTHS
        joined = [2 * c + distance for c in channels]
        inner = [conv_block(c, c) for c in joined]
        outer = [conv_block(c, w, kernel=1) for c, w in zip(joined, self.widths, strict=True)]
        if kind != "full":
            inner, outer = outer, [conv_block(w, w) for w in self.widths]
        middle = [joined, self.widths][kind != "full"]
        attend = [CoordinateAttention(c) if coordinate else nn.Identity() for c in middle]
        order = zip(inner, attend, outer, strict=True) if kind == "full" else zip(inner, outer, attend, strict=True)
        self.levels = nn.ModuleList(nn.Sequential(*parts) for parts in order)
        pairs = pairwise(self.widths) if kind != "none" else ()
        self.align = nn.ModuleList(conv_block(deep, shallow, kernel=1) for shallow, deep in pairs)

    def forward(
        self, features: Sequence[Tensor], differences: Sequence[Tensor], distance: Tensor | None = None
    ) -> list[Tensor]:
        """x and DI*, one (B, C, H, W) per level, and the distance (B, 1, H/8, W/8) → one (B, W, H, W) per level."""
        parts: list[Sequence[Tensor]] = [features, differences]
        if self.distance and distance is not None:
            parts.append([upsample(distance, 2), distance, F.avg_pool2d(distance, 2)])
        joined = [torch.cat(level, dim=1) for level in zip(*parts, strict=True)]  # CI (B, 2C, H, W)
        fused = [level(ci) for level, ci in zip(self.levels, joined, strict=True)]
        for i in reversed(range(len(self.align))):
            fused[i] = fused[i] + upsample(self.align[i](fused[i + 1]), 2)
        if self.attention == "none":
            return fused
        weights = spatial_attention(differences)
        if self.attention == "residual":
            weights = [1 + weight for weight in weights]
        return [level * weight for level, weight in zip(fused, weights, strict=True)]


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al. 2021, §3.2): weights along rows and along columns from means across the other.

    forward: float32 (B, C, H, W) → (B, C, H, W).
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.rows, self.columns = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h, w = x.shape[2:]
        along = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], dim=2)  # (B, C, H+W, 1)
        rows, columns = torch.split(self.squeeze(along), [h, w], dim=2)
        weighted: Tensor = x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()
        return weighted


class UNetDecoder(nn.Module):
    """Decoder g: from the coarsest level up, joining each finer level by a skip connection (§2.3).

    Args:
        channels: of each level, finest first, strides 4, 8, 16.
        stride: 4 ends at the finest level; 1 goes on to full resolution as the paper does, at several times the work.
    """

    def __init__(self, channels: Sequence[int], stride: int = 4) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.up2 = conv_block(c3, c2, kernel=1)
        self.join2 = conv_block(2 * c2, c2)
        self.up1 = conv_block(c2, c1, kernel=1)
        self.join1 = nn.Sequential(conv_block(2 * c1, c1), conv_block(c1, c1))
        self.finer = nn.ModuleList(conv_block(c1, c1) for _ in range({4: 0, 1: 2}[stride]))
        self.head = nn.Conv2d(c1, 2, 3, padding=1)
        self.stride = stride

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Fused levels (B, C, H, W), finest first → logits of normal and anomalous, (B, 2, H/stride, W/stride)."""
        logits: Tensor = self.head(self._before_head(levels))
        return logits

    def odds(self, levels: Sequence[Tensor]) -> Tensor:
        """Log-odds of anomalous, (B, 1, H/stride, W/stride): the second logit less the first.

        With one channel to compute, libraries gather nine inputs for each of its values. Transposed, the same
        convolution is one product of nine rows whose values are then added up in place: a third of the time.
        """
        weight, bias = self.head.weight, self.head.bias
        turned = (weight[1:] - weight[:1]).flip(2, 3).transpose(0, 1)  # (C, 1, 3, 3)
        least = None if bias is None else bias[1:] - bias[:1]
        return F.conv_transpose2d(self._before_head(levels), turned, least, padding=1)

    def _before_head(self, levels: Sequence[Tensor]) -> Tensor:
        e1, e2, e3 = levels
        x: Tensor = self.join2(torch.cat([upsample(self.up2(e3), 2), e2], dim=1))
        x = self.join1(torch.cat([upsample(self.up1(x), 2), e1], dim=1))
        for block in self.finer:
            x = block(upsample(x, 2))
        return x


def conv_block(c_in: int, c_out: int, kernel: int = 3) -> nn.Module:
    """Convolution, batch norm, LeakyReLU (the paper's activation, §1)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1)
    )


def _channel_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, 1, H, W); as a product, which libraries compute several times as fast as their means."""
    b, c, h, w = x.shape
    return (torch.full((1, c), 1 / c, device=x.device) @ x.flatten(2)).view(b, 1, h, w)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear by a whole factor."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
