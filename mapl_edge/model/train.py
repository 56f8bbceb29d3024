"""Train: from pictures of good parts, and of a few defective ones if there are any, to a checkpoint (Algorithm 1).

The good pictures are split once, by seed: most are trained on, some choose (the best step, the scope), some are set
aside for calibration and never seen here. A test set is never touched. Every `validate_every` steps the state is
saved, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mapl_edge import __version__
from mapl_edge.arrays import IntArray, UInt8Array
from mapl_edge.camera_health import agree_in_place
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample, check_folder, picture_paths
from mapl_edge.errors import DataError, PictureError
from mapl_edge.files import sha256_of
from mapl_edge.model.bank import Bank
from mapl_edge.model.batches import Batches, RealDefect
from mapl_edge.model.checkpoint import Checkpoint, TrainingRecord
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import Encoder, pretrained_encoder
from mapl_edge.model.frozen import Encode, frozen
from mapl_edge.model.optimise import Optimised, best_of, optimise
from mapl_edge.model.simulate import Simulator
from mapl_edge.model.validation import FIRST_NUMBER, DistanceScore, Validation
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare, prepared_mask
from mapl_edge.verdict import utc_text

VALIDATION_SHARE, CALIBRATION_SHARE = 0.1, 0.2
MOST_CALIBRATION = 0.3  # held out for the sake of the promise
PROMISING = 59, 93  # parts, none or one above the limit: at most 5 % false rejects, 95 % sure, as calibrate wants it
MIN_GOOD = 4  # two to compare with each other, one to validate, one to calibrate
GOLDEN = 8
VALIDATED = 32  # held-out normals that travel with the model, to measure what a lower precision costs
PROBED = 16  # pictures whose shape decides the input's
POSITION_WEIGHTS = (0.0, 0.5)
MOVED_PX = 4.0  # half a cell of the distance map

logger = logging.getLogger(__name__)

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
    *,
    defects: Sequence[Sample] = (),
    state: Path | None = None,
) -> Checkpoint:
    """Train a model.

    Args:
        samples: good parts, sorted.
        config: all settings; `config.seed` makes the run repeatable on one machine.
        bad: what to do with unusable pictures; default: stop at the first.
        progress: called as progress(what, done, total).
        defects: real defective parts to learn from, with or without masks.
        state: a file that the state is saved to after each validation, and that a killed run of the same settings and
            pictures goes on from.

    Raises:
        DataError: fewer than four usable pictures, or one that cannot be used.
        TrainingError: the loss is no longer a number, before there was anything to keep. Later it ends training: the
            checkpoint is of the best step before, and its summary says why under "failure".
        OutputError: the state cannot be saved.
    """
    started = time.monotonic()
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    bad = bad or BadPictures()
    config, used, pictures = _prepared(samples, config, bad, progress)
    real_used, real = _real_defects(defects, config.contract, bad)
    split = split_of(len(used), config.seed)
    if config.moved_px is None:
        config = config.model_copy(update={"moved_px": MOVED_PX if agree_in_place(pictures[split.train]) else 0.0})
    size_hw = config.contract.size_hw
    textures = texture_pictures(config.textures, size_hw) if config.textures else ()
    simulator = Simulator(config.seed, textures, pictures[split.train], only_paper=config.simulation == "paper")
    validation = Validation(pictures[split.validation], split.validation, simulator, config.interference)

    encoder = pretrained_encoder(config.encoder, config.weights)
    progress("preparing the encoder", 0, 1)
    encode = _encode_live(encoder) if encoder.trainable else frozen(encoder, size_hw)
    progress("preparing the encoder", 1, 1)
    config, detector, bank = _with_memory(encoder, encode, config, pictures, split.train, validation, progress)
    batches = Batches(pictures, split.train, real, simulator, config)
    run_id = _run_id(config, encoder, textures, [*used, *real_used])
    result = optimise(detector, encode, bank, batches, validation, config, progress, state, run_id)
    detector.eval()
    if config.memory == "patch" and not encoder.trainable:
        # All is chosen: what validated may now be remembered too.
        everything = np.sort(np.concatenate([split.train, split.validation]))
        bank = Bank(pictures[everything], everything, config)
        bank.refill(detector, encode)
        validation.compare(detector, encode, bank)
        validation.score(detector)
    detector.check_fresh()

    names = [used[i] for i in (*split.train, *split.validation)]
    record = TrainingRecord(
        created_at=utc_text(datetime.now(timezone.utc)),
        config=config,
        trained_on={s.name: sha256_of(s.path) for s in [*names, *real_used]},
        held_out={used[i].name: sha256_of(used[i].path) for i in split.calibration},
        memory_samples=detector.memory.size,
        summary={
            "seconds": round(time.monotonic() - started, 1),
            "peak_rss_mb": peak_rss_mb(),
            "pictures": {
                "train": len(split.train),
                "validation": len(split.validation),
                "held_out": len(split.calibration),
                "defective": len(real),
                "skipped": len(bad.errors),
            },
            "memory": config.memory,
            "position_weight": config.position_weight,
            "moved_px": config.moved_px if config.memory == "patch" else 0.0,
            "decoder_weight": None if detector.evidence is None else round(float(detector.evidence.weight), 4),
            "notes": _notes(config, split, detector),
            **_summary(result),
        },
        history=result.history,
        tools={"mapl-edge": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    golden = validation.golden(detector, GOLDEN)
    simulated = [simulator.sample(pictures[i], n) for n, i in enumerate(split.train[:8])]
    held_out = split.calibration[:VALIDATED]
    defects_on_them = [simulator.sample(pictures[i], FIRST_NUMBER - 1 - n)[0] for n, i in enumerate(held_out)]
    return Checkpoint(
        detector,
        record,
        bank.pictures,
        golden,
        np.stack([image for image, _ in simulated]),
        np.concatenate([pictures[held_out], np.stack(defects_on_them)]),
    )


def split_of(n: int, seed: int) -> Split:
    """Split n good pictures into train, validation and calibration, each at least one, by seed.

    Where up to 30 % are enough for what calibration promises by default, so many are held out, for the better promise
    of the two: with one part above the limit, a single odd one does not set it.
    """
    order = np.random.default_rng([seed, 0]).permutation(n)
    n_validation = max(1, round(VALIDATION_SHARE * n))
    enough = [count for count in PROMISING if count <= MOST_CALIBRATION * n]
    n_calibration = max(1, round(CALIBRATION_SHARE * n), *enough)
    validation, calibration, rest = np.split(order, [n_validation, n_validation + n_calibration])
    return Split(np.sort(rest), np.sort(validation), np.sort(calibration))


def contract_that_fits(contract: InputContract, shapes: Sequence[tuple[int, int]]) -> InputContract:
    """The same number of pixels, about, in the pictures' own ratio of sides.

    Args:
        contract: says how many pixels, and which region of a picture.
        shapes: height and width of each camera picture; their median ratio counts.

    Returns:
        Sides are multiples of 32 with the ratio nearest to the pictures', the area within a tenth of the wanted one.
    """
    if contract.roi_xywh is not None:
        shapes = [(contract.roi_xywh[3], contract.roi_xywh[2])]
    ratio = float(np.median([h / w for h, w in shapes]))
    pixels = contract.size_hw[0] * contract.size_hw[1]
    if 0.8 < ratio * contract.size_hw[1] / contract.size_hw[0] < 1.25:
        return contract
    sides = range(32, 4097, 32)
    sizes = [(h, w) for h in sides for w in sides if abs(h * w / pixels - 1) <= 0.1]
    best = min(sizes, key=lambda hw: abs(math.log(hw[0] / hw[1] / ratio)), default=contract.size_hw)
    return contract.model_copy(update={"size_hw": best})


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


def peak_rss_mb() -> int:
    """The most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def _with_memory(
    encoder: Encoder,
    encode: Encode,
    config: TrainConfig,
    pictures: UInt8Array,
    train: IntArray,
    validation: Validation,
    progress: Progress,
) -> tuple[TrainConfig, Detector, Bank]:
    """The settings with nothing left open, and a detector with a filled memory.

    Of the scopes and position weights that the settings leave open, first comes the one that supposes least about where
    parts lie. A later one takes its place only where its distance alone tells held-out normals from simulated defects
    better by more than a standard error of that difference: less may be chance.
    """
    kept: tuple[DistanceScore, TrainConfig, Detector, Bank] | None = None
    choices = memory_choices(config)
    for done, decided in enumerate(choices):
        progress("filling the memory", done, len(choices))
        numbers = train
        if decided.memory == "image" or encoder.trainable:
            rng = np.random.default_rng([config.seed, 1])
            numbers = np.sort(rng.choice(train, min(config.memory_samples, len(train)), replace=False))
        bank = Bank(pictures[numbers], numbers, decided)
        torch.manual_seed(config.seed)
        detector = Detector(encoder, empty_memory(decided, encoder.channels, bank.size), decided)
        bank.fill(detector, encode)
        validation.compare(detector, encode)
        score = validation.distance_score()
        logger.info("memory %s, position weight %s: %.4f", decided.memory, decided.position_weight, score.all)
        if kept is None or score.clearly_above(kept[0]):
            kept = score, decided, detector, bank
    progress("filling the memory", len(choices), len(choices))
    assert kept is not None
    validation.compare(kept[2], encode)
    return kept[1:]


