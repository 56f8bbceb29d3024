"""The paper's own encoder (§2, §2.3), trained from scratch together with the head.

"An adapted VAE/GAN encoder": of Larsen et al.'s encoder (Autoencoding beyond pixels, 2016) it keeps what turns a
picture into features: a plain stack of convolutions with batch norm, halving the sides and widening the channels,
without shortcuts, with LeakyReLU (Maas et al., 2013) in place of ReLU. It keeps nothing of what comes after: no latent
mean and variance, no sampling, no Kullback-Leibler term, no generator, no discriminator; the paper's loss (Eq. 12 to
14) has no term for them.

The paper has five stages and takes the maps of stages 2, 3 and 4: for a 256×256 picture 64×64×64, 128×32×32 and
256×16×16. It gives no kernels; these are the ones of its published code, which has ResNet-18's stem and sizes:

    stage   layers                                               output for 256×256   used as
    1       convolution 7×7 stride 2, max pooling 3×3 stride 2   64×64×64
    2       convolution 3×3                                      64×64×64             map at stride 4
    3       convolution 3×3 stride 2                             128×32×32            map at stride 8
    4       convolution 3×3 stride 2                             256×16×16            map at stride 16
    5       convolution 3×3 stride 2                             512×8×8              nothing

Stage 5 is left out: it comes after the last map that memory, fusion and decoder see, so that no loss would reach it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.model.encoder import Encoder, rgb_from_pictures

SLOPE = 0.01  # of LeakyReLU, below zero


class VaeGanEncoder(Encoder):
    """uint8 BGR pictures → three feature maps, which may be negative.

    forward(pictures: uint8 (B, H, W, 3)) → [(B, 64, H/4, W/4), (B, 128, H/8, W/8), (B, 256, H/16, W/16)] float32.

    Pixels are scaled to [-1, 1]. A new one has weights drawn after He et al. (2015) for LeakyReLU, with torch's global
    seed.
    """

    name = "vaegan"
    channels = (64, 128, 256)
    trainable = True

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = Stage(3, 64, kernel=7, stride=2)
        self.stage2 = Stage(64, 64, kernel=3, stride=1)
        self.stage3 = Stage(64, 128, kernel=3, stride=2)
        self.stage4 = Stage(128, 256, kernel=3, stride=2)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See the class."""
        x = rgb_from_pictures(pictures) / 127.5 - 1.0
        x = F.max_pool2d(self.stage1(x), 3, stride=2, padding=1)  # (B, 64, H/4, W/4)
        stride4 = self.stage2(x)
        stride8 = self.stage3(stride4)
        return [stride4, stride8, self.stage4(stride8)]

    def published_weights(self) -> None:
        """None: there are none, it is trained from scratch."""


class Stage(nn.Module):
    """Convolution, batch norm, LeakyReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE, nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H/stride, W/stride)."""
        return F.leaky_relu(self.bn(self.conv(x)), SLOPE)
