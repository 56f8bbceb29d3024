"""Predictor q: what it sees, and that both losses move it."""

import pytest
import torch
from torch import Tensor

from mapl_edge.model.losses import labelled_loss, pseudo_labelled_loss
from mapl_edge.model.predictor import Predictor, pooled, pooled_dims


def levels(seed: int = 0, batch: int = 3) -> list[Tensor]:
    """Features of three levels, 4, 6 and 8 channels."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((batch, c, s, s + 1), generator=generator) for c, s in ((4, 16), (6, 8), (8, 4))]


def predictor(dims: int) -> Predictor:
    """The same q every time."""
    torch.manual_seed(0)
    return Predictor(dims)


def test_pooled_is_every_channel_s_mean_and_maximum() -> None:
    """Level by level, means then maxima, written out."""
    features = levels()
    expected = []
    for b in range(3):
        row = []
        for level in features:
            row += [float(channel.mean()) for channel in level[b]]
            row += [float(channel.max()) for channel in level[b]]
        expected.append(row)

    r = pooled(features)

    assert r.shape == (3, pooled_dims((4, 6, 8)))
    assert torch.allclose(r, torch.tensor(expected), atol=1e-6)


def test_a_defect_of_one_place_is_seen() -> None:
    """In the mean of 272 places it would be lost; q's logit must change by more than rounding."""
    clean = levels(batch=1)
    defective = [level.clone() for level in clean]
    defective[0][0, 2, 5, 5] += 8.0
    q = predictor(pooled_dims((4, 6, 8)))

    before, after = pooled(clean), pooled(defective)

    means, maxima = (after - before)[0, :4].abs(), (after - before)[0, 4:8].abs()
    assert float(maxima.max()) > 50 * float(means.max()) > 0
    assert (q(after) - q(before)).abs().item() > 1e-3


def test_gradient_reaches_the_features() -> None:
    """Where the encoder trains, the losses of q train it too (Eq. 18)."""
    features = [level.requires_grad_() for level in levels()]

    labelled_loss(predictor(36)(pooled(features)), torch.tensor([0, 1, 0])).backward()

    for level in features:
        assert level.grad is not None
        assert (level.grad != 0).any()


@pytest.mark.parametrize(
    ("loss", "labels"),
    [pytest.param(labelled_loss, [0, 1, 1], id="equation-15"), pytest.param(pseudo_labelled_loss, [0, 1, -1], id="16")],
)
def test_one_step_moves_every_weight_of_q(loss: object, labels: list[int]) -> None:
    """q is one of what Eq. 18 optimises: no weight may stay behind without a gradient."""
    assert callable(loss)
    q = predictor(36)
    before = {name: value.clone() for name, value in q.named_parameters()}
    optimiser = torch.optim.AdamW(q.parameters(), lr=0.003)

    loss(q(pooled(levels())), torch.tensor(labels)).backward()
    gradients = {name: value.grad for name, value in q.named_parameters()}
    optimiser.step()

    for name, value in q.named_parameters():
        assert gradients[name] is not None, name
        assert (gradients[name] != 0).any(), name
        assert not torch.equal(value, before[name]), name


def test_unknown_samples_leave_q_alone() -> None:
    """All gradients come from the known ones: the unknown sample may be replaced by any other."""
    first, second = levels(0), levels(1)
    mixed = [torch.cat([a[:2], b[2:]]) for a, b in zip(first, second, strict=True)]
    gradients = []
    for features in (first, mixed):
        q = predictor(36)
        pseudo_labelled_loss(q(pooled(features)), torch.tensor([1, 0, -1])).backward()
        gradients.append([value.grad for value in q.parameters()])
    alone = predictor(36)
    pseudo_labelled_loss(alone(pooled(first)), torch.tensor([-1, -1, -1])).backward()

    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert all(value.grad is None or not value.grad.any() for value in alone.parameters())


def test_q_learns_to_tell_clouds_apart() -> None:
    """A head that cannot learn a shift of some features would be decoration."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    r = torch.randn((64, 36), generator=generator)
    r[y == 1, :6] += 2.0
    q = predictor(36)
    optimiser = torch.optim.AdamW(q.parameters(), lr=0.003)
    for _ in range(100):
        optimiser.zero_grad()
        labelled_loss(q(r), y).backward()
        optimiser.step()

    assert ((q(r) > 0) == (y == 1)).float().mean() > 0.95
