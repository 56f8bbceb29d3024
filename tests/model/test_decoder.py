"""Eq. 9-11 against loops, coordinate attention against its paper, and what the fusion and decoder promise."""

from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mapl_edge.model.decoder import (
    WIDTHS,
    CoordinateAttention,
    MultiScaleFusion,
    UNetDecoder,
    spatial_attention,
    upsample,
)

Kind = Literal["slim", "full", "none"]
Attention = Literal["residual", "multiply", "none"]
KINDS, ATTENTIONS = get_args(Kind), get_args(Attention)

CHANNELS = (3, 4, 5)


def levels(seed: int = 0, batch: int = 2) -> list[Tensor]:
    """Non-negative maps at strides 4, 8, 16 of a 64x32 picture."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((batch, c, 16 >> i, 8 >> i), generator=generator) for i, c in enumerate(CHANNELS)]


def bilinear_twice(plane: np.ndarray) -> np.ndarray:
    """Twice the size: each pixel's centre is looked up between its four neighbours, edges repeated."""
    h, w = plane.shape
    out = np.zeros((2 * h, 2 * w))
    for y in range(2 * h):
        for x in range(2 * w):
            sy, sx = max((y + 0.5) / 2 - 0.5, 0), max((x + 0.5) / 2 - 0.5, 0)
            y0, x0 = int(sy), int(sx)
            y1, x1, fy, fx = min(y0 + 1, h - 1), min(x0 + 1, w - 1), sy - y0, sx - x0
            top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
            below = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
            out[y, x] = top * (1 - fy) + below * fy
    return out


def channel_mean(difference: np.ndarray) -> np.ndarray:
    """1/C Σ_i DI*_ni, written out."""
    total = np.zeros(difference.shape[1:])
    for channel in difference:
        total += channel
    return total / len(difference)


def test_attention_maps_are_equations_9_to_11() -> None:
    """M3 is the mean of DI*3; each finer map is its own mean times the coarser map, upsampled."""
    di = levels()

    m1, m2, m3 = spatial_attention(di)

    for b in range(2):
        d1, d2, d3 = (level[b].numpy() for level in di)
        slow3 = channel_mean(d3)
        slow2 = channel_mean(d2) * bilinear_twice(slow3)
        slow1 = channel_mean(d1) * bilinear_twice(slow2)
        for fast, slow in ((m3, slow3), (m2, slow2), (m1, slow1)):
            np.testing.assert_allclose(fast[b, 0].numpy(), slow, rtol=1e-5, atol=1e-6)


def fusion(kind: Kind = "slim", attention: Attention = "residual", **more: Any) -> MultiScaleFusion:
    """The same weights for every attention, statistics unlike those of a new layer, in evaluation mode."""
    torch.manual_seed(0)
    made = MultiScaleFusion(CHANNELS, kind, attention, **more)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.1)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return made.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_without_difference_multiplied_attention_passes_nothing(kind: Kind) -> None:
    """What looks like its nearest normal everywhere gives the paper's decoder nothing to see (weights M are 0)."""
    x = levels(1)
    fused = fusion(kind, "multiply")(x, [torch.zeros_like(level) for level in x])

    assert all(not level.any() for level in fused)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_what_was_fused(kind: Kind) -> None:
    """Level by level: M times it, or 1 + M times it; nothing else differs between the three."""
    x, di = levels(1), levels(2)

    plain, multiplied, residual = (fusion(kind, attention)(x, di) for attention in ("none", "multiply", "residual"))

    for level, times_m, times_more, m in zip(plain, multiplied, residual, spatial_attention(di), strict=True):
        assert level.shape[2:] == m.shape[2:]
        assert torch.allclose(times_m, level * m, rtol=1e-5)
        assert torch.allclose(times_more, level * (1 + m), rtol=1e-5)


@pytest.mark.parametrize("coordinate", [False, True])
@pytest.mark.parametrize(("kind", "widths"), [("slim", WIDTHS), ("full", CHANNELS), ("none", WIDTHS)])
def test_fused_levels_have_the_widths_of_their_kind(kind: Kind, widths: tuple[int, ...], coordinate: bool) -> None:
    """The decoder is built from them; places stay as they are."""
    made = fusion(kind, coordinate=coordinate, distance=True)

    fused = made(levels(1), levels(2), torch.rand(2, 1, 8, 4))

    assert made.widths == widths
    assert [level.shape for level in fused] == [(2, w, 16 >> i, 8 >> i) for i, w in enumerate(widths)]


