"""Engines made for a bundle: another library, a lower precision, a device. Proved before they appear."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from mapl_edge import __version__
from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.bundle import ENGINES, Bundle
from mapl_edge.engine import Engine
from mapl_edge.engine_record import (
    ANSWERS,
    RECORD,
    TOLERANCE,
    Backend,
    Cost,
    EngineFiles,
    EngineRecord,
    Graph,
    OpenEngine,
    Precision,
    engine_name,
    plain_engine,
    write_record,
)
from mapl_edge.errors import BackendError, BundleError, ParityError
from mapl_edge.export.precision import Int8Graph, fp16_from_onnx
from mapl_edge.export.search_graph import Form, search_in_form
from mapl_edge.export.tensorrt_builder import engine_from_onnx
from mapl_edge.files import new_folder, remove_leftovers, sha256_of
from mapl_edge.metrics import auroc, bandwidth_of, smooth_auroc
from mapl_edge.parity import parity, require_parity
from mapl_edge.search import SearchIndex
from mapl_edge.verdict import utc_text

MAX_AUROC_LOSS = 0.002
# Noise of r deviations lowers the AUROC of two bell curves by r²/2 · z·φ(z), where AUROC = Φ(z); that is 0.12 r² at
# most (z = 1, an AUROC of 0.84). So 0.13 costs 0.002, which the AUROC of a few dozen pictures does not show.
MAX_NOISE = 0.13
MAX_LIBRARY_ERROR = 0.2
INT8_SPARED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # shares of the encoder that stay float32 at least, in this order
CALIBRATED = 64  # normal pictures that int8 takes its ranges from, besides the golden ones
TIMED = 30  # frames, in turns with fp32
PACKAGES: Mapping[Backend, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
}
SEARCHES: Mapping[Backend, Form] = {"openvino": "qdq", "tensorrt": "float", "tensorrt_rtx": "float"}
GRAPHS: Mapping[Graph, tuple[str, ...]] = {"fused": ("model",), "split": ("encoder", "decoder")}

Progress = Callable[[str, int, int], None]


def add_engine(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    open_engine: OpenEngine,
    *,
    graph: Graph = "fused",
    target: str = "any",
    force: bool = False,
    overwrite: bool = False,
    memory_mb: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> EngineRecord:
    """Make an engine for a bundle, measure what it costs, and put it into the bundle's engines/ folder.

    Where it cannot run on this machine (built ahead of time for another device) its graph is measured with ONNX
    Runtime instead; the device itself proves it at its first start.

    Args:
        bundle: whose graphs.
        backend: the library that will run it.
        precision: fp16 and int8 are made from the fp32 graphs; int8 is calibrated with the memory's normal pictures.
        open_engine: makes an engine of files, to measure it.
        graph: fused, or encoder and decoder with a FAISS search between.
        target: what device to build for, such as sm89 (tensorrt_rtx); "any": this one.
        force: keep it though it loses more than 0.002 of image AUROC.
        overwrite: replace one of the same name.
        memory_mb: for TensorRT's builder, at most.
        progress: called as progress(what, done, total).

    Raises:
        ParityError: it is farther from the reference than its precision allows, or costs too much AUROC.
        BackendError: the library refuses the graph.
        BundleError: the bundle has no split graphs, or no validation pictures to measure int8 with.
        OutputError: it exists or the disk refuses.
    """
    if graph == "split" and not bundle.is_split:
        raise BundleError(f"{bundle.path}: has no split graphs; export the model again")
    if target != "any" and backend != "tensorrt_rtx":
        raise BackendError(f"--target {target}: only tensorrt_rtx builds for another device; leave it out")
    kind = _Kind(bundle, backend, precision, graph, target, memory_mb)
    (bundle.path / ENGINES).mkdir(exist_ok=True)
    remove_leftovers(bundle.path / ENGINES)
    with new_folder(bundle.path / ENGINES / kind.name, RECORD, overwrite=overwrite) as work:
        attempts = INT8_SPARED if precision == "int8" else (0.0,)
        watched: dict[str, Int8Graph] = {}
        for attempt, spared in enumerate(attempts, start=1):
            progress(f"making {kind.name}", attempt - 1, len(attempts))
            for made in work.iterdir():
                made.unlink()
            for part in GRAPHS[graph]:
                _convert(kind, part, spared, work, watched)
            cost, answers = _cost_on_device(kind, work, open_engine)
            too_dear = _too_dear(cost)
            if not too_dear or force:
                break
        else:
            raise ParityError(f"{kind.name}: {too_dear}; choose a higher precision, or --force it")
        if answers is not None:
            scores, maps = answers
            np.savez_compressed(work / ANSWERS, scores=scores, maps=maps)
        record = _files(kind, work, cost).record
        write_record(work, record)
        progress(f"making {kind.name}", len(attempts), len(attempts))
    return record


@dataclass(frozen=True)
class _Kind:
    """What is to be made."""

    bundle: Bundle
    backend: Backend
    precision: Precision
    graph: Graph
    target: str
    memory_mb: int | None

    @property
    def name(self) -> str:
        return engine_name(self.backend, self.precision, self.graph, self.target)

    @property
    def is_compiled(self) -> bool:
        return self.backend.startswith("tensorrt")


def _convert(kind: _Kind, part: str, spared: float, work: Path, watched: dict[str, Int8Graph]) -> None:
    """Write one graph in the form that the library takes; nothing where the bundle's own will do.

    Graphs that are to be int8 are watched at work once and then kept in `watched`.
    """
    source, made = kind.bundle.path / f"{part}.onnx", work / f"{part}.onnx"
    # An encoder in fp16 finds other neighbours: in the split graphs as in the fused one it stays as it is.
    precision = "fp32" if kind.precision == "fp16" and part == "encoder" else kind.precision
    search = SEARCHES.get(kind.backend)
    if search is not None and search_in_form(source, made, search):
        source = made
    if precision == "fp16":
        fp16_from_onnx(source, made)
    elif precision == "int8":
        bits: Literal[7, 8] = 8 if kind.is_compiled or _has_vnni() else 7
        form: Literal["cpu", "tensorrt"] = "tensorrt" if kind.is_compiled else "cpu"
        if part not in watched:
            watched[part] = Int8Graph(source, _feeds(kind.bundle, part), form, weight_bits=bits)
        watched[part].write(made, 0.0 if part == "decoder" else spared)
    if kind.is_compiled:
        engine_from_onnx(
            made if made.is_file() else source,
            work / f"{part}.engine",
            flavour="tensorrt_rtx" if kind.backend == "tensorrt_rtx" else "tensorrt",
            precision=precision,
            target=None if kind.target == "any" else kind.target,
            memory_mb=kind.memory_mb,
            timing_cache=None,
            size_hw=kind.bundle.contract.size_hw,
        )


def _feeds(bundle: Bundle, part: str) -> Iterator[dict[str, AnyArray]]:
    """What a graph is given when it looks at normal pictures of the memory, and at golden ones with defects."""
    pictures = np.concatenate([bundle.memory_pictures()[:CALIBRATED], bundle.golden().pictures])
    if part != "decoder":
        yield from ({"image": picture[None]} for picture in pictures)
        return
    encoder = onnxruntime.InferenceSession(str(bundle.path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    index = SearchIndex(bundle.memory_path, reach=bundle.search_reach)
    names = [tensor.name for tensor in encoder.get_outputs()]
    for picture in pictures:
        found = dict(zip(names, encoder.run(names, {"image": picture[None]}), strict=True))
        yield found | {"index": index.search(found.pop("queries"))}


def _has_vnni() -> bool:
    """Whether this processor multiplies bytes without overflow; a proof on the device finds out where it does not."""
    with suppress(OSError):
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return platform.machine() in ("aarch64", "arm64")


def _files(kind: _Kind, work: Path, cost: Cost | None = None, backend: Backend | None = None) -> EngineFiles:
    """What lies in `work` now, as an engine, for another library if one is named."""
    tools = {"mapl-edge": __version__}
    with suppress(PackageNotFoundError):  # from the device's own image, such as JetPack's
        tools[PACKAGES[kind.backend]] = version(PACKAGES[kind.backend])
    record = EngineRecord(
        backend=backend or kind.backend,
        precision=kind.precision,
        graph=kind.graph,
        target=kind.target,
        bundle=kind.bundle.digest,
        created_at=utc_text(datetime.now(timezone.utc)),
        # An engine built for another device gives the answers of its graph there, not those of the library here.
        tolerance=MAX_LIBRARY_ERROR if kind.is_compiled and kind.precision == "int8" else TOLERANCE[kind.precision],
        cost=cost,
        files={path.name: sha256_of(path) for path in sorted(work.iterdir())},
        tools=tools,
    )
    return EngineFiles(kind.bundle, record, "", work)


def _too_dear(cost: Cost) -> str:
    """Why a precision is not offered; nothing if it may be."""
    for how, now, fp32 in (
        ("counted", cost.auroc, cost.auroc_fp32),
        ("smoothed, which chance moves less", cost.smooth_auroc, cost.smooth_auroc_fp32),
    ):
        if now is not None and fp32 is not None and fp32 - now > MAX_AUROC_LOSS:
            return (
                f"image AUROC falls from {fp32:.4f} to {now:.4f} on the validation pictures ({how}), expected at most "
                f"{MAX_AUROC_LOSS:g} less"
            )
    if cost.noise is not None and cost.noise > MAX_NOISE:
        return (
            f"scores of held-out good parts move by {cost.noise:.2f} of their deviation, expected at most "
            f"{MAX_NOISE:g} (which is {MAX_AUROC_LOSS:g} of AUROC)"
        )
    if cost.library_error > MAX_LIBRARY_ERROR:
        return (
            f"this library answers otherwise than ONNX Runtime does with the same int8 graph (score off by "
            f"{cost.library_error:.2f}, expected at most {MAX_LIBRARY_ERROR:g})"
        )
    return ""


def _cost_on_device(
    kind: _Kind, work: Path, open_engine: OpenEngine
) -> tuple[Cost, tuple[FloatArray, FloatArray] | None]:
    """What the engine costs, measured with itself where it runs here, else with its graph in ONNX Runtime.

    Its golden scores and maps come with it where it is int8. The ONNX files that it was built from are taken away.
    """
    here = True
    try:
        engine = open_engine(_files(kind, work))
        engine.load()
    except BackendError:
        if not kind.is_compiled:
            raise
        for built in work.glob("*.engine"):
            built.rename(built.with_suffix(".built"))
        engine, here = open_engine(_files(kind, work, backend="onnxruntime")), False
    reference = open_engine(plain_engine(kind.bundle, graph=kind.graph))
    same = None
    if kind.precision == "int8" and here and not kind.is_compiled and kind.backend != "onnxruntime":
        same = open_engine(_files(kind, work, backend="onnxruntime"))
    try:
        found = _cost(kind, engine, reference, same, timed=here)
    finally:
        for opened in (engine, reference, *([same] if same else [])):
            opened.close()
    if kind.is_compiled:
        for graph in work.glob("*.onnx"):
            graph.unlink()
        for built in work.glob("*.built"):
            built.rename(built.with_suffix(".engine"))
    return found


def _cost(
    kind: _Kind, engine: Engine, reference: Engine, same: Engine | None, timed: bool
) -> tuple[Cost, tuple[FloatArray, FloatArray] | None]:
    golden = kind.bundle.golden()
    engine.load()
    reference.load()
    answers, library_error = None, 0.0
    if kind.precision == "int8":
        found = parity(engine, golden, float("inf"))
        if not found:
            raise ParityError(f"{engine.name}: answers the golden pictures with no number; report it")
        readings = [engine.infer(picture) for picture in golden.pictures]
        answers = np.array([r.score for r in readings], np.float32), np.stack([r.map for r in readings])
        if same is not None:
            same.load()
            library_error = parity(same, replace(golden, scores=answers[0], maps=answers[1]), float("inf")).score_error
    else:
        found = require_parity(engine, golden, TOLERANCE[kind.precision])
    measured: dict[str, float] = {}
    if kind.precision != "fp32":
        pictures, anomalous = kind.bundle.validation()
        now, fp32 = (np.array([which.infer(picture).score for picture in pictures]) for which in (engine, reference))
        width = bandwidth_of(anomalous, fp32)
        for end, scores in (("", now), ("_fp32", fp32)):
            measured[f"auroc{end}"] = auroc(anomalous, scores)
            measured[f"smooth_auroc{end}"] = smooth_auroc(anomalous, scores, width)
        good = ~anomalous.astype(bool)
        if len(np.unique(fp32[good])) > 1:
            measured["noise"] = float((now - fp32)[good].std() / fp32[good].std())
    times: dict[str, float] = {}
    if timed:
        times = dict(zip(("ms", "ms_fp32"), _in_turns((engine, reference), golden.pictures), strict=True))
    cost = Cost(
        score_error=found.score_error,
        map_error=found.map_error,
        library_error=library_error,
        measured_with=engine.name,
        **measured,
        **times,
    )
    return cost, answers


def _in_turns(engines: tuple[Engine, Engine], pictures: UInt8Array) -> tuple[float, float]:
    """Median milliseconds a frame of two engines, frame by frame in turns: other work falls on both."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(TIMED):
        for engine, spent in zip(engines, times, strict=True):
            started = time.perf_counter()
            engine.infer(pictures[turn % len(pictures)])
            spent.append(1e3 * (time.perf_counter() - started))
    first, second = (round(statistics.median(spent), 3) for spent in times)
    return first, second
