"""Every encoder by its name: the levels of §2.3, frozen or not, weights that fit or are refused, the same from ONNX."""

from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mapl_edge.errors import BackendUnavailable, BundleError, ConfigError
from mapl_edge.model.encoder import (
    STRIDES,
    Encoder,
    EncoderName,
    empty_encoder,
    load_matching,
    pretrained_encoder,
)
from mapl_edge.model.frozen import frozen

NAMES = get_args(EncoderName)
CHANNELS = {
    "efficientnet_lite0": (24, 40, 112),
    "efficientnet_lite1": (24, 40, 112),
    "efficientnet_lite2": (24, 48, 120),
    "resnet18": (64, 128, 256),
    "vaegan": (64, 128, 256),
}


def pictures(batch: int, h: int, w: int) -> torch.Tensor:
    """Noise, always the same: uint8 (B, H, W, 3)."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, h, w, 3), dtype=np.uint8))


def lively(name: EncoderName) -> Encoder:
    """Random weights that keep the signal's size, and batch statistics unlike those of a new layer."""
    encoder = empty_encoder(name)
    torch.manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for tensor, mean in ((module.weight, 1.0), (module.bias, 0.0), (module.running_mean, 0.0)):
                nn.init.normal_(cast(torch.Tensor, tensor), mean, 0.1)
            nn.init.uniform_(cast(torch.Tensor, module.running_var), 0.7, 1.5)
    return encoder.eval()