def memory_choices(config: TrainConfig) -> list[TrainConfig]:
    """All ways to decide what the settings leave open about the memory; what supposes least about place comes first."""
    choices = []
    for scope in ("patch", "image") if config.memory == "auto" else (config.memory,):
        open_weights = POSITION_WEIGHTS if scope == "patch" else (0.0,)
        weights = open_weights if config.position_weight is None else (config.position_weight,)
        choices += [config.model_copy(update={"memory": scope, "position_weight": weight}) for weight in weights]
    return choices


def _prepared(
    samples: Sequence[Sample], config: TrainConfig, bad: BadPictures, progress: Progress
) -> tuple[TrainConfig, list[Sample], UInt8Array]:
    """The settings with the input's size decided, the usable samples, and their prepared pictures."""
    if config.fit_aspect:
        few = samples[:: max(1, len(samples) // PROBED)]
        shapes = [image.shape[:2] for _, image in BadPictures(skip=True).read(few)]
        contract = contract_that_fits(config.contract, shapes) if shapes else config.contract
        config = config.model_copy(update={"contract": contract, "fit_aspect": False})
    used, pictures = [], []
    for done, (sample, image) in enumerate(bad.read(samples), start=1):
        used.append(sample)
        pictures.append(prepare(image, config.contract))  # at once: a camera's pictures may fill the memory
        progress("reading pictures", done, len(samples))
    if len(used) < MIN_GOOD:
        raise DataError(
            f"found {len(used)} usable pictures of good parts, expected at least {MIN_GOOD} "
            "(50 or more work well); add some"
        )
    return config, used, np.stack(pictures)


def _real_defects(
    samples: Sequence[Sample], contract: InputContract, bad: BadPictures
) -> tuple[list[Sample], list[RealDefect]]:
    """Real defects with their masks; an empty mask is none, and a defect beside the region of interest is left out."""
    used, defects = [], []
    for sample, image in bad.read(samples):
        try:
            mask = prepared_mask(sample, contract, image.shape[:2])
        except PictureError as exc:
            bad.report(exc)
            continue
        if mask is not None and not mask.any():
            whole = sample.mask(image.shape[:2])
            if whole is not None and whole.any():
                continue
            mask = None
        used.append(sample)
        defects.append(RealDefect(prepare(image, contract), mask))
    return used, defects


def _encode_live(encoder: Encoder) -> Encode:
    """A trainable encoder as it is at each call; gradient flows where it is wanted."""

    def encode(pictures: UInt8Array) -> list[Tensor]:
        features: list[Tensor] = encoder(torch.from_numpy(np.ascontiguousarray(pictures)))
        return features

    return encode


def _run_id(config: TrainConfig, encoder: Encoder, textures: Sequence[UInt8Array], samples: Sequence[Sample]) -> str:
    """What a saved state must agree with to go on from it: settings, and what lies in the files that they name."""
    settings = f"{__version__} {torch.__version__} {config.model_dump_json()} {encoder.fingerprint()}\n"
    digest = hashlib.sha256(settings.encode())
    for texture in textures:
        digest.update(texture.tobytes())
    for sample in samples:
        mask = sha256_of(sample.mask_path) if sample.mask_path else ""
        digest.update(f"{sample.name} {sha256_of(sample.path)} {mask}\n".encode())
    return digest.hexdigest()


def _notes(config: TrainConfig, split: Split, detector: Detector) -> list[str]:
    """What had to be done with fewer pictures than the settings ask for, for people."""
    wanted, train = config.memory_samples, len(split.train)
    if config.memory == "image" and train < wanted:
        return [f"the memory holds {train} pictures, all there are to train on (memory_samples is {wanted})"]
    held = detector.memory.size
    if config.memory == "patch" and held < config.memory_patches:
        return [
            f"the memory holds {held} patches, all there are to train on (memory_patches is {config.memory_patches})"
        ]
    return []


def _summary(result: Optimised) -> dict[str, object]:
    best = best_of(result.history)
    names = ("validation_image_auroc", "validation_image_ap", "validation_pixel_ap")
    return {
        "steps": int(result.history[-1]["step"]),
        "stopped_early": result.stopped_early,
        "failure": result.failure,
        "best_step": int(best["step"]),
        **{name: best[name] for name in names},
    }
