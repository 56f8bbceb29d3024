"""The paper's encoder: its sizes, and that it learns."""

import torch

from mapl_edge.model.encoder import pretrained_encoder
from mapl_edge.model.vaegan import VaeGanEncoder


def test_sizes_are_the_papers() -> None:
    """§2.3: 64×64×64, 128×32×32, 256×16×16 for 256×256."""
    features = VaeGanEncoder().eval()(torch.zeros((1, 256, 256, 3), dtype=torch.uint8))

    assert [tuple(level.shape[1:]) for level in features] == [(64, 64, 64), (128, 32, 32), (256, 16, 16)]


def test_every_weight_gets_a_gradient() -> None:
    """From the deepest map alone down to the first layer; nothing hangs loose."""
    encoder = VaeGanEncoder().train()
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)

    encoder(pictures)[-1].square().mean().backward()

    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_batch_statistics_move_in_training_only() -> None:
    """It is trained as a whole and judged in evaluation mode."""
    encoder = VaeGanEncoder()
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    fresh = encoder.stage1.bn.running_mean.clone()  # type: ignore[union-attr]

    encoder.eval()(pictures)
    judged = encoder.stage1.bn.running_mean.clone()  # type: ignore[union-attr]
    encoder.train()(pictures)

    assert torch.equal(fresh, judged)
    assert not torch.equal(fresh, encoder.stage1.bn.running_mean)  # type: ignore[arg-type]


def test_features_may_be_negative_and_keep_their_size() -> None:
    """LeakyReLU lets negative values through; He's initialisation keeps the signal through all stages."""
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)

    with torch.no_grad():
        features = VaeGanEncoder().train()(pictures)

    for level in features:
        assert level.min() < 0
        assert -level.min() < 0.05 * level.max()
        assert 0.3 < float(level.std()) < 3


def test_the_seed_draws_the_weights() -> None:
    """`seed` in the configuration makes a run repeatable, the encoder included."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(pretrained_encoder("vaegan").state_dict()["stage1.conv.weight"])

    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_it_comes_ready_to_judge_and_free_to_train() -> None:
    """Like the frozen ones it starts in evaluation mode; unlike them it obeys `train`."""
    encoder = pretrained_encoder("vaegan")

    assert not encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.train().stage1.training  # type: ignore[union-attr]