@pytest.fixture(params=NAMES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each of them."""
    return lively(request.param)


def test_three_levels_at_strides_4_8_16(encoder: Encoder) -> None:
    """§2.3 takes three maps; a picture need not be square."""
    features = encoder(pictures(2, 64, 96))

    assert encoder.channels == CHANNELS[encoder.name]
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, STRIDES, strict=True)
    ]
    assert {f.dtype for f in features} == {torch.float32}


def test_maps_lie_on_the_picture(encoder: Encoder) -> None:
    """A spot changes the cells over it most; maps shifted or turned would put defects elsewhere."""
    picture = torch.full((1, 256, 128, 3), 128, dtype=torch.uint8)
    spotted = picture.clone()
    spotted[:, 192:208, 32:48] = 255

    for stride, plain, changed in zip(STRIDES, encoder(picture), encoder(spotted), strict=True):
        y, x = np.unravel_index(int((plain - changed).square().sum(1).argmax()), plain.shape[2:])
        assert abs((y + 0.5) * stride - 200) <= 16
        assert abs((x + 0.5) * stride - 40) <= 16


def test_colour_order_matters(encoder: Encoder) -> None:
    """Pictures are BGR; the weights were trained on RGB, so a swapped order must show."""
    picture = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    picture[..., 0] = 200

    blue, red = encoder(picture)[0], encoder(picture.flip(-1))[0]

    assert (blue - red).abs().max() > 0.1


@pytest.mark.parametrize("name", ["efficientnet_lite2", "resnet18", "vaegan"])
def test_onnx_answers_as_torch_does(name: EncoderName) -> None:
    """ONNX Runtime is only the faster way to the same features. (Lite2 stands for Lite1, which is the same code; Lite0
    is the one that test_train's memory goes through. An export takes seconds.)
    """
    encoder = lively(name).requires_grad_(False)
    batch = pictures(3, 64, 32)

    fast = frozen(encoder, (64, 32))(batch.numpy())

    for level, reference in zip(fast, encoder(batch), strict=True):
        assert torch.allclose(level, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vaegan"])
def test_a_frozen_encoder_does_not_move_in_training(name: EncoderName) -> None:
    """Its memory would go stale, be it by gradients or by batch statistics."""
    encoder = lively(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}

    nn.Sequential(encoder).train()
    features = encoder(pictures(2, 32, 32))

    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(level.requires_grad for level in features)
    assert not any(module.training for module in encoder.modules())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_weights_come_back_from_either_kind_of_file(encoder: Encoder, tmp_path: Path) -> None:
    """A user's own weights replace the published ones, with nothing fetched."""
    state = encoder.state_dict()
    torch.save(state, tmp_path / "own.pth")
    save_file(state, tmp_path / "own.safetensors")

    for path in (tmp_path / "own.pth", tmp_path / "own.safetensors"):
        loaded = pretrained_encoder(encoder.name, path)
        assert not loaded.training
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_weights_with_missing_keys_are_refused_by_name(encoder: Encoder, tmp_path: Path) -> None:
    """Silent partial loading gives a model that looks trained."""
    state = encoder.state_dict()
    gone = [key for key in state if key.endswith("weight")][3:5]
    torch.save({key: value for key, value in state.items() if key not in gone}, tmp_path / "own.pth")

    with pytest.raises(BundleError, match=rf"2 of the \d+ weights of {encoder.name} are missing, first {gone[0]}, "):
        load_matching(empty_encoder(encoder.name), tmp_path / "own.pth")


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    """ResNet-50's file has many of ResNet-18's keys."""
    state = empty_encoder("resnet18").state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    torch.save(state, tmp_path / "own.pth")

    with pytest.raises(BundleError, match=r"1 of the .* layer1\.0\.conv1\.weight is 64x64x1x1, not 64x64x3x3; give"):
        pretrained_encoder("resnet18", tmp_path / "own.pth")


def test_weights_of_another_network_tell_what_was_found(tmp_path: Path) -> None:
    """A prefix or a whole other model shows at a glance."""
    state = {f"module.{key}": value for key, value in empty_encoder("vaegan").state_dict().items()}
    torch.save(state, tmp_path / "own.pth")

    with pytest.raises(BundleError, match=r"20 of the 20 .* found module\.stage1\.conv\.weight, "):
        pretrained_encoder("vaegan", tmp_path / "own.pth")


def test_counters_of_batches_may_be_absent(encoder: Encoder, tmp_path: Path) -> None:
    """The oldest files, torchvision's ResNet among them, have none, and nothing reads them."""
    state = {key: value for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")

    loaded = pretrained_encoder(encoder.name, tmp_path / "old.pth")

    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


def _of(content: Any) -> Any:
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("file_name", "write", "message"),
    [
        ("w.pth", lambda path: None, "cannot be read .No such file"),
        ("w.safetensors", lambda path: None, "cannot be read .No such file"),
        ("w.pth", lambda path: path.mkdir(), "cannot be read .Is a directory"),
        ("w.pth", lambda path: path.write_bytes(b""), "cannot be read as weights"),
        ("w.pth", lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "cannot be read as weights"),
        ("w.pth", lambda path: path.write_text("<html>404</html>"), "no plain tensors|cannot be read as weights"),
        ("w.safetensors", lambda path: path.write_text("<html>404</html>"), "not a safetensors file"),
        ("w.pth", _of(nn.ReLU()), "holds no plain tensors, expected a state dict"),
        ("w.pth", _of(torch.zeros(3)), "not a state dict .tensors by name., found a Tensor"),
        ("w.pth", _of({"epoch": 3, "state_dict": {}}), "not a state dict .* found epoch, state_dict; save one"),
        ("w.pth", _of({}), "nothing in it"),
    ],
    ids=["gone", "gone-st", "folder", "empty", "cut", "html", "html-st", "module", "tensor", "nested", "no-keys"],
)
def test_a_file_without_a_state_dict_is_refused(file_name: str, write: Any, message: str, tmp_path: Path) -> None:
    """One line that names the file, not torch's traceback."""
    path = tmp_path / file_name
    write(path)

    with pytest.raises(BundleError, match=message) as caught:
        pretrained_encoder("vaegan", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A slip of the pen is mended from the message alone."""
    with pytest.raises(
        ConfigError, match=r"'resnet81', did you mean 'resnet18'\? \(known: efficientnet_lite0, .*vaegan"
    ):
        pretrained_encoder(cast(EncoderName, "resnet81"))


def published_encoder(name: EncoderName) -> Encoder:
    """With its published weights, where this machine has them."""
    try:
        return pretrained_encoder(name)
    except BackendUnavailable as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_published_weights_fit(name: EncoderName) -> None:
    """Loaded strictly, they give features of the size they were trained to give."""
    encoder = published_encoder(name)

    assert not encoder.training
    for level in encoder(pictures(1, 64, 64)):
        assert torch.isfinite(level).all()
        assert 1 < float(level.std()) < 30