def written_out(made: MultiScaleFusion, x: list[Tensor], di: list[Tensor], distance: Tensor) -> list[Tensor]:
    """§2.5 with the modules' own layers, step by step; the distance joins at every level."""
    pooled = distance.view(2, 1, 4, 2, 2, 2).mean(dim=(3, 5))
    finer = torch.stack([torch.from_numpy(bilinear_twice(one[0].numpy())) for one in distance]).unsqueeze(1).float()
    joined = [torch.cat(parts, dim=1) for parts in zip(x, di, (finer, distance, pooled), strict=True)]
    own = []
    for level, ci in zip(made.levels, joined, strict=True):
        assert isinstance(level, nn.Sequential)
        for step in level:
            ci = step(ci)
        own.append(ci)
    return own


@pytest.mark.parametrize("kind", KINDS)
def test_coarser_levels_are_added_to_finer_ones_except_without_fusion(kind: Kind) -> None:
    """Table 4, "No msff": each level for itself. Else the coarser is aligned by 1x1, doubled and added, top down."""
    x, di, distance = levels(1), levels(2), torch.rand(2, 1, 8, 4)
    made = fusion(kind, "none", distance=True)

    fused = made(x, di, distance)

    with torch.no_grad():
        own = written_out(made, x, di, distance)
        if kind != "none":
            own[1] = own[1] + upsample(made.align[1](own[2]), 2)
            own[0] = own[0] + upsample(made.align[0](own[1]), 2)
    for ours, theirs in zip(fused, own, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("kind", "three_by_three"), [("full", (6, 8, 10)), ("slim", WIDTHS), ("none", WIDTHS)])
