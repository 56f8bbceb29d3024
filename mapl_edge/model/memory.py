"""Memory: N normal samples as whole feature pyramids, and the difference to the nearest of them (MAPL §2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ImageMemory(nn.Module):
    """Memory information MI (§2.3): a module with buffers, so that it is saved, moved and exported with the model.

    Attributes:
        bank: float32 (K, D), each row one sample's pyramid, flattened level by level.
        shapes: (C, H, W) of each level.
    """

    bank: Tensor

    def __init__(self, samples: int, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.sizes = [c * h * w for c, h, w in self.shapes]
        self.register_buffer("bank", torch.zeros(samples, sum(self.sizes)))

    @property
    def samples(self) -> int:
        """K, the number of normal samples."""
        return self.bank.shape[0]

    def fill(self, features: Sequence[Tensor]) -> None:
        """Store the pyramids of K normal pictures: one (K, C, H, W) per level."""
        self.bank.copy_(self._flat(features))

    def nearest(self, features: Sequence[Tensor], exclude: Tensor | None = None) -> Tensor:
        """Index of the nearest sample, int64 (B,) (Eq. 7 and 8: least sum of squared differences over all levels).

        |x - m|² = |x|² - 2 x·m + |m|², and |x|² is the same for all m: one matrix product finds the minimum.

        Args:
            features: one (B, C, H, W) per level.
            exclude: int64 (B,), a sample to leave out for each picture, -1 for none: a picture that is itself in the
                memory must not be compared with itself, or training would see differences that no new part has.
        """
        x = self._flat(features)  # (B, D)
        partial = self.bank.square().sum(1) - 2 * F.linear(x, self.bank)  # (B, K)
        if exclude is not None:
            own = exclude.unsqueeze(1) == torch.arange(self.samples)  # (B, K)
            partial = partial.masked_fill(own, float("inf"))
        return partial.argmin(1)

    def difference(self, features: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        """DI* (Eq. 7, 8): squared difference to the sample `index` (B,), one (B, C, H, W) per level."""
        rows = torch.split(self.bank[index], self.sizes, dim=1)
        return [(row.view(-1, *shape) - x).square() for row, shape, x in zip(rows, self.shapes, features, strict=True)]

    def _flat(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([level.flatten(1) for level in features], dim=1)
