"""Train: from pictures of good parts to a checkpoint (MAPL, Algorithm 1).

The good pictures are split once, by seed: most are trained on, some choose the best step (with simulated defects), some
are set aside for calibration and never seen here. A test set is never touched.
"""

from __future__ import annotations

import copy
import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mapl_edge import __version__
from mapl_edge.arrays import IntArray, UInt8Array
from mapl_edge.config import TrainConfig
from mapl_edge.dataset import BadPictures, Sample, check_folder, picture_paths
from mapl_edge.errors import DataError, TrainingError
from mapl_edge.files import sha256_of
from mapl_edge.metrics import average_precision
from mapl_edge.model.checkpoint import Checkpoint, TrainingRecord
from mapl_edge.model.detector import Detector
from mapl_edge.model.encoder import pretrained_encoder
from mapl_edge.model.frozen import Encode, frozen
from mapl_edge.model.losses import focal_loss, l1_loss
from mapl_edge.model.simulate import Simulator
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.verdict import utc_text

VALIDATION_SHARE, CALIBRATION_SHARE = 0.1, 0.2
MIN_GOOD = 4  # two to compare with each other, one to validate, one to calibrate
SIMULATED_PER_VALIDATION_PICTURE = 2
VALIDATION_BASE = 1 << 40  # simulations for validation are numbered from here, far from those trained on
GOLDEN = 8

Progress = Callable[[str, int, int], None]
"""progress(what, done, total)"""


@dataclass(frozen=True)
class Split:
    """Indices into the sorted good pictures."""

    train: IntArray
    validation: IntArray
    calibration: IntArray


