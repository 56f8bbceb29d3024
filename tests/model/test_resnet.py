"""ResNet-18 against its definition, written again with plain functions; the weights from torch hub's folder."""

import socket
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mapl_edge.errors import BackendUnavailable, BundleError
from mapl_edge.model import resnet
from mapl_edge.model.encoder import empty_encoder, pretrained_encoder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of torch hub's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def random_state_dict() -> dict[str, Tensor]:
    """By torchvision's names, as its file holds them: no counters, but a deepest stage and a classifier."""
    rng = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv(name: str, c_out: int, c_in: int, kernel: int) -> None:
        deviation = (2 / (c_in * kernel**2)) ** 0.5
        state[f"{name}.weight"] = deviation * torch.randn(c_out, c_in, kernel, kernel, generator=rng)

    def norm(name: str, c: int) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(c, generator=rng)
        state[f"{name}.bias"] = 0.1 * torch.randn(c, generator=rng)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(c, generator=rng)
        state[f"{name}.running_var"] = 0.5 + torch.rand(c, generator=rng)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    c_in = 64
    for layer, c in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            conv(f"{at}.conv1", c, c_in, 3)
            norm(f"{at}.bn1", c)
            conv(f"{at}.conv2", c, c, 3)
            norm(f"{at}.bn2", c)
            if c_in != c:
                conv(f"{at}.downsample.0", c, c_in, 1)
                norm(f"{at}.downsample.1", c)
            c_in = c
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    return state


def features_by_definition(state: dict[str, Tensor], picture_bgr: np.ndarray) -> list[Tensor]:
    """He et al., table 1 and figure 5 left, in float64: layer1 to layer3 of one picture."""
    weights = {key: value.double() for key, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        gain, bias, mean, variance = (
            weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * gain + bias

    rgb = picture_bgr[..., ::-1].astype(np.float64) / 255
    rgb = (rgb - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]
    x = F.relu(norm(F.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    features = []
    for layer, first_stride in ((1, 1), (2, 2), (3, 2)):
        for block, stride in ((0, first_stride), (1, 1)):
            at = f"layer{layer}.{block}"
            y = F.relu(norm(F.conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1"))
            y = norm(F.conv2d(y, weights[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=2), f"{at}.downsample.1")
            x = F.relu(x + y)
        features.append(x)
    return features


def test_equals_the_definition(tmp_path: Path) -> None:
    """torchvision does not import beside the CPU build of torch, so the definition is the oracle."""
    state = random_state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)

    features = pretrained_encoder("resnet18", tmp_path / "resnet18.pth")(torch.from_numpy(picture)[None])

    for level, expected in zip(features, features_by_definition(state, picture), strict=True):
        assert level.shape == expected.shape
        assert torch.allclose(level.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_keys_are_torchvisions() -> None:
    """Nothing of ours in the state dict, nothing of theirs left out up to stride 16."""
    ours = {key for key in empty_encoder("resnet18").state_dict() if not key.endswith("num_batches_tracked")}

    assert ours == {key for key in random_state_dict() if not key.startswith(("layer4", "fc"))}


def test_a_file_in_torch_hubs_folder_is_used(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network gets the file by hand."""
    state = random_state_dict()
    torch.save(state, hub / "resnet18-f37072fd.pth")
    monkeypatch.delattr(torch.hub, "load_state_dict_from_url")

    encoder = pretrained_encoder("resnet18")

    assert torch.equal(encoder.state_dict()["layer3.1.conv2.weight"], state["layer3.1.conv2.weight"])


def test_what_torch_hub_downloads_is_used(hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Once, by digest, tensors only; its notes go to stderr since stdout may be read by a program."""
    asked: list[dict[str, Any]] = []

    def fetch(url: str, **options: Any) -> None:
        asked.append({"url": url, "timeout_s": socket.getdefaulttimeout(), **options})
        print("Downloading")
        torch.save(random_state_dict(), hub / url.rpartition("/")[2])

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)

    pretrained_encoder("resnet18")
    pretrained_encoder("resnet18")

    assert len(asked) == 1
    assert asked[0]["check_hash"]
    assert asked[0]["weights_only"]
    assert asked[0]["timeout_s"] == resnet.DOWNLOAD_TIMEOUT_S
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "failure", [URLError("no route"), TimeoutError("timed out"), RuntimeError("invalid hash value")]
)
def test_without_a_network_the_message_asks_for_a_file(
    failure: Exception, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factory's network rarely reaches the world."""

    def fetch(url: str, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)

    with pytest.raises(
        BackendUnavailable, match=r"cannot be fetched from https.*; give torchvision's resnet18 as a file"
    ):
        pretrained_encoder("resnet18")


def test_a_damaged_file_in_the_cache_is_named(hub: Path) -> None:
    """Torch hub does not check what it already has."""
    (hub / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04 cut")

    with pytest.raises(BundleError, match=r"resnet18-f37072fd\.pth: cannot be read as weights"):
        pretrained_encoder("resnet18")