def test_three_by_three_convolutions_keep_their_channels(kind: Kind, three_by_three: tuple[int, ...]) -> None:
    """The paper's see all 2C channels of CI, ours what was squeezed before: that is the kind's whole point."""
    wide = [m for m in fusion(kind).levels.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    assert tuple(m.in_channels for m in wide) == tuple(m.out_channels for m in wide) == three_by_three


def test_the_distance_reaches_every_level() -> None:
    """Otherwise the decoder could not learn from it what a far place means."""
    x, di = levels(1), levels(2)
    made = fusion("none", distance=True)

    near, far = made(x, di, torch.zeros(2, 1, 8, 4)), made(x, di, torch.ones(2, 1, 8, 4))

    assert all((a - b).abs().max() > 1e-3 for a, b in zip(near, far, strict=True))


def slow_coordinate_attention(module: CoordinateAttention, x: np.ndarray) -> np.ndarray:
    """Hou et al. 2021, Eq. 4 to 9, one (C, H, W) picture in loops, with the module's weights in evaluation mode."""
    c, h, w = x.shape
    convolution, norm = module.squeeze[0], module.squeeze[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    z_h, z_w = np.zeros((c, h)), np.zeros((c, w))
    for k in range(c):
        for y in range(h):
            z_h[k, y] = sum(x[k, y, i] for i in range(w)) / w  # Eq. 4
        for i in range(w):
            z_w[k, i] = sum(x[k, y, i] for y in range(h)) / h  # Eq. 5

    def parameter(of: nn.Module, name: str) -> np.ndarray:
        return np.asarray(of.state_dict()[name].double().numpy())

    z = np.concatenate([z_h, z_w], axis=1)
    f = parameter(convolution, "weight")[:, :, 0, 0] @ z + parameter(convolution, "bias")[:, None]  # Eq. 6
    f = (f - parameter(norm, "running_mean")[:, None]) / np.sqrt(parameter(norm, "running_var") + norm.eps)[:, None]
    f = f * parameter(norm, "weight")[:, None] + parameter(norm, "bias")[:, None]
    f = f * np.clip(f + 3, 0, 6) / 6  # h-swish
    g = []
    for layer, part in ((module.rows, f[:, :h]), (module.columns, f[:, h:])):  # Eq. 7 and 8
        g.append(parameter(layer, "weight")[:, :, 0, 0] @ part + parameter(layer, "bias")[:, None])
    g_h, g_w = (1 / (1 + np.exp(-each)) for each in g)
    y = np.zeros_like(x)
    for k, i, j in np.ndindex(c, h, w):
        y[k, i, j] = x[k, i, j] * g_h[k, i] * g_w[k, j]  # Eq. 9
    return y


@pytest.mark.parametrize("channels", [5, 300])
def test_coordinate_attention_is_that_of_its_paper(channels: int) -> None:
    """On a picture that is not square: rows and columns swapped would show. At least eight hidden channels."""
    torch.manual_seed(0)
    module = CoordinateAttention(channels)
    norm = module.squeeze[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor, 0.5, 0.5)  # type: ignore[arg-type]
    x = torch.randn(2, channels, 4, 7)

    with torch.no_grad():
        weighted = module.eval()(x)

    assert norm.num_features == max(8, channels // 32)
    for b in range(2):
        slow = slow_coordinate_attention(module, x[b].double().numpy())
        np.testing.assert_allclose(weighted[b].numpy(), slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_coordinate_attention_follows_the_three_by_three(kind: Kind) -> None:
    """Table 4, "Added CA": where it stands in each level, and nowhere without being asked for."""
    for level in fusion(kind, coordinate=True).levels:
        assert isinstance(level, nn.Sequential)
        before = list(level)[: [isinstance(m, CoordinateAttention) for m in level].index(True)]
        last = before[-1]
        assert isinstance(last, nn.Sequential)
        assert isinstance(last[0], nn.Conv2d)
        assert last[0].kernel_size == (3, 3)
    assert not any(isinstance(m, CoordinateAttention) for m in fusion(kind).modules())


@pytest.mark.parametrize("stride", [4, 1])
def test_decoder_ends_at_its_stride(stride: int) -> None:
    """Two logits, at a fourth of the picture's sides or at the whole of them."""
    logits = UNetDecoder(CHANNELS, stride)(levels())

    assert logits.shape == (2, 2, 64 // stride, 32 // stride)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [4, 1])
def test_odds_are_the_second_logit_less_the_first(stride: int, bias: bool) -> None:
    """At the border too, where a convolution sees zeros and a transposed one leaves values out."""
    torch.manual_seed(0)
    decoder = UNetDecoder(CHANNELS, stride).eval()
    nn.init.normal_(decoder.head.weight, std=10)
    if not bias:
        decoder.head.bias = None
    with torch.no_grad():
        logits = decoder(levels())

        odds = decoder.odds(levels())

    assert logits.std() > 0.05, "otherwise the test says little"
    assert torch.allclose(odds, logits[:, 1:] - logits[:, :1], atol=1e-5)


@pytest.mark.parametrize("stride", [4, 1])
def test_decoder_hears_every_level_where_it_lies(stride: int) -> None:
    """A changed cell moves the logits over it most; skip connections must not be shifted or left out."""
    torch.manual_seed(0)
    decoder = UNetDecoder(CHANNELS, stride).eval()
    for level in range(3):
        changed = levels()
        changed[level][:, :, (12 >> level), (2 >> level)] += 5
        with torch.no_grad():
            moved = (decoder(changed) - decoder(levels())).abs().sum((0, 1))
        y, x = np.unravel_index(int(moved.argmax()), moved.shape)
        assert abs((y + 0.5) * stride - ((12 >> level) + 0.5) * (4 << level)) <= 12 + (4 << level)
        assert abs((x + 0.5) * stride - ((2 >> level) + 0.5) * (4 << level)) <= 12 + (4 << level)


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize("coordinate", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_fusion_and_decoder_learns(
    kind: Kind, attention: Attention, coordinate: bool, stride: int
) -> None:
    """Layers computed and discarded are a known fault of published code: each must get a gradient."""
    torch.manual_seed(1)
    made = MultiScaleFusion(CHANNELS, kind, attention, coordinate, distance=True)
    decoder = UNetDecoder(made.widths, stride)
    logits = decoder(made(levels(1), levels(2), torch.rand(2, 1, 8, 4)))

    (logits[:, 1] - logits[:, 0]).square().sum().backward()

    for module in (made, decoder):
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.abs().sum() > 0, name


def test_upsample_by_one_is_the_identity() -> None:
    """The full-resolution decoder ends with it."""
    x = torch.rand(1, 1, 3, 3)

    assert upsample(x, 1) is x


def test_upsample_is_bilinear() -> None:
    """Against the loop."""
    x = torch.rand(1, 1, 5, 3)

    np.testing.assert_allclose(upsample(x, 2)[0, 0].numpy(), bilinear_twice(x[0, 0].numpy()), rtol=1e-5)
