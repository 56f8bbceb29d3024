"""Engine bench: what each engine of a bundle takes and gives on this device, side by side in one run."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.bundle import ENCODER, MEMORY, Bundle, open_bundle
from mapl_edge.engine import BaseEngine, Engine
from mapl_edge.engine_record import EngineFiles, Graph, engine_files, engine_names, plain_engine
from mapl_edge.errors import BackendError, MaplEdgeError
from mapl_edge.files import files_errors
from mapl_edge.parity import parity
from mapl_edge.runtime.engine_choice import engine_of, record_choice
from mapl_edge.runtime.onnx_session import OnnxSession
from mapl_edge.search import SearchIndex, index_from_vectors, write_index

WARM_UP = 5
PAUSE_S = 0.01  # between calls: threads of one engine that still wait in a loop would take a core from the next
BATCHES = (2, 4, 8)
SAMPLED = 16  # pictures whose queries set an approximate index
SIZES = (30, 300, 3_000, 30_000)  # entries of a memory
CHILD_TIMEOUT_S = 300
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One engine on this device.

    Attributes:
        engine: its name.
        load_s, rss_mb: in a process of its own: seconds until ready, the most memory after some frames, in MB; None
            for an engine that has no files.
        p50_ms, p95_ms, p99_ms: of one frame, in turns with all other engines.
        fps, best_fps, best_batch: frames a second one at a time, and with the best batch.
        size_mb: of the files that it needs.
        score_error, map_error: against the golden answers; `proven`: whether it proves itself.
    """

    engine: str
    load_s: float | None
    rss_mb: int | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    fps: float
    best_fps: float
    best_batch: int
    size_mb: float | None
    score_error: float
    map_error: float
    proven: bool


