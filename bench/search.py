"""What searching a patch memory costs: indexes side by side, and how time and size grow with the memory.

    python bench/search.py MODEL_FOLDER --data data/magnetic_tile [--entries 30 300 3000 30000] [--cores 1 2]

The memory is filled anew from the data's good training pictures; the queries are those of its test pictures, which it
never saw. A frame is encoder + search + decoder, the graphs in ONNX Runtime; all indexes take turns on each picture, so
that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import FloatArray, IntArray, UInt8Array
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample, good_samples, labelled_samples
from mapl_edge.export.onnx_graph import decoder_from_detector, encoder_from_detector
from mapl_edge.model.bank import Bank
from mapl_edge.model.checkpoint import checkpoint_from_folder
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.frozen import frozen
from mapl_edge.prepare import prepare
from mapl_edge.search import SearchIndex, index_from_vectors, write_index

# FAISS' index factory; what a search looks into (nprobe, efSearch); candidates that are compared exactly.
CONTENDERS = [
    ("IVF512,Flat", 28, 1),
    ("IVF256,Flat", 20, 1),
    ("IVF512,FlatPanorama4", 28, 1),
    ("HNSW16,Flat", 32, 1),
    ("HNSW24,Flat", 24, 1),
    ("NSG32,Flat", 24, 1),
    ("IVF512,PQ64x4fs,RFlat", 32, 8),
    ("IVF256,PQ64x4fs,RFlat", 20, 8),
    ("IVF256,PQ32x4fs,RFlat", 24, 32),
    ("PCA48,IVF128,PQ48x4fs,RFlat", 14, 16),
]
COLUMNS = ("search ms", "frame ms", "share", "recall@1", "MB")
TUNED_WITH = 12  # test pictures that tune the automatic index; the others measure


def main() -> None:
    """Measure and print two tables for each number of cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--entries", type=int, nargs="+", default=[30, 300, 3_000, 30_000])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    checkpoint = checkpoint_from_folder(args.model)
    contract = checkpoint.record.config.contract
    config = checkpoint.record.config.model_copy(update={"memory": "patch", "memory_patches": max(args.entries)})
    config = config.model_copy(update={"position_weight": config.position_weight or 0.0})
    normals, test = (_pictures(of(args.data), contract) for of in (good_samples, labelled_samples))
    test = test[np.random.default_rng(0).permutation(len(test))[: TUNED_WITH + args.frames]]
    detector = checkpoint.detector
    bank = Bank(normals, np.arange(len(normals)), config)
    detector.memory = empty_memory(config, detector.encoder.channels, bank.size)
    bank.refill(detector, frozen(detector.encoder, contract.size_hw))
    vectors = detector.memory.vectors().numpy()
    with tempfile.TemporaryDirectory() as folder:
        encoder_from_detector(detector, Path(folder) / "encoder.onnx")
        decoder_from_detector(detector, Path(folder) / "decoder.onnx")
        for cores in args.cores:
            frames = Frames(Path(folder), detector, test, cores)
            _print(frames, vectors, [*sorted(args.entries)])


