"""Eq. 12, 13, 15 and 16 against their definitions."""

import math

import numpy as np
import torch

from mapl_edge.model.losses import focal_loss, l1_loss, labelled_loss, pseudo_labelled_loss


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


def cross_entropy(logit: float, label: float) -> float:
    """-y log p - (1 - y) log(1 - p), written out."""
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p) if label else -math.log(1 - p)


def test_labelled_loss_is_equation_15() -> None:
    """The mean of the samples' binary cross-entropies, whatever type the labels are."""
    logits, y = [0.3, -2.0, 1.5], [1, 0, 0]
    expected = np.mean([cross_entropy(logit, label) for logit, label in zip(logits, y, strict=True)])

    for dtype in (torch.int64, torch.bool, torch.float32):
        assert math.isclose(
            float(labelled_loss(torch.tensor(logits), torch.tensor(y).to(dtype))), expected, rel_tol=1e-6
        )


def test_unknown_samples_cost_nothing_but_are_counted() -> None:
    """Eq. 16: the indicator stands inside the expectation over all samples."""
    logits, v = [0.3, -2.0, 1.5, 9.0], [1, 0, 0, -1]
    expected = sum(cross_entropy(logit, label) for logit, label in zip(logits[:3], v[:3], strict=True)) / 4

    loss = pseudo_labelled_loss(torch.tensor(logits), torch.tensor(v))

    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_unknown_samples_pull_at_nothing() -> None:
    """Not a small gradient: none, even where the logit is no number."""
    logits = torch.tensor([0.5, float("nan"), -1.0], requires_grad=True)

    pseudo_labelled_loss(logits, torch.tensor([1, -1, 0])).backward()

    assert logits.grad is not None
    assert logits.grad[1] == 0
    assert (logits.grad[[0, 2]] != 0).all()


def test_loss_without_a_known_sample_is_zero_and_differentiable() -> None:
    """Early in training the classifiers may agree on nothing; the step goes on."""
    logits = torch.tensor([0.5, 2.0], requires_grad=True)

    loss = pseudo_labelled_loss(logits, torch.tensor([-1, -1]))
    loss.backward()

    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(2))
