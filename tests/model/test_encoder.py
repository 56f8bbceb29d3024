"""The encoder: weights by name, TensorFlow's padding, the levels of §2.3."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mapl_edge.errors import BundleError
from mapl_edge.model.encoder import (
    CHANNELS,
    STRIDES,
    EfficientNetLite0,
    SameConv2d,
    load_matching,
    pretrained_efficientnet_lite0,
)
from mapl_edge.model.frozen import frozen


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflows_same(kernel: int, stride: int) -> None:
    """Output pixel o sees inputs from o·stride - floor(total/2); a symmetric padding would shift every feature."""
    size = 8
    conv = SameConv2d(1, 1, kernel, stride)
    x = torch.randn(1, 1, size, size)
    out = size // stride
    before = max((out - 1) * stride + kernel - size, 0) // 2
    weight, plane = conv.weight[0, 0].detach().numpy(), x[0, 0].numpy()

    result = conv(x)[0, 0].detach().numpy()

    assert result.shape == (out, out)
    for oy, ox in np.ndindex(out, out):
        total = 0.0
        for ky, kx in np.ndindex(kernel, kernel):
            y, x_ = oy * stride + ky - before, ox * stride + kx - before
            if 0 <= y < size and 0 <= x_ < size:
                total += weight[ky, kx] * plane[y, x_]
        assert result[oy, ox] == pytest.approx(total, abs=1e-5)


def test_three_levels_at_strides_4_8_16() -> None:
    """§2.3 takes three maps."""
    features = pretrained_efficientnet_lite0()(torch.zeros((2, 64, 96, 3), dtype=torch.uint8))

    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def test_the_encoder_is_frozen() -> None:
    """Its memory would go stale if it moved."""
    encoder = pretrained_efficientnet_lite0()

    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


def test_colour_order_matters() -> None:
    """Pictures are BGR; the weights were trained on RGB, so a swapped order must show."""
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[..., 0] = 200
    encoder = pretrained_efficientnet_lite0()

    blue, red = (encoder(torch.from_numpy(p.copy()))[0] for p in (picture, picture[..., ::-1]))

    assert (blue - red).abs().max() > 0.1


def test_weights_with_wrong_keys_are_refused_by_name() -> None:
    """Silent partial loading gives a model that looks trained."""
    weights = {k: v for k, v in EfficientNetLite0().state_dict().items() if k != "_blocks.3._bn1.weight"}

    with pytest.raises(BundleError, match=r"1 of \d+ weights are missing.*_blocks\.3\._bn1\.weight"):
        load_matching(EfficientNetLite0(), weights, Path("weights.pth"))


def test_frozen_encoder_answers_as_torch_does() -> None:
    """ONNX Runtime is only the faster way to the same features."""
    encoder = pretrained_efficientnet_lite0()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)

    fast = frozen(encoder, (64, 64))(pictures)

    for level, reference in zip(fast, encoder(torch.from_numpy(pictures)), strict=True):
        assert torch.allclose(level, reference, rtol=1e-4, atol=1e-3)
