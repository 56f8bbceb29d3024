"""Detector: encode, find the nearest normal, take the difference, decode it. The whole network on one page."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mapl_edge.model.decoder import MultiScaleFusion, UNetDecoder
from mapl_edge.model.encoder import STRIDES, Encoder
from mapl_edge.model.memory import ImageMemory

# The raw score is the mean of the highest 25 of 256x256 map pixels: a 5x5 px defect must not be diluted.
# (MemSeg takes 100, which is the area of a scratch 2 px wide and 50 px long.)
TOP_FRACTION = 25 / 256**2


class Detector(nn.Module):
    """One part's model.

    Attributes:
        encoder: frozen; pictures → features x at strides 4, 8, 16.
        scale1..3: float32 (C, 1, 1), one over the standard deviation of each channel on normal pictures, so that a
            squared difference counts alike in all channels.
        memory: K normal samples.
        fusion, decoder: the trained parts.
    """

    def __init__(self, encoder: Encoder, size_hw: tuple[int, int], samples: int, decoder_stride: int) -> None:
        super().__init__()
        h, w = size_hw
        self.encoder = encoder
        for level, c in enumerate(encoder.channels, start=1):
            self.register_buffer(f"scale{level}", torch.ones(c, 1, 1))
        self.memory = ImageMemory(
            samples, [(c, h // s, w // s) for c, s in zip(encoder.channels, STRIDES, strict=True)]
        )
        self.fusion = MultiScaleFusion(encoder.channels)
        self.decoder = UNetDecoder(encoder.channels, decoder_stride)
        self.top_k = max(1, round(TOP_FRACTION * h * w))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prepared pictures, uint8 (B, H, W, 3) BGR → raw scores (B,), anomaly maps (B, H, W), nearest sample (B,)."""
        x = self.encode(pictures)
        nearest = self.memory.nearest(x)
        logits = self.decode(x, self.memory.difference(x, nearest))  # (B, 2, H, W)
        maps = logits.softmax(1)[:, 1]  # (B, H, W)
        scores = maps.flatten(1).topk(self.top_k, dim=1).values.mean(1)
        return scores, maps, nearest

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """uint8 (B, H, W, 3) → x, one (B, C, H, W) per level, each channel scaled to unit deviation on normals."""
        raw = self.encoder(pictures)
        return [level * self.get_buffer(f"scale{i}") for i, level in enumerate(raw, start=1)]

    def decode(self, features: Sequence[Tensor], differences: Sequence[Tensor]) -> Tensor:
        """x and DI* → logits (B, 2, H, W)."""
        logits: Tensor = self.decoder(self.fusion(features, differences))
        return logits

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training moves; the encoder stays frozen."""
        return [*self.fusion.parameters(), *self.decoder.parameters()]

    def train(self, mode: bool = True) -> Detector:
        """Training mode for the trained parts only: the frozen encoder keeps its batch statistics."""
        super().train(mode)
        self.encoder.eval()
        return self
