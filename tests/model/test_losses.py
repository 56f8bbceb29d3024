"""Eq. 12 and 13 against their definitions."""

import math

import numpy as np
import torch

from mapl_edge.model.losses import focal_loss, l1_loss


def test_focal_loss_is_equation_13() -> None:
    """-(1 - p_i)^γ log(p_i), with p_i the probability of the true label, averaged over pixels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 3, 4), generator=generator)
    mask = (torch.rand((2, 3, 4), generator=generator) > 0.5).float()
    total = 0.0
    for b, y, x in np.ndindex(2, 3, 4):
        normal, anomalous = (math.exp(float(logits[b, c, y, x])) for c in (0, 1))
        p = (anomalous if mask[b, y, x] else normal) / (normal + anomalous)
        total += -((1 - p) ** 4) * math.log(p)

    assert math.isclose(float(focal_loss(logits, mask, 4.0)), total / 24, rel_tol=1e-5)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    """γ = 0 leaves the ordinary loss; torch's own is the oracle."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 2, 5, 5), generator=generator)
    mask = (torch.rand((2, 5, 5), generator=generator) > 0.5).float()

    expected = torch.nn.functional.cross_entropy(logits, mask.long())

    assert torch.allclose(focal_loss(logits, mask, 0.0), expected, rtol=1e-5)


def test_l1_loss_is_equation_12_per_pixel() -> None:
    """Mean absolute difference, so that its weight does not depend on the picture's size."""
    assert float(l1_loss(torch.tensor([[[0.25, 1.0]]]), torch.tensor([[[1.0, 1.0]]]))) == 0.375