def bench_engines(
    bundle: Bundle,
    threads: int = 0,
    frames: int = 100,
    *,
    others: Sequence[Engine] = (),
    record: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> list[EngineFigures]:
    """Measure all engines of a bundle, and its own fp32 graphs in ONNX Runtime, fused and split.

    Args:
        bundle: whose engines; its golden pictures are what they look at.
        threads: for one call; 0 lets the library take all cores.
        frames: that each engine looks at, in turns with the others: other work falls on all.
        others: engines to measure beside them, such as the torch reference.
        record: note the fastest proven one in the bundle, for `auto` on this device.
        tell: is told which engines are left out and why.
        progress: called as progress(what, done, total).

    Returns:
        The figures, fastest first.
    """
    golden = bundle.golden()
    known = {files.record.name: files for files in _candidates(bundle, tell)}
    running = engines_that_run_here(bundle, threads, tell)
    loaded: dict[str, tuple[Engine, EngineFiles | None]] = {name: (e, known[name]) for name, e in running.items()}
    loaded |= {engine.name: (engine, None) for engine in others}
    if not loaded:
        raise BackendError(f"{bundle.path}: no engine runs here")
    try:
        times = _in_turns({name: engine for name, (engine, _) in loaded.items()}, golden.pictures, frames, progress)
        figures = []
        for done, (name, (engine, files)) in enumerate(loaded.items()):
            progress("batches and memory", done, len(loaded))
            figures.append(_figures(bundle, name, engine, files, times[name], threads))
        progress("batches and memory", len(loaded), len(loaded))
    finally:
        for engine, _ in loaded.values():
            engine.close()
    figures.sort(key=lambda found: found.p50_ms)
    best = next((found.engine for found in figures if found.proven and loaded[found.engine][1] is not None), None)
    if record and best is not None:
        with files_errors(bundle.path):
            record_choice(bundle, best)
    return figures


def engines_that_run_here(
    bundle: Bundle, threads: int = 0, tell: Callable[[str], None] = lambda line: None
) -> dict[str, BaseEngine]:
    """All engines of a bundle that this device can run, loaded, by name; the others are told of."""
    running: dict[str, BaseEngine] = {}
    for files in _candidates(bundle, tell):
        try:
            engine = engine_of(files, threads)
            engine.load()
            running[files.record.name] = engine
        except MaplEdgeError as exc:
            tell(f"engine {files.record.name} is left out: {exc}")
    return running


@dataclass(frozen=True, slots=True)
class GrowthFigures:
    """The split graphs' search in a memory of another size.

    Attributes:
        entries, index: how many, and what kind of index that takes.
        ms: median milliseconds of a frame's search.
        recall: share of a frame's queries that find their true nearest entry.
        size_mb: of the index.
    """

    entries: int
    index: str
    ms: float
    recall: float
    size_mb: float


def bench_growth(
    bundle: Bundle, threads: int = 0, progress: Progress = lambda what, done, total: None
) -> list[GrowthFigures]:
    """How search time and memory grow with the memory, on real entries: what the memory's pictures consist of.

    Sizes that the pictures do not suffice for are left out; so are all of an image memory above its number of pictures.
    """
    encoder = OnnxSession(bundle.path / ENCODER, threads)
    queries = encoder.run({"image": bundle.golden().pictures})["queries"]  # (B, Q, S)
    pictures = bundle.memory_pictures()
    per_picture = queries.shape[1]
    wanted = -(-SIZES[-1] // per_picture)
    some = pictures[np.linspace(0, len(pictures) - 1, min(len(pictures), 4 * wanted)).astype(int)]
    vectors = np.concatenate([encoder.run({"image": picture[None]})["queries"][0] for picture in some])
    unseen, _ = bundle.validation()
    some = unseen[np.linspace(0, len(unseen) - 1, min(len(unseen), SAMPLED)).astype(int)]  # good and defective ones
    samples = np.concatenate([encoder.run({"image": picture[None]})["queries"] for picture in some])
    encoder.close()
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    figures = []
    sizes = [size for size in SIZES if size <= len(vectors)]
    for done, size in enumerate(sizes):
        progress("search as the memory grows", done, len(sizes))
        figures.append(_growth(vectors[:size], samples, queries, threads))
    progress("search as the memory grows", len(sizes), len(sizes))
    return figures


def _growth(vectors: FloatArray, samples: FloatArray, queries: FloatArray, threads: int) -> GrowthFigures:
    built, summary = index_from_vectors(vectors, samples)
    exact, _ = index_from_vectors(vectors)
    flat = queries.reshape(-1, queries.shape[-1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MEMORY
        write_index(built, path)
        index = SearchIndex(path, threads, summary.reach)
        times = []
        for turn in range(3 * len(queries)):
            started = time.perf_counter()
            index.search(queries[turn % len(queries)][None])
            times.append(1e3 * (time.perf_counter() - started))
        recall = float((index.search(queries).reshape(-1) == exact.search(flat, 1)[1][:, 0]).mean())
        size_mb = path.stat().st_size / 1e6
    ms = round(statistics.median(times), 3)
    return GrowthFigures(summary.entries, summary.index, ms, round(recall, 4), round(size_mb, 2))


def _candidates(bundle: Bundle, tell: Callable[[str], None]) -> list[EngineFiles]:
    graphs: tuple[Graph, ...] = ("fused", "split") if bundle.is_split else ("fused",)
    plain = [plain_engine(bundle, graph=graph) for graph in graphs]
    found = {files.record.name: files for files in plain}
    for name in engine_names(bundle):
        try:
            found[name] = engine_files(bundle, name)
        except MaplEdgeError as exc:
            tell(f"engine {name} is left out: {exc}")
    return list(found.values())


def _in_turns(
    engines: dict[str, Engine], pictures: UInt8Array, frames: int, progress: Progress
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(WARM_UP + frames):
        for name, engine in engines.items():
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            engine.infer(pictures[turn % len(pictures)])
            if turn >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - started))
        progress("frames", turn + 1, WARM_UP + frames)
    return times


def _figures(
    bundle: Bundle, name: str, engine: Engine, files: EngineFiles | None, times: list[float], threads: int
) -> EngineFigures:
    golden = bundle.golden()
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(times, (50, 95, 99)))
    fps = {1: 1e3 / p50}
    for batch in BATCHES:
        pictures = np.concatenate([golden.pictures] * -(-batch // len(golden.pictures)))[:batch]
        try:
            engine.infer_many(pictures)
            spent = []
            for _ in range(5):
                started = time.perf_counter()
                engine.infer_many(pictures)
                spent.append(time.perf_counter() - started)
            fps[batch] = batch / float(np.median(spent))
        except BackendError:
            break  # built for smaller batches, or out of memory
    best = max(fps, key=lambda batch: fps[batch])
    tolerance = 1e-4 if files is None else files.record.tolerance
    found = parity(engine, golden, tolerance)
    own = found if files is None else parity(engine, files.golden(), tolerance)
    alone = None if files is None else _alone(bundle, name, threads)
    return EngineFigures(
        engine=name,
        load_s=None if alone is None else alone["load_s"],
        rss_mb=None if alone is None else int(alone["rss_mb"]),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        fps=round(fps[1], 1),
        best_fps=round(fps[best], 1),
        best_batch=best,
        size_mb=None if files is None else round(_size(files) / 1e6, 1),
        score_error=found.score_error,
        map_error=found.map_error,
        proven=bool(own),
    )


def _size(files: EngineFiles) -> int:
    paths = [files.path("model")] if files.record.graph == "fused" else [files.path("encoder"), files.path("decoder")]
    paths += [files.bundle.memory_path] if files.record.graph == "split" else []
    return sum(path.stat().st_size for path in paths)


def _alone(bundle: Bundle, name: str, threads: int) -> dict[str, float]:
    """Loading time and memory of one engine, in a process that does nothing else."""
    command = [sys.executable, "-m", __name__, str(bundle.path), name, str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError) as exc:
        raise BackendError(f"{name}: cannot be measured in a process of its own ({exc})") from exc
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _child(path: Path, name: str, threads: int) -> None:
    bundle = open_bundle(path)
    known = {files.record.name: files for files in _candidates(bundle, lambda line: None)}
    started = time.perf_counter()
    with engine_of(known[name], threads) as engine:
        load_s = time.perf_counter() - started
        for picture in bundle.golden().pictures:
            engine.infer(picture)
    sys.stdout.write(json.dumps({"load_s": round(load_s, 3), "rss_mb": round(_peak_rss_mb())}))


def _peak_rss_mb() -> float:
    """The most memory that this program held. ru_maxrss would begin with its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        return next(int(parts[1]) / 1e3 for parts in lines if parts[0] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