def train(
    samples: Sequence[Sample],
    config: TrainConfig,
    bad: BadPictures | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Checkpoint:
    """Train a model on pictures of good parts.

    Args:
        samples: good parts, sorted.
        config: all settings; `config.seed` makes the run repeatable on one machine.
        bad: what to do with unusable pictures; default: stop at the first.
        progress: called as progress(what, done, total).

    Raises:
        DataError: fewer than four usable pictures, or one that cannot be used.
        TrainingError: the loss is no longer a number.
    """
    started = time.monotonic()
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    used, pictures = _prepared(samples, config, bad or BadPictures(), progress)
    split = split_of(len(used), config.seed)
    textures = texture_pictures(config.textures, config.contract.size_hw) if config.textures else ()
    simulator = Simulator(config.seed, textures)

    rng = np.random.default_rng([config.seed, 1])
    memory_of = np.sort(rng.choice(split.train, min(config.memory_samples, len(split.train)), replace=False))
    encoder = pretrained_encoder("efficientnet_lite0")
    detector = Detector(encoder, config.contract.size_hw, len(memory_of), config.decoder_stride)
    progress("preparing the encoder", 0, 1)
    encode = frozen(detector.encoder, config.contract.size_hw)
    progress("preparing the encoder", 1, 1)
    fill_memory(detector, encode, pictures[memory_of])
    validation = _Validation.of(detector, encode, simulator, pictures[split.validation])
    batches = _Batches(pictures, split.train, memory_of, simulator, config)
    best, history = _optimise(detector, encode, batches, validation, config, progress)
    detector.load_state_dict(best)

    names = [used[i] for i in (*split.train, *split.validation)]
    best_entry = max(history, key=lambda entry: entry["validation_score"])
    record = TrainingRecord(
        created_at=utc_text(datetime.now(timezone.utc)),
        config=config,
        trained_on={s.name: sha256_of(s.path) for s in names},
        held_out={used[i].name: sha256_of(used[i].path) for i in split.calibration},
        memory_samples=len(memory_of),
        summary={
            "seconds": round(time.monotonic() - started, 1),
            "peak_rss_mb": peak_rss_mb(),
            "pictures": {
                "train": len(split.train),
                "validation": len(split.validation),
                "held_out": len(split.calibration),
                "skipped": len(samples) - len(used),
            },
            "best_step": int(best_entry["step"]),
            "validation_image_ap": best_entry["validation_image_ap"],
            "validation_pixel_ap": best_entry["validation_pixel_ap"],
        },
        history=history,
        tools={"mapl-edge": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    return Checkpoint(detector.eval(), record, pictures[memory_of], validation.pictures[:: _golden_step(validation)])


def split_of(n: int, seed: int) -> Split:
    """Split n good pictures into train, validation and calibration, each at least one, by seed."""
    order = np.random.default_rng([seed, 0]).permutation(n)
    n_validation = max(1, round(VALIDATION_SHARE * n))
    n_calibration = max(1, round(CALIBRATION_SHARE * n))
    validation, calibration, rest = np.split(order, [n_validation, n_validation + n_calibration])
    return Split(np.sort(rest), np.sort(validation), np.sort(calibration))


def texture_pictures(folder: Path, size_hw: tuple[int, int]) -> list[UInt8Array]:
    """Texture sources for simulated defects, enlarged where they are smaller than the model's input.

    Raises:
        DataError: no folder, or no picture in it.
    """
    check_folder(folder)
    paths = picture_paths(folder, recursive=True)
    if not paths:
        raise DataError(
            f"{folder}: found no picture, expected textures such as DTD's; leave out --textures for our own"
        )
    h, w = size_hw
    textures = []
    for path in paths:
        image = picture_from_file(path)
        factor = max((h + 1) / image.shape[0], (w + 1) / image.shape[1])
        if factor > 1:  # one pixel more than needed: rounding must not leave it short
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        textures.append(image)
    return textures


def fill_memory(detector: Detector, encode: Encode, pictures: UInt8Array) -> None:
    """Set the channel scales and the memory from normal pictures, uint8 (K, H, W, 3)."""
    raw = _encode_all(encode, pictures)
    for level, features in enumerate(raw, start=1):
        deviation = features.std(dim=(0, 2, 3), keepdim=True)[0]  # (C, 1, 1)
        # A channel that never moves on normals must not blow up at the first speck of noise.
        detector.get_buffer(f"scale{level}").copy_(1 / deviation.clamp_min(0.05 * float(deviation.median()) + 1e-6))
    detector.memory.fill(_scaled(detector, raw))


def peak_rss_mb() -> int:
    """The most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


class _Batches:
    """Batch `step`, half normal and half simulated (Table 2), decided by the seed and the step alone."""

    def __init__(
        self, pictures: UInt8Array, train: IntArray, memory_of: IntArray, simulator: Simulator, config: TrainConfig
    ) -> None:
        self._pictures, self._train, self._simulator, self._config = pictures, train, simulator, config
        self._slot = {int(index): slot for slot, index in enumerate(memory_of)}

    def at(self, step: int) -> tuple[UInt8Array, Tensor, Tensor]:
        """Pictures uint8 (B, H, W, 3), masks float32 (B, H, W), memory slot to leave out (B,) or -1."""
        batch = self._config.batch_size
        rng = np.random.default_rng([self._config.seed, 2, step])
        chosen = rng.choice(self._train, batch, replace=len(self._train) < batch)
        images, masks = [], []
        for i, index in enumerate(chosen):
            image, mask = self._pictures[index], np.zeros(self._pictures.shape[1:3], np.uint8)
            if i >= batch // 2:
                image, mask = self._simulator.sample(image, step * batch + i)
            images.append(image)
            masks.append(mask)
        slots = torch.tensor([self._slot.get(int(index), -1) for index in chosen])
        return np.stack(images), torch.from_numpy(np.stack(masks)).float(), slots


@dataclass(frozen=True)
class _Validation:
    """Held-out normals and simulated defects on them, encoded once: the encoder and the memory do not move."""

    pictures: UInt8Array
    masks: UInt8Array
    features: list[Tensor]
    differences: list[Tensor]

    @staticmethod
    def of(detector: Detector, encode: Encode, simulator: Simulator, normals: UInt8Array) -> _Validation:
        images, masks = [], []
        for n, normal in enumerate(normals):
            images.append(normal)
            masks.append(np.zeros(normal.shape[:2], np.uint8))
            for k in range(SIMULATED_PER_VALIDATION_PICTURE):
                image, mask = simulator.sample(normal, VALIDATION_BASE + n * SIMULATED_PER_VALIDATION_PICTURE + k)
                images.append(image)
                masks.append(mask)
        pictures = np.stack(images)
        features = _scaled(detector, _encode_all(encode, pictures))
        differences = detector.memory.difference(features, detector.memory.nearest(features))
        return _Validation(pictures, np.stack(masks), features, differences)

    def score(self, detector: Detector) -> dict[str, float]:
        """Average precision per picture and per pixel of the detector as it is now."""
        detector.eval()
        maps = []
        with torch.inference_mode():
            for i in range(0, len(self.pictures), 8):
                part = slice(i, i + 8)
                logits = detector.decode([f[part] for f in self.features], [d[part] for d in self.differences])
                maps.append(logits.softmax(1)[:, 1])
            stacked = torch.cat(maps)
            scores = stacked.flatten(1).topk(detector.top_k, dim=1).values.mean(1).numpy()
        detector.train()
        image_ap = average_precision(self.masks.any((1, 2)), scores)
        pixel_ap = average_precision(self.masks.ravel() > 0, stacked.numpy().ravel())
        return {
            "validation_image_ap": image_ap,
            "validation_pixel_ap": pixel_ap,
            "validation_score": (image_ap + pixel_ap) / 2,
        }


def _optimise(
    detector: Detector,
    encode: Encode,
    batches: _Batches,
    validation: _Validation,
    config: TrainConfig,
    progress: Progress,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return the state dict of the best validated step, and the history."""
    optimiser = torch.optim.AdamW(detector.trainable(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, config.steps))
    detector.train()
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {}
    running: list[tuple[float, float]] = []
    for step in range(1, config.steps + 1):
        pictures, masks, slots = batches.at(step)
        features = _scaled(detector, encode(pictures))
        nearest = detector.memory.nearest(features, exclude=slots)
        logits = detector.decode(features, detector.memory.difference(features, nearest))
        l1 = l1_loss(logits.softmax(1)[:, 1], masks)
        focal = focal_loss(logits, masks, config.focal_gamma)
        loss = config.l1_weight * l1 + config.focal_weight * focal  # Eq. 14
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step}; lower learning_rate (now {config.learning_rate}), try again"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        running.append((l1.item(), focal.item()))
        progress("training", step, config.steps)
        if step % config.validate_every == 0 or step == config.steps:
            l1_mean, focal_mean = np.mean(running, axis=0)
            entry = {"step": float(step), "l1": float(l1_mean), "focal": float(focal_mean)}
            entry |= validation.score(detector)
            running.clear()
            if not best or entry["validation_score"] >= max(e["validation_score"] for e in history):
                best = copy.deepcopy(detector.state_dict())
            history.append(entry)
    return best, history


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then cosine to one hundredth."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _prepared(
    samples: Sequence[Sample], config: TrainConfig, bad: BadPictures, progress: Progress
) -> tuple[list[Sample], UInt8Array]:
    used, pictures = [], []
    for done, (sample, image) in enumerate(bad.read(samples), start=1):
        used.append(sample)
        pictures.append(prepare(image, config.contract))
        progress("reading pictures", done, len(samples))
    if len(used) < MIN_GOOD:
        raise DataError(
            f"found {len(used)} usable pictures of good parts, expected at least {MIN_GOOD} "
            "(50 or more work well); add some"
        )
    return used, np.stack(pictures)


def _encode_all(encode: Encode, pictures: UInt8Array) -> list[Tensor]:
    parts = [encode(pictures[i : i + 8]) for i in range(0, len(pictures), 8)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def _scaled(detector: Detector, raw: Sequence[Tensor]) -> list[Tensor]:
    return [level * detector.get_buffer(f"scale{i}") for i, level in enumerate(raw, start=1)]


def _golden_step(validation: _Validation) -> int:
    return max(1, -(-len(validation.pictures) // GOLDEN))
