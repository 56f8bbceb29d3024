"""Eq. 9-11 against loops, and what the fusion and decoder promise."""

import numpy as np
import pytest
import torch

from mapl_edge.model.decoder import MultiScaleFusion, UNetDecoder, spatial_attention, upsample

CHANNELS = (3, 4, 5)


def levels(seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
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


def test_without_difference_the_fusion_passes_nothing() -> None:
    """What looks like its nearest normal everywhere gives the decoder nothing to see (weights M are 0)."""
    x = levels(1)
    fused = MultiScaleFusion(CHANNELS).eval()(x, [torch.zeros_like(level) for level in x])

    assert all(not level.any() for level in fused)


@pytest.mark.parametrize("stride", [4, 1])
def test_decoder_answers_at_full_resolution(stride: int) -> None:
    """Wherever it ends, the map has the prepared picture's size."""
    logits = UNetDecoder(CHANNELS, stride)(levels())

    assert logits.shape == (2, 2, 64, 32)


def test_every_weight_of_fusion_and_decoder_learns() -> None:
    """Layers computed and discarded are a known fault of published code: each must get a gradient."""
    fusion, decoder = MultiScaleFusion(CHANNELS), UNetDecoder(CHANNELS, 1)
    logits = decoder(fusion(levels(1), levels(2)))

    (logits[:, 1] - logits[:, 0]).square().sum().backward()

    for module in (fusion, decoder):
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.abs().sum() > 0, name


def test_upsample_by_one_is_the_identity() -> None:
    """The full-resolution decoder ends with it."""
    x = torch.rand(1, 1, 3, 3)

    assert upsample(x, 1) is x
