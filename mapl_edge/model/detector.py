"""Detector: encode, find the nearest normal, take the difference, decode it. The whole network on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mapl_edge.config import TrainConfig
from mapl_edge.errors import BundleError
from mapl_edge.model.decoder import MultiScaleFusion, UNetDecoder, upsample
from mapl_edge.model.encoder import STRIDES, Encoder
from mapl_edge.model.evidence import Evidence, at_stride_4
from mapl_edge.model.memory import ImageMemory, Match, Memory, PatchMemory
from mapl_edge.model.predictor import Predictor, pooled_dims

# Without the distance the raw score is the mean of the highest 25 of 256x256 map pixels: a 5x5 px defect must not be
# diluted. (MemSeg takes 100, which is the area of a scratch 2 px wide and 50 px long.)
TOP_FRACTION = 25 / 256**2


@dataclass(frozen=True)
class Compared:
    """Pictures and what they were compared with; all scaled to unit deviation on normals.

    Attributes:
        features, differences: x and DI*, float32 (B, C, H, W) per level.
        distance: float32 (B, 1, H/8, W/8), zero mean and unit deviation on normals.
        sources: int64 (B, H/8, W/8), see `Match`.
    """

    features: list[Tensor]
    differences: list[Tensor]
    distance: Tensor
    sources: Tensor


class Detector(nn.Module):
    """One part's model.

    Attributes:
        encoder: pictures → features x at strides 4, 8, 16.
        scale1..3: float32 (C, 1, 1), one over the standard deviation of each channel on normal pictures, so that a
            squared difference counts alike in all channels.
        memory: normal samples.
        distance_unit: float32 (2,), mean and deviation of the distance on normal pictures.
        fusion, decoder: the trained parts.
        predictor: q, trained with pseudo-labels; no part of the score.
        evidence: joins decoder and distance.
        filled_by: int64 (), fingerprint of the encoder that filled the memory.
    """

    distance_unit: Tensor
    filled_by: Tensor

    def __init__(self, encoder: Encoder, memory: Memory, config: TrainConfig) -> None:
        super().__init__()
        self.size_hw = h, w = config.contract.size_hw
        self.encoder = encoder
        for level, c in enumerate(encoder.channels, start=1):
            self.register_buffer(f"scale{level}", torch.ones(c, 1, 1))
        self.memory = memory
        self.register_buffer("distance_unit", torch.tensor([0.0, 1.0]))
        self.register_buffer("filled_by", torch.zeros((), dtype=torch.int64))
        self.fusion = MultiScaleFusion(
            encoder.channels,
            config.fusion,
            config.spatial_attention,
            config.coordinate_attention,
            config.distance,
        )
        self.decoder = UNetDecoder(self.fusion.widths, config.decoder_stride)
        self.predictor = Predictor(pooled_dims(encoder.channels))
        self.evidence = Evidence() if config.distance else None
        self.top_k = max(1, round(TOP_FRACTION * h * w))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prepared pictures, uint8 (B, H, W, 3) BGR → raw scores (B,), anomaly maps (B, H, W), nearest normal (B,)."""
        return self.answer(self.compare(self.encode(pictures)))

    def answer(self, compared: Compared) -> tuple[Tensor, Tensor, Tensor]:
        """Raw scores (B,), anomaly maps (B, H, W), and the normal nearest to the farthest place (B,)."""
        scores, maps = self._judged(compared, self.decoder.odds(self._fused(compared)))
        worst = compared.distance.flatten(1).argmax(1, keepdim=True)
        return scores, maps, compared.sources.flatten(1).gather(1, worst)[:, 0]

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """uint8 (B, H, W, 3) → x, one (B, C, H, W) per level, each channel scaled to unit deviation on normals."""
        return self.scaled(self.encoder(pictures))

    def scaled(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's maps → x."""
        return [level * self.get_buffer(f"scale{i}") for i, level in enumerate(raw, start=1)]

    def compare(self, features: list[Tensor], exclude: Tensor | None = None) -> Compared:
        """x → x with DI*, the squared difference to the nearest normal (Eq. 7, 8), and the distance."""
        return self.compared_with(features, self.memory.match(features, exclude))

    def compared_with(self, features: list[Tensor], match: Match) -> Compared:
        """x with DI* and the distance, once the nearest normal is known."""
        differences = [(m - x).square() for m, x in zip(match.values, features, strict=True)]
        distance = (match.distance - self.distance_unit[0]) / self.distance_unit[1]
        return Compared(features, differences, distance, match.sources)

    def decode(self, compared: Compared) -> Tensor:
        """Logits of normal and anomalous, (B, 2, H/s, W/s), s = the decoder's stride."""
        logits: Tensor = self.decoder(self._fused(compared))
        return logits

    def judge(self, compared: Compared, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) and anomaly maps (B, H, W)."""
        return self._judged(compared, logits[:, 1:] - logits[:, :1])

    def _fused(self, compared: Compared) -> list[Tensor]:
        levels: list[Tensor] = self.fusion(compared.features, compared.differences, compared.distance)
        return levels

    def _judged(self, compared: Compared, odds: Tensor) -> tuple[Tensor, Tensor]:
        if self.evidence is not None:
            scores, maps = self.evidence(at_stride_4(odds, self.decoder.stride), compared.distance)
            return scores, maps
        maps = torch.sigmoid(upsample(odds, self.decoder.stride).squeeze(1))
        return maps.flatten(1).topk(self.top_k, dim=1).values.mean(1), maps

    def fill_memory(self, raw: Sequence[Tensor], sources: Tensor) -> None:
        """Set channel scales and memory from normal pictures, the encoder's maps (K, C, H, W) per level, as it is now.

        They are many, so they are scaled in place. `sources`, int64 (K,), says whose pictures they are; a disturbed or
        moved copy has its original's.
        """
        with torch.no_grad():
            for level, features in enumerate(raw, start=1):
                deviation = features.std(dim=(0, 2, 3), keepdim=True)[0]  # (C, 1, 1)
                # A channel that never moves on normals must not blow up at the first speck of noise.
                floor = 0.05 * float(deviation.median()) + 1e-6
                scale = self.get_buffer(f"scale{level}").copy_(1 / deviation.clamp_min(floor))
                features *= scale
            self.memory.fill(raw, sources)
        self.filled_by.fill_(self.encoder.fingerprint())

    def check_fresh(self) -> None:
        """Raise BundleError if the encoder has moved since the memory was filled: the two would not fit together."""
        if int(self.filled_by) != self.encoder.fingerprint():
            raise BundleError(
                "the memory was filled by another encoder than this model's (a stale bank): the encoder's weights "
                "changed afterwards; train again"
            )

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training moves: head, q, and the encoder where it trains."""
        return [p for p in self.parameters() if p.requires_grad]


def empty_memory(config: TrainConfig, channels: Sequence[int], size: int) -> Memory:
    """A memory of the configured scope, which must be decided: `size` pictures, or patches.

    Raises:
        ValueError: the scope is still "auto", or the position weight open.
    """
    if config.memory == "auto" or config.position_weight is None:
        raise ValueError("the memory is still to be decided, see mapl_edge.model.train")
    if config.memory == "patch":
        return PatchMemory(size, channels, config.reduction, config.position_weight, config.seed)
    h, w = config.contract.size_hw
    return ImageMemory(size, [(c, h // s, w // s) for c, s in zip(channels, STRIDES, strict=True)])
