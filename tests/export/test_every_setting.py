"""Every value of every training option is built, trained for a step, exported and proved. Options share models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import save_file
from torch import Tensor, nn

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.config import TrainConfig
from mapl_edge.dataset import good_samples
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.model import train as train_module
from mapl_edge.model.checkpoint import checkpoint_from_folder, readings
from mapl_edge.model.encoder import Encoder, empty_encoder
from mapl_edge.model.frozen import Encode
from mapl_edge.model.train import train
from mapl_edge.runtime import FusedEngine, engine_of

VARIANTS: dict[str, dict[str, Any]] = {
    "patches": {
        "encoder": "efficientnet_lite0", "memory": "patch", "position_weight": 0.5, "coordinate_attention": True,
        "moved_px": 4.0,
    },
    "paper": TrainConfig.paper_settings(encoder="vaegan").model_dump(
        exclude={"contract", "steps", "batch_size", "seed", "memory_samples", "validate_every"}
    ),
    "centres": {
        "encoder": "efficientnet_lite1", "memory": "patch", "reduction": "kmeans", "fusion": "none",
        "spatial_attention": "none", "coordinate_attention": True, "decoder_stride": 1, "pseudo_labeler": False,
    },
    "decided": {
        "encoder": "resnet18", "memory": "auto", "position_weight": None, "fusion": "full", "fit_aspect": True,
        "coordinate_attention": True, "spatial_attention": "multiply", "moved_px": None,
    },
    "pictures": {
        "encoder": "efficientnet_lite2", "memory": "image", "distance": False, "simulation": "paper",
        "interference": False, "spatial_attention": "residual", "textures": Path("textures"),
    },
}  # fmt: skip


def settings_of(name: str, folder: Path) -> TrainConfig:
    """A variant, one step long, with random weights from a file where the published ones might not be there."""
    config = TrainConfig.model_validate(TINY.model_dump() | VARIANTS[name] | {"steps": 1})
    changes: dict[str, Any] = {}
    if config.encoder not in ("efficientnet_lite0", "vaegan"):
        torch.manual_seed(0)
        encoder = empty_encoder(config.encoder)
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        changes["weights"] = folder / "random.safetensors"
        save_file(encoder.state_dict(), changes["weights"])
    if config.textures is not None:
        changes["textures"] = folder / "textures"
        changes["textures"].mkdir()
        cv2.imwrite(str(folder / "textures" / "a.png"), np.random.default_rng(0).integers(0, 256, (40, 200, 3)))
    return config.model_copy(update=changes)


def untraced(encoder: Encoder, size_hw: tuple[int, int]) -> Encode:
    """The frozen encoder by torch itself: tracing five of them would take half a minute."""

    def encode(pictures: UInt8Array) -> list[Tensor]:
        with torch.no_grad():
            levels: list[Tensor] = encoder(torch.from_numpy(np.ascontiguousarray(pictures)))
        return levels

    return encode


def values_of(key: str) -> list[Any]:
    """All values of an option that has few: switches, choices, and None beside anything else."""
    annotation = TrainConfig.model_fields[key].annotation
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [None, ...] if type(None) in get_args(annotation) else []


@pytest.mark.parametrize("key", TrainConfig.model_fields)
def test_the_variants_have_every_value_of_every_option(key: str, tmp_path: Path) -> None:
    """A value that nobody tries is broken by the next change. (`...`: any but None.)"""
    tried = []
    for name in VARIANTS:
        (tmp_path / name).mkdir()
        value = getattr(settings_of(name, tmp_path / name), key)
        tried.append(value if value in values_of(key) else ...)

    assert [value for value in values_of(key) if value not in tried] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_trained_exported_and_proved(
    name: str, line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph answers as torch does, the golden pictures and new ones; and so does the saved model."""
    monkeypatch.setattr(train_module, "frozen", untraced)
    config = settings_of(name, tmp_path)

    checkpoint = train(good_samples(line_data), config)
    (tmp_path / "model").mkdir()
    checkpoint.save(tmp_path / "model")
    result = bundle_from_checkpoint(checkpoint_from_folder(tmp_path / "model"), tmp_path / "part.mapl", engine_of)

    assert result, result
    bundle = open_bundle(tmp_path / "part.mapl")
    assert bundle.manifest.memory.scope == checkpoint.record.config.memory
    scores, maps, _ = readings(checkpoint.detector, checkpoint.simulated_pictures)
    with FusedEngine(bundle.model_path, threads=1) as engine:
        for picture, score, plane in zip(checkpoint.simulated_pictures, scores, maps, strict=True):
            answer = engine.infer(picture)
            assert answer.score == pytest.approx(score, rel=0.02, abs=0.02)
            assert np.abs(answer.map - plane).mean() < 0.01
            assert 0 <= answer.nearest < len(checkpoint.memory_pictures)
