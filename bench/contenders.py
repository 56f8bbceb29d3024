"""Contenders: what the benchmarks compare, and the measuring of one of them on one set in a process of its own.

    python bench/contenders.py patchcore data/bottle --out result.json [--steps 500] [--size 256] [--interference]
    python bench/contenders.py ours data/bottle --out result.json --model models/bottle

All see the same good pictures (train/good without what training holds out for calibration; never train/<defect>), at
the same size but for the paper's, which is square, and are measured by `mapl_edge.calibrate.evaluate`, one picture at a
time on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import cv2
import faiss
import numpy as np
import torch

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import MODEL_JSON, open_bundle
from mapl_edge.calibrate import evaluate
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample, good_samples, labelled_samples
from mapl_edge.engine import Reading
from mapl_edge.errors import MaplEdgeError
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.files import new_file, new_folder
from mapl_edge.interference import Interference
from mapl_edge.model.encoder import Encoder, pretrained_encoder
from mapl_edge.model.frozen import Encode, frozen
from mapl_edge.model.train import contract_that_fits, peak_rss_mb, split_of, train
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine, engine_of
from patchcore import PatchCore
from settings import BASELINE, CONFIGS, Settings

DECIDED = ("memory", "position_weight", "moved_px", "decoder_weight", "best_step", "steps", "stopped_early", "failure")
WARM_UP, TURNS = 10, 100
PICTURES = 30  # at least, where there are as many


class Contender(Protocol):
    """A way to tell good parts from bad. What is not `fit` is known after `fit`."""

    @property
    def contract(self) -> InputContract:
        """How its pictures are prepared."""
        ...

    @property
    def encoder(self) -> Encoder:
        """The part of it that turns pictures into features, to measure alone."""
        ...

    @property
    def decided(self) -> Mapping[str, object]:
        """What training decided that the settings leave open."""
        ...

    @property
    def size_bytes(self) -> int:
        """What an inspection needs to load: encoder, bank, head."""
        ...

    def fit(self, samples: Sequence[Sample]) -> None:
        """Learn from good parts, on all cores, until ready to inspect."""
        ...

    def infer(self, picture: UInt8Array) -> Reading:
        """Read one prepared picture, uint8 (H, W, 3) BGR, on one thread."""
        ...


class Mapl:
    """Our model as users get it: trained, kept in a new model folder if one is given, exported, run by ONNX Runtime."""

    def __init__(self, config: TrainConfig, model: Path | None = None) -> None:
        self._config, self._model = config, model

    def fit(self, samples: Sequence[Sample]) -> None:
        """See `Contender`."""
        checkpoint = train(samples, self._config)
        if self._model is not None:
            with new_folder(self._model, MODEL_JSON, overwrite=True) as work:
                checkpoint.save(work)
        self.contract = checkpoint.record.config.contract
        self.encoder = checkpoint.detector.encoder
        self.decided = {name: checkpoint.record.summary[name] for name in DECIDED}
        with tempfile.TemporaryDirectory() as folder:
            bundle_from_checkpoint(checkpoint, Path(folder) / "part.mapl", engine_of)
            path = open_bundle(Path(folder) / "part.mapl").model_path
            self.size_bytes = path.stat().st_size
            self._engine = FusedEngine(path, threads=1)
            self._engine.load()  # while its file is there

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Contender`."""
        return self._engine.infer(picture)


class Baseline:
    """PatchCore with a coreset of 1 %, on the pictures that our training uses: for weights, memory, choice of step."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def fit(self, samples: Sequence[Sample]) -> None:
        """See `Contender`."""
        config = self._config
        images = [image for _, image in BadPictures().read(samples)]
        self.contract = config.contract
        if config.fit_aspect:
            self.contract = contract_that_fits(config.contract, [image.shape[:2] for image in images])
        pictures = np.stack([prepare(image, self.contract) for image in images])
        del images  # the largest of all, and of no use any more
        split = split_of(len(pictures), config.seed)
        self.encoder = pretrained_encoder("efficientnet_lite0")
        chosen = np.sort(np.concatenate([split.train, split.validation]))
        encode = on_one_thread(self.encoder, self.contract)
        self._core = PatchCore.fit(encode, pictures[chosen], seed=config.seed)
        self.decided = {"patches": len(self._core.bank)}
        self.size_bytes = self._core.size_bytes + sum(4 * tensor.numel() for tensor in self.encoder.parameters())

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Contender`."""
        return self._core.read(picture)


