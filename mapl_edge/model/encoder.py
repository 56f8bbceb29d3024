"""Encoder h: a picture becomes three feature maps. Here is what all encoders share, and the door to each by its name.

The paper's h gives maps at strides 4, 8 and 16 (§2.3); so does every encoder here. The published ones are frozen and
carry ImageNet weights; `vaegan` is the paper's own, which is trained together with the head.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from mapl_edge.config import EncoderName
from mapl_edge.errors import BundleError, ConfigError

STRIDES = (4, 8, 16)


class Encoder(nn.Module, ABC):
    """uint8 BGR pictures → three feature maps.

    Attributes:
        name: how configuration files call it.
        channels: of the maps at each of STRIDES.
        trainable: whether training may move it. One that is not stays in evaluation mode whatever `train` is told,
            so that its batch statistics cannot drift.
    """

    name: EncoderName
    channels: tuple[int, int, int]
    trainable: bool

    @abstractmethod
    def forward(self, pictures: Tensor) -> list[Tensor]:
        """uint8 (B, H, W, 3) BGR, H and W multiples of 16 → one float32 (B, C, H/s, W/s) per stride s."""

    @abstractmethod
    def published_weights(self) -> Path | None:
        """The file of the weights that it starts from, fetched where need be; None: it starts from random ones.

        Raises:
            BackendUnavailable: they are not on this machine and cannot be fetched.
        """

    def fingerprint(self) -> int:
        """A number that changes with any weight or statistic, for those who keep what this encoder said."""
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
        return int.from_bytes(digest.digest()[:8], "big", signed=True)

    def train(self, mode: bool = True) -> Encoder:
        """Training mode, for an encoder that training may move."""
        return super().train(mode and self.trainable)


def pretrained_encoder(name: EncoderName, weights: Path | None = None) -> Encoder:
    """An encoder ready to use, in evaluation mode, frozen unless it is trainable.

    Args:
        weights: a state dict as .safetensors or as torch.save writes it (nothing but tensors is unpickled);
            default: the published weights, or for `vaegan` fresh ones drawn with torch's global seed.

    Raises:
        ConfigError: no encoder has this name.
        BackendUnavailable: the published weights cannot be had.
        BundleError: the file cannot be read, or is of another network.
    """
    encoder = empty_encoder(name)
    path = weights if weights is not None else encoder.published_weights()
    if path is not None:
        load_matching(encoder, path)
    return encoder.eval()


def empty_encoder(name: EncoderName) -> Encoder:
    """An encoder without its weights (random ones), for `load_state_dict`; frozen unless it is trainable.

    Raises:
        ConfigError: no encoder has this name.
    """
    # Here and not above: these modules build on this one.
    from mapl_edge.model.efficientnet import EfficientNetLite
    from mapl_edge.model.resnet import ResNet18
    from mapl_edge.model.vaegan import VaeGanEncoder

    makers: dict[EncoderName, Callable[[], Encoder]] = {
        "efficientnet_lite0": lambda: EfficientNetLite("efficientnet_lite0"),
        "efficientnet_lite1": lambda: EfficientNetLite("efficientnet_lite1"),
        "efficientnet_lite2": lambda: EfficientNetLite("efficientnet_lite2"),
        "resnet18": ResNet18,
        "vaegan": VaeGanEncoder,
    }
    if name not in makers:
        known = get_args(EncoderName)
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError("encoder", [f"there is none called {name!r}{hint} (known: {', '.join(known)})"])
    encoder = makers[name]()
    return encoder if encoder.trainable else encoder.eval().requires_grad_(False)


def load_matching(encoder: Encoder, path: Path) -> None:
    """Load a whole network's state dict into the part of it that we use: every weight of ours must be there.

    Only the counters `num_batches_tracked` may be absent, as they are in files older than torch 0.4.1; nothing reads
    them.

    Raises:
        BundleError: the file cannot be read or is no state dict; weights are missing or of another shape (names the
            first three).
    """
    weights = state_dict_from_file(path)
    ours = {key: value for key, value in encoder.state_dict().items() if not key.endswith(".num_batches_tracked")}
    missing = [key for key in ours if key not in weights]
    if missing:
        raise BundleError(
            f"{path}: {len(missing)} of the {len(ours)} weights of {encoder.name} are missing, first "
            f"{', '.join(missing[:3])}; found {_some(weights)}; give a state dict of {encoder.name}"
        )
    misshapen = [key for key in ours if weights[key].shape != ours[key].shape]
    if misshapen:
        shapes = [f"{key} is {_times(weights[key])}, not {_times(ours[key])}" for key in misshapen[:3]]
        raise BundleError(
            f"{path}: {len(misshapen)} of the {len(ours)} weights of {encoder.name} have another shape, first "
            f"{', '.join(shapes)}; give a state dict of {encoder.name}"
        )
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict() if key in weights})


def state_dict_from_file(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from .safetensors or else from what torch.save wrote; no code is unpickled.

    Raises:
        BundleError: the file is missing, unreadable, damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read ({exc.strerror or exc}); check path and permissions") from exc
    except SafetensorError as exc:
        raise BundleError(f"{path}: not a safetensors file ({exc}); fetch it again") from exc
    except pickle.UnpicklingError as exc:
        raise BundleError(
            f"{path}: holds no plain tensors, expected a state dict; save one with torch.save(model.state_dict(), ...)"
        ) from exc
    except Exception as exc:  # torch.load answers a damaged file with nearly any exception
        raise BundleError(f"{path}: cannot be read as weights ({type(exc).__name__}); fetch it again") from exc
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        found = _some(content) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise BundleError(
            f"{path}: not a state dict (tensors by name), found {found}; "
            "save one with torch.save(model.state_dict(), ...)"
        )
    return {str(key): value for key, value in content.items()}


def rgb_from_pictures(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) BGR → float32 (B, 3, H, W) RGB, 0 to 255."""
    # The cast comes first: TensorRT takes uint8 as an input of nothing but a cast.
    return pictures.float().permute(0, 3, 1, 2).flip(1)


def _some(content: Mapping[str, object]) -> str:
    """The first three keys of a file, for a message."""
    if not content:
        return "nothing in it"
    return ", ".join(str(key) for key in list(content)[:3]) + (", …" if len(content) > 3 else "")


def _times(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "a single number"