class Frames:
    """Test pictures on their way through encoder, search and decoder."""

    def __init__(self, folder: Path, detector: Detector, test: UInt8Array, cores: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.cores = cores
        # Threads that wait in a loop for the next graph would hold the cores that the search needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )
        self._test = test[TUNED_WITH:]
        with torch.inference_mode():
            few = detector.encode(torch.from_numpy(test[:TUNED_WITH]))
            self.samples: FloatArray = detector.memory.queries(few).numpy()

    def measure(self, searches: dict[str, Any]) -> dict[str, Measured]:
        """Every picture through encoder, search and decoder, for each index in turn."""
        faiss.omp_set_num_threads(self.cores)
        names = ["features1", "features2", "features3", "queries"]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
        found: dict[str, list[Any]] = {name: [] for name in searches}
        for picture in self._test:
            for name, index in searches.items():
                encoding_ms, (*features, queries) = _timed(self._encoder.run, names, {"image": picture[None]})
                search_ms, (_, nearest) = _timed(index.search, queries[0], 1)
                inputs = {**dict(zip(names, features, strict=False)), "index": nearest.T}
                decoding_ms, _ = _timed(self._decoder.run, None, inputs)
                times[name].append((search_ms, encoding_ms + search_ms + decoding_ms))
                found[name].append(nearest[:, 0])
        medians = {name: np.median(times[name], axis=0) for name in searches}
        return {name: Measured(float(ms[0]), float(ms[1]), np.stack(found[name])) for name, ms in medians.items()}


@dataclass(frozen=True)
class Measured:
    """Median milliseconds of the search and of its whole frame, and what was found, int64 (frames, Q)."""

    search_ms: float
    frame_ms: float
    found: IntArray


class Automatic:
    """The index that a bundle would have, searched as the runtime searches it, called as FAISS is."""

    def __init__(self, vectors: FloatArray, samples: FloatArray, cores: int) -> None:
        self.index, self.summary = index_from_vectors(vectors, samples)
        with tempfile.TemporaryDirectory() as folder:
            write_index(self.index, Path(folder) / "memory.faiss")
            self._opened = SearchIndex(Path(folder) / "memory.faiss", cores, self.summary.reach)

    def search(self, queries: FloatArray, _k: int) -> tuple[None, IntArray]:
        """Float32 (Q, S) → nothing, int64 (Q, 1)."""
        return None, self._opened.search(queries[None]).reshape(-1, 1)


def _print(frames: Frames, vectors: FloatArray, entries: list[int]) -> None:
    console = Console()
    exact: Any = faiss.IndexFlatL2(vectors.shape[1])
    exact.add(vectors)
    automatic = Automatic(vectors, frames.samples, frames.cores)
    searches: dict[str, Any] = {"Flat (exact)": exact}
    for name, looks, candidates in CONTENDERS:
        searches[f"{name} {looks}" + (f" refine {candidates}" if candidates > 1 else "")] = built(
            vectors, name, looks, candidates
        )
    searches[f"automatic: {automatic.summary.index}"] = automatic
    measured = frames.measure(searches)
    table = Table("index", *COLUMNS, title=_title(frames, len(vectors)))
    for name, one in measured.items():
        table.add_row(name, *_cells(searches[name], one, measured["Flat (exact)"]))
    console.print(table)

    table = Table("entries", "index", *COLUMNS, title=_title(frames, len(vectors)))
    for count in entries:
        some = vectors[:count]  # the first of a coreset are the coreset of so many
        exact = faiss.IndexFlatL2(vectors.shape[1])
        exact.add(some)
        automatic = Automatic(some, frames.samples, frames.cores)
        both = {"exact": exact, f"automatic: {automatic.summary.index}": automatic}
        measured = frames.measure(both)
        for name, one in measured.items():
            table.add_row(str(count), name, *_cells(both[name], one, measured["exact"]))
    console.print(table)


def built(vectors: FloatArray, name: str, looks: int, candidates: int) -> Any:
    """An index by its factory name, filled, with its search set."""
    index: Any = faiss.index_factory(vectors.shape[1], name)
    index.train(vectors)
    index.add(vectors)
    if candidates > 1:
        index.k_factor = candidates
    inner: Any = faiss.downcast_index(index)
    while hasattr(inner, "base_index") or hasattr(inner, "index"):
        inner = faiss.downcast_index(inner.base_index if hasattr(inner, "base_index") else inner.index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = looks
    elif hasattr(inner, "nsg"):
        inner.nsg.search_L = looks
    else:
        inner.nprobe = looks
    return index


def _cells(index: Any, measured: Measured, exact: Measured) -> list[str]:
    recall = (measured.found == exact.found).mean()
    size_mb = len(faiss.serialize_index(index.index if isinstance(index, Automatic) else index)) / 1e6
    share = measured.search_ms / measured.frame_ms
    return [f"{measured.search_ms:.2f}", f"{measured.frame_ms:.2f}", f"{share:.0%}", f"{recall:.4f}", f"{size_mb:.2f}"]


def _title(frames: Frames, entries: int) -> str:
    machine = platform.processor() or platform.machine()
    return f"{frames.cores} thread(s) on {machine}, decoder of {entries} entries"


def _pictures(samples: list[Sample], contract: InputContract) -> UInt8Array:
    return np.stack([prepare(image, contract) for _, image in BadPictures().read(samples)])


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call(*arguments)
    return 1e3 * (time.perf_counter() - started), result


if __name__ == "__main__":
    main()
