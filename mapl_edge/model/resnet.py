"""ResNet-18 up to stride 16, frozen, with torchvision's ImageNet weights from a file or from torch hub.

Module names are torchvision's, so that its state dicts load strictly (the deepest stage and the classifier are not
used). torchvision itself is not needed.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.errors import BackendUnavailable
from mapl_edge.model.encoder import Encoder, rgb_from_pictures

WEIGHTS_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
DOWNLOAD_TIMEOUT_S = 30.0  # without any byte

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]


class ResNet18(Encoder):
    """uint8 BGR pictures → three feature maps: layer1, layer2 and layer3 of ResNet-18.

    forward(pictures: uint8 (B, H, W, 3)) → [(B, 64, H/4, W/4), (B, 128, H/8, W/8), (B, 256, H/16, W/16)] float32.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), table 1.
    """

    name = "resnet18"
    channels = (64, 128, 256)
    trainable = False

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: the state dict has torchvision's keys and no others.
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See the class."""
        x = (rgb_from_pictures(pictures) - self.get_buffer("mean")) / self.get_buffer("deviation")
        x = F.relu(self.bn1(self.conv1(x)))  # (B, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, H/4, W/4)
        stride4 = self.layer1(x)
        stride8 = self.layer2(stride4)
        return [stride4, stride8, self.layer3(stride8)]

    def published_weights(self) -> Path:
        """See `Encoder`: torch hub's file, downloaded at the first use and kept where torch keeps such files."""
        path = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_URL.rpartition("/")[2])
        if not path.is_file():
            with _download_errors(path):
                torch.hub.load_state_dict_from_url(
                    WEIGHTS_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
                )
        return path


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


@contextlib.contextmanager
def _download_errors(path: Path) -> Iterator[None]:
    """Tell what to do without a network; bound the wait; keep torch's note about the download off stdout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torch hub takes no timeout of its own
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, HTTPException, RuntimeError) as exc:  # RuntimeError: the digest is not the one in the name
        raise BackendUnavailable(
            f"the ImageNet weights of resnet18 cannot be fetched from {WEIGHTS_URL} ({exc}); "
            f"give torchvision's resnet18 as a file of weights, or put it at {path}"
        ) from exc
    finally:
        socket.setdefaulttimeout(before)
