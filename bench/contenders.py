"""Contenders: what bench/accuracy.py compares, and the measuring of one of them on one set in a process of its own.

    python bench/contenders.py patchcore data/bottle --out result.json [--steps 500] [--size 256] [--interference]

All see the same good pictures (train/good without what training holds out for calibration), the same contract, and are
measured by `mapl_edge.calibrate.evaluate`, one picture at a time on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import faiss
import numpy as np
import torch

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.calibrate import evaluate
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample, good_samples, labelled_samples
from mapl_edge.engine import Reading
from mapl_edge.errors import MaplEdgeError
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.files import new_file
from mapl_edge.interference import Interference
from mapl_edge.model.encoder import pretrained_encoder
from mapl_edge.model.frozen import frozen
from mapl_edge.model.train import peak_rss_mb, split_of, train
from mapl_edge.prepare import prepare
from mapl_edge.runtime import OnnxRuntimeEngine
from mapl_edge.runtime.inspector import look
from patchcore import PatchCore


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all contenders of a run; None: the default of `TrainConfig`.

    Attributes:
        steps: of training; few for a smoke test.
        size: side of the square model input in pixels.
        seed: of training, of the coreset and of what is held out.
        interference: whether to measure a second time under `Interference()`.
    """

    steps: int | None = None
    size: int | None = None
    seed: int = 0
    interference: bool = False

    def config(self, base: TrainConfig) -> TrainConfig:
        """`base` with these settings."""
        values = base.model_dump() | {"seed": self.seed}
        if self.steps is not None:
            values["steps"] = self.steps
        if self.size is not None:
            values["contract"] = {"size_hw": (self.size, self.size)}
        return TrainConfig.model_validate(values)


class Contender(Protocol):
    """A way to tell good parts from bad."""

    @property
    def contract(self) -> InputContract:
        """How its pictures are prepared; known after `fit`."""
        ...

    @property
    def size_bytes(self) -> int:
        """What an inspection needs to load: encoder, bank, head."""
        ...

    def fit(self, samples: Sequence[Sample]) -> None:
        """Learn from good parts, on all cores, until ready to inspect."""
        ...

    def look(self, image: UInt8Array) -> Reading:
        """Read one camera picture, uint8 (H, W, 3) BGR, on one thread."""
        ...


class Mapl:
    """Our model as users get it: trained, exported, run by ONNX Runtime."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.contract = config.contract

    def fit(self, samples: Sequence[Sample]) -> None:
        """See `Contender`."""
        checkpoint = train(samples, self._config)
        with tempfile.TemporaryDirectory() as folder:
            bundle_from_checkpoint(checkpoint, Path(folder) / "part.mapl", OnnxRuntimeEngine)
            path = open_bundle(Path(folder) / "part.mapl").model_path
            self.size_bytes = path.stat().st_size
            self._engine = OnnxRuntimeEngine(path, threads=1)

    def look(self, image: UInt8Array) -> Reading:
        """See `Contender`."""
        return look(self._engine, self.contract, image)


class Baseline:
    """PatchCore with a coreset of 1 %, on the pictures that our training uses: for weights, memory, choice of step."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.contract = config.contract

    def fit(self, samples: Sequence[Sample]) -> None:
        """See `Contender`."""
        contract = self.contract
        pictures = np.stack([prepare(image, contract) for _, image in BadPictures().read(samples)])
        split = split_of(len(pictures), self._config.seed)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the encoder's session takes what it finds here, and `look` is measured on one thread
        encoder = pretrained_encoder("efficientnet_lite0")
        encode = frozen(encoder, contract.size_hw)
        torch.set_num_threads(threads)
        chosen = np.sort(np.concatenate([split.train, split.validation]))
        self._core = PatchCore.fit(encode, pictures[chosen], seed=self._config.seed)
        self.size_bytes = self._core.size_bytes + sum(4 * tensor.numel() for tensor in encoder.parameters())
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)

    def look(self, image: UInt8Array) -> Reading:
        """See `Contender`."""
        return self._core.read(prepare(image, self.contract))


OURS = TrainConfig()
PAPER = TrainConfig()  # the defaults are still the paper's Table 2

CONTENDERS: dict[str, Callable[[Settings], Contender]] = {
    "ours": lambda settings: Mapl(settings.config(OURS)),
    "paper": lambda settings: Mapl(settings.config(PAPER)),
    "patchcore": lambda settings: Baseline(settings.config(OURS)),
}


def measured(contender: Contender, data: Path, settings: Settings) -> dict[str, Any]:
    """Fit on train/good, evaluate on test.

    Returns:
        Plain values: `clean` and `interference` (null unless asked for) as `mapl-edge evaluate --json` prints them,
        `fit_seconds` until ready to inspect (export included), `ms_p50` from camera picture to reading, `size_bytes`,
        and `peak_rss_mb` of reading pictures and fitting: evaluation sorts every pixel, which no station does.
    """
    started = time.monotonic()
    contender.fit(good_samples(data))
    fit_seconds, peak = time.monotonic() - started, peak_rss_mb()
    cv2.setNumThreads(1)
    times_ms: list[float] = []

    def timed_look(image: UInt8Array) -> Reading:
        began = time.perf_counter()
        reading = contender.look(image)
        times_ms.append(1e3 * (time.perf_counter() - began))
        return reading

    samples = labelled_samples(data)
    clean = evaluate(samples, timed_look, contender.contract)
    disturbed = None
    if settings.interference:
        disturbed = evaluate(samples, contender.look, contender.contract, interference=Interference())
    return {
        "settings": asdict(settings),
        "clean": clean.as_json(),
        "interference": disturbed and disturbed.as_json(),
        "fit_seconds": round(fit_seconds, 1),
        "ms_p50": round(statistics.median(times_ms), 2),
        "size_bytes": contender.size_bytes,
        "peak_rss_mb": peak,
    }


def main() -> None:
    """Measure one contender on one set and write the result, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interference", action="store_true")
    args = parser.parse_args()

    settings = Settings(args.steps, args.size, args.seed, args.interference)
    result = measured(CONTENDERS[args.contender](settings), args.data, settings)
    with new_file(args.out, overwrite=True) as work:
        work.write_text(json.dumps({"contender": args.contender, **result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
