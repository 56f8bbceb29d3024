"""The model folder: what `train` writes and `export` reads. JSON, safetensors and npz; nothing is unpickled.

model/
  model.json            schema, config, split, summary, history of the losses
  weights.safetensors   the whole detector: encoder, scales, memory, fusion, decoder, predictor, evidence
  pictures.npz          prepared pictures: the memory's normals, golden ones, simulated defects, held-out ones, uint8
  training.png          the curves
  simulations.jpg       simulated defects
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.bundle import MODEL_JSON
from mapl_edge.config import TrainConfig
from mapl_edge.engine import BaseEngine
from mapl_edge.errors import BundleError
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import empty_encoder
from mapl_edge.model.evidence import Evidence

MODEL_SCHEMA = 5
_NEW_IN_EVIDENCE = {3: ("level_slope", "level_range", "pool_share"), 4: ("pool_share",), MODEL_SCHEMA: ()}


class TrainingRecord(BaseModel):
    """What model.json holds.

    Attributes:
        trained_on: SHA-256 of each picture that training saw (weights, memory, choice of step), by name.
        held_out: SHA-256 of the good pictures set aside for calibration, by name.
        summary: figures for people: seconds, best step, validation scores.
        history: one entry per validation: step, losses, validation scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = MODEL_SCHEMA
    family: str = "mapl"
    created_at: str
    config: TrainConfig
    trained_on: dict[str, str]
    held_out: dict[str, str]
    memory_samples: int
    summary: dict[str, Any]
    history: list[dict[str, float]]
    tools: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A trained model in memory.

    Attributes:
        memory_pictures: uint8 (K, H, W, 3), prepared, in the order of the memory's sources.
        golden_pictures: uint8 (N, H, W, 3), prepared, normal and simulated anomalous.
        simulated_pictures: uint8 (M, H, W, 3), examples of what it was trained on.
        validation_pictures: uint8 (2V, H, W, 3): held-out normals, then simulated defects on the same.
    """

    detector: Detector
    record: TrainingRecord
    memory_pictures: UInt8Array
    golden_pictures: UInt8Array
    simulated_pictures: UInt8Array
    validation_pictures: UInt8Array

    def save(self, folder: Path) -> None:
        """Write the model folder's files into an existing folder."""
        weights = save({k: v.contiguous() for k, v in self.detector.state_dict().items()})
        (folder / "weights.safetensors").write_bytes(weights)
        np.savez_compressed(
            folder / "pictures.npz",
            memory=self.memory_pictures,
            golden=self.golden_pictures,
            simulated=self.simulated_pictures,
            validation=self.validation_pictures,
        )
        text = json.dumps(self.record.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / MODEL_JSON).write_text(text + "\n", encoding="utf-8")


def checkpoint_from_folder(folder: Path) -> Checkpoint:
    """Read a model folder.

    Raises:
        BundleError: it is no model folder, of a newer schema, or damaged.
    """
    if not (folder / MODEL_JSON).is_file():
        raise BundleError(f"{folder}: no {MODEL_JSON} in it, expected a folder that mapl-edge train wrote")
    try:
        content = json.loads((folder / MODEL_JSON).read_bytes())
        found = content.get("schema_version", 0)
        if found not in _NEW_IN_EVIDENCE:
            what = "newer" if found > MODEL_SCHEMA else "older"
            do = "update mapl-edge" if found > MODEL_SCHEMA else "train again"
            raise BundleError(f"{folder}: schema {found} is {what} than this version reads ({MODEL_SCHEMA}); {do}")
        record = TrainingRecord.model_validate(content)
        detector = empty_detector(record.config, record.memory_samples)
        weights = load((folder / "weights.safetensors").read_bytes())
        if detector.evidence is not None:
            as_before = Evidence().state_dict()  # no level, equal shares
            weights |= {f"evidence.{name}": as_before[name] for name in _NEW_IN_EVIDENCE[found]}
        detector.load_state_dict(weights)
        with np.load(folder / "pictures.npz", allow_pickle=False) as arrays:
            memory, golden, simulated = arrays["memory"], arrays["golden"], arrays["simulated"]
            validation = arrays["validation"] if "validation" in arrays else golden[:0]  # the first ones had none
        detector.check_fresh()
        return Checkpoint(detector.eval(), record, memory, golden, simulated, validation)
    except OSError as exc:
        raise BundleError(
            f"{folder}: {exc.filename} cannot be read ({exc.strerror}); check path and permissions, or train again"
        ) from exc
    except (ValueError, KeyError, AttributeError, RuntimeError, BadZipFile, SafetensorError) as exc:
        raise BundleError(f"{folder}: cannot be read ({str(exc).splitlines()[0]}); train again") from exc


def empty_detector(config: TrainConfig, size: int) -> Detector:
    """A detector of the configured shape, without weights; `size` samples or patches in its memory."""
    encoder = empty_encoder(config.encoder)
    return Detector(encoder, empty_memory(config, encoder.channels, size), config)


class TorchEngine(BaseEngine):
    """The reference engine: the trained detector itself. For parity and for `evaluate` on a model folder."""

    def __init__(self, detector: Detector) -> None:
        super().__init__("torch reference fp32")
        self._detector = detector.eval()

    def _load(self) -> tuple[int, int]:
        return self._detector.size_hw

    def _answer(self, pictures: UInt8Array) -> tuple[AnyArray, AnyArray, AnyArray]:
        return readings(self._detector, pictures)

    def _free(self) -> None:
        pass


def readings(detector: Detector, pictures: UInt8Array) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Reference answers for prepared pictures: scores float32 (N,), maps float32 (N, H, W), nearest int64 (N,)."""
    with torch.inference_mode():
        scores, maps, nearest = detector(torch.from_numpy(pictures))
    return scores.numpy(), maps.numpy(), nearest.numpy()