def contender_of(name: str, settings: Settings, model: Path | None = None) -> Contender:
    """A contender by its name in `CONFIGS`; where its model folder is to be kept, which the baseline has none of."""
    config = settings.config(name)
    return Baseline(config) if name == BASELINE else Mapl(config, model)


def measured(contender: Contender, data: Path, settings: Settings) -> dict[str, Any]:
    """Fit on train/good, evaluate on test.

    Returns:
        Plain values: `size_hw`; `decided` by training; `clean` and `interference` (null unless asked for) as
        `mapl-edge evaluate --json` prints them; `fit_seconds` until ready to inspect (export included); what `latency`
        says; `size_bytes`; and `peak_rss_mb` of reading pictures and fitting: evaluation sorts every pixel, which no
        station does.
    """
    started = time.monotonic()
    contender.fit(good_samples(data))
    fit_seconds, peak = time.monotonic() - started, peak_rss_mb()
    for use_one_thread in (cv2.setNumThreads, torch.set_num_threads, faiss.omp_set_num_threads):
        use_one_thread(1)
    samples = labelled_samples(data)
    some = samples[:: max(1, len(samples) // PICTURES)]
    pictures = [prepare(image, contender.contract) for _, image in BadPictures().read(some)]
    times = latency(contender, on_one_thread(contender.encoder, contender.contract), pictures)

    def look(image: UInt8Array) -> Reading:
        return contender.infer(prepare(image, contender.contract))

    clean, disturbed = evaluate(samples, look, contender.contract), None
    if settings.interference:
        disturbed = evaluate(samples, look, contender.contract, interference=Interference())
    return {
        "size_hw": list(contender.contract.size_hw),
        "decided": dict(contender.decided),
        "clean": clean.as_json(),
        "interference": disturbed and disturbed.as_json(),
        "fit_seconds": round(fit_seconds, 1),
        **times,
        "size_bytes": contender.size_bytes,
        "peak_rss_mb": peak,
    }


def latency(
    contender: Contender,
    encode: Encode,
    pictures: Sequence[UInt8Array],
    turns: int = TURNS,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """A contender and its encoder alone, in turns on the same prepared pictures: other work falls on both.

    Returns:
        The medians `ms_per_frame` (of a prepared picture) and `encoder_ms`, and their `latency_ratio`.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + turns):
        picture = pictures[turn % len(pictures)]
        started = now()
        contender.infer(picture)
        between = now()
        encode(picture[None])
        done = now()
        if turn >= WARM_UP:
            times[0].append(1e3 * (between - started))
            times[1].append(1e3 * (done - between))
    whole, alone = (statistics.median(ms) for ms in times)
    return {"ms_per_frame": round(whole, 3), "encoder_ms": round(alone, 3), "latency_ratio": round(whole / alone, 3)}


def on_one_thread(encoder: Encoder, contract: InputContract) -> Encode:
    """The encoder alone, run by ONNX Runtime; its session takes as many threads as torch has when it is made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return frozen(encoder, contract.size_hw)
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Measure one contender on one set and write the result, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONFIGS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="keep the trained model in this folder")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interference", action="store_true")
    args = parser.parse_args()

    settings = Settings(args.steps, args.size, args.seed, args.interference)
    result = {
        "contender": args.contender,
        "settings": asdict(settings),
        "digest": settings.digest(args.contender),
        "config": settings.config(args.contender).model_dump(mode="json"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        **measured(contender_of(args.contender, settings, args.model), args.data, settings),
    }
    with new_file(args.out, overwrite=True) as work:
        work.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
