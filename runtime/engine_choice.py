"""Engine choice: which of a bundle's engines inspects here. None does that has not proved itself on this device.

At the first start on a device every engine of the bundle that can run here answers the golden pictures; those that
answer as the reference did are timed, and the fastest is taken. What was proved is kept, so the next start is quick.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from mapl_edge.bundle import ENGINES, Bundle, open_bundle
from mapl_edge.engine import BaseEngine
from mapl_edge.engine_record import Backend, EngineFiles, EngineRecord, Precision, engine_files, engine_names
from mapl_edge.errors import BackendError, BackendUnavailable, BundleError, MaplEdgeError, OutputError, ParityError
from mapl_edge.files import new_file
from mapl_edge.parity import require_parity, require_same_preparation
from mapl_edge.runtime.engines import FusedEngine, SplitEngine
from mapl_edge.runtime.onnx_session import OnnxSession
from mapl_edge.runtime.openvino_session import OpenVinoSession
from mapl_edge.runtime.session import OpenSession
from mapl_edge.runtime.tensorrt_session import TensorRtSession
from mapl_edge.signature import require_engine_signature
from mapl_edge.verdict import utc_text

AUTO = "auto"
CHOICE = "choice.json"  # in engines/: device → name of the engine that a benchmark found fastest
ROUNDS = 3  # over the golden pictures, to time an engine
LIBRARIES: Mapping[Backend, tuple[str, str, OpenSession]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime", OnnxSession),
    "openvino": ("openvino", "'mapl-edge[openvino]'", OpenVinoSession),
    "tensorrt": ("tensorrt", "'mapl-edge[tensorrt]'", partial(TensorRtSession, flavour="tensorrt")),
    "tensorrt_rtx": ("tensorrt_rtx", "'mapl-edge[rtx]'", partial(TensorRtSession, flavour="tensorrt_rtx")),
}
"""By backend: the module, what pip installs it by, and what opens its graphs."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """That an engine answered the golden pictures rightly on a device.

    Attributes:
        ms: milliseconds a frame, one at a time: the lower quartile, since other work at a start only slows things down.
        at: when, UTC.
    """

    engine: str
    score_error: float
    map_error: float
    tolerance: float
    ms: float
    at: str


def engine_of(files: EngineFiles, threads: int = 0) -> BaseEngine:
    """An engine from its files, not loaded yet.

    Raises:
        BackendUnavailable: its library is not installed.
    """
    record = files.record
    module, package, open_session = LIBRARIES[record.backend]
    if find_spec(module) is None:
        raise BackendUnavailable(f"{record.name}: {module} is not installed; pip install {package}")
    if record.backend.startswith("tensorrt") and not _sees_gpu():
        raise BackendUnavailable(f"{record.name}: no NVIDIA GPU or driver here; run it on {record.target}")
    if record.graph == "fused":
        return FusedEngine(files.path("model"), threads, open_session, record.precision)
    if not files.bundle.is_split:
        raise BundleError(f"{files.bundle.path}: has no split graphs; export the model again")
    encoder, decoder, bundle = files.path("encoder"), files.path("decoder"), files.bundle
    memory, reach = bundle.memory_path, bundle.search_reach
    return SplitEngine(encoder, decoder, memory, reach, threads, open_session, record.precision)


def choose_engine(
    bundle: Bundle,
    wanted: str = AUTO,
    threads: int = 0,
    *,
    precisions: Sequence[str] = get_args(Precision),
    signed_by: Path | None = None,
    tell: Tell = lambda line: None,
    cache: Path | None = None,
) -> tuple[BaseEngine, Proof]:
    """The fastest engine of a bundle that is proven on this device, loaded.

    Args:
        bundle: whose engines.
        wanted: "auto", a library (`openvino`) or one engine's name (`openvino-int8-fused`).
        threads: for one call; 0 lets the library take all cores.
        precisions: that "auto" may take: those that the limits were set with.
        signed_by: a public key; engines without its owner's signature are left out.
        tell: is told which engines are left out and why.
        cache: folder that keeps proofs; default: see `proof_folder`.

    Raises:
        ParityError: no engine that is wanted proved itself; the message has each one's reason.
        BackendError: the engine that is wanted is not in the bundle.
    """
    names = _wanted(bundle, wanted, precisions)
    if not names:
        library = wanted.split("-")[0]
        known = get_args(Backend)
        raise BackendError(
            f"{bundle.path}: no engine {wanted!r}, found {', '.join(engine_names(bundle))}; add one: "
            f"mapl-edge export {bundle.path} --engine {library if library in known else ' or '.join(known)}"
        )
    folder = proof_folder() if cache is None else cache
    chosen = recorded_choice(bundle)
    if wanted == AUTO and chosen in names:
        names.sort(key=lambda name: name != chosen)
    reasons: list[str] = []
    proofs: dict[str, tuple[Proof, EngineFiles]] = {}
    for name in names:
        if chosen in proofs and wanted == AUTO:
            break  # a benchmark on this device chose it, and it is proven: no need to look at the others
        try:
            files = engine_files(bundle, name)
            if signed_by is not None:
                require_engine_signature(files, signed_by)
            proofs[name] = _proof(files, threads, folder), files
        except MaplEdgeError as exc:
            reasons.append(f"{name}: {exc}")
            tell(f"engine {name} is not used: {exc}")
    for proof, files in sorted(proofs.values(), key=lambda found: found[0].ms):
        engine = engine_of(files, threads)
        try:
            engine.load()
        except MaplEdgeError as exc:  # it was proved once; the device may have changed since
            reasons.append(f"{proof.engine}: {exc}")
            tell(f"engine {proof.engine} is not used: {exc}")
        else:
            return engine, proof
    raise ParityError(f"{bundle.path}: no engine proved itself on this device: {'; '.join(reasons)}")


def standby_engines(
    bundle: Bundle,
    engine: BaseEngine,
    first: str,
    wanted: str = AUTO,
    threads: int = 0,
    *,
    precisions: Sequence[str] = get_args(Precision),
    signed_by: Path | None = None,
    cache: Path | None = None,
) -> list[Callable[[], BaseEngine]]:
    """What a `DeadlineInspector` opens engines with: the chosen one, and after it is lost, in order of their proofs.

    All but the first call load the engine, after they prove it (seconds, if it was not done before on this device),
    and raise as `choose_engine` does.

    Args:
        engine, first: what `choose_engine` gave, and its name in the bundle; handed out once, then opened anew.
        precisions: of those that may take over, whatever was wanted: the limits must fit them.
        bundle, wanted, threads, signed_by, cache: see `choose_engine`.
    """
    folder = proof_folder() if cache is None else cache

    def open_proven(name: str) -> BaseEngine:
        require_in_place(bundle)
        files = engine_files(bundle, name)
        if signed_by is not None:
            require_engine_signature(files, signed_by)
        _proof(files, threads, folder)
        engine = engine_of(files, threads)
        engine.load()
        return engine

    def open_first() -> BaseEngine:
        return given.pop() if given else open_proven(first)

    def kept_ms(name: str) -> float:
        try:
            kept = _kept(_kept_at(engine_files(bundle, name), threads, folder))
        except MaplEdgeError:
            kept = None
        return float("inf") if kept is None else kept.ms

    given = [engine]
    alike = [name for name in engine_names(bundle) if wanted in (AUTO, name, name.split("-")[0]) and name != first]
    others = [name for name in alike if name.split("-")[1] in precisions]
    return [open_first, *(partial(open_proven, name) for name in sorted(others, key=kept_ms))]


def require_in_place(bundle: Bundle) -> None:
    """Raise BundleError where something else lies in a bundle's place by now: its limits are not for that."""
    if open_bundle(bundle.path).digest != bundle.digest:
        raise BundleError(f"{bundle.path}: another bundle lies there now, and is not in force; put this one back")


def _wanted(bundle: Bundle, wanted: str, precisions: Sequence[str]) -> list[str]:
    names = [name for name in engine_names(bundle) if wanted in (AUTO, name, name.split("-")[0])]
    return [name for name in names if name.split("-")[1] in precisions] if wanted == AUTO else names


def prove(engine: BaseEngine, files: EngineFiles) -> Proof:
    """Let a loaded engine answer the golden pictures, and time it.

    Raises:
        ParityError: it answers otherwise than the reference, or pictures are prepared otherwise here.
    """
    golden = files.golden()
    require_same_preparation(files.bundle.contract, golden)
    result = require_parity(engine, golden, files.record.tolerance)
    times = []
    for _ in range(ROUNDS):
        for picture in golden.pictures:
            started = time.perf_counter()
            engine.infer(picture)
            times.append(1e3 * (time.perf_counter() - started))
    at = utc_text(datetime.now(timezone.utc))
    ms = round(statistics.quantiles(times, n=4)[0], 3)
    return Proof(files.record.name, result.score_error, result.map_error, result.tolerance, ms, at)


def record_choice(bundle: Bundle, name: str) -> None:
    """Note in the bundle which engine is the fastest on this device; `auto` takes it if it proves itself."""
    folder = bundle.path / ENGINES
    folder.mkdir(exist_ok=True)
    choices = _choices(bundle) | {device(): name}
    with new_file(folder / CHOICE, overwrite=True) as work:
        work.write_text(json.dumps(choices, indent=2) + "\n", encoding="utf-8")


def recorded_choice(bundle: Bundle) -> str | None:
    """The engine that a benchmark chose on this device."""
    return _choices(bundle).get(device())


def proof_folder() -> Path:
    """Where proofs are kept: $MAPL_EDGE_CACHE, or mapl-edge in the user's cache folder."""
    given = os.environ.get("MAPL_EDGE_CACHE")
    if given:
        return Path(given) / "proofs"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mapl-edge" / "proofs"


def device() -> str:
    """What a proof is good for: processor, GPU, its driver and the operating system's kernel."""
    parts = [platform.machine(), platform.system(), platform.release(), str(os.cpu_count())]
    cpu = _text("/proc/cpuinfo").partition("\n\n")[0]
    parts += [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith(("model name", "flags"))]
    parts += [_text("/proc/device-tree/model"), _text("/proc/driver/nvidia/version")]
    parts += [_text(path / "information") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sees_gpu() -> bool:
    """Whether the kernel shows an NVIDIA GPU: a card, a Jetson's or WSL's; asked before its large library is loaded."""
    nodes = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/nvmap", "/dev/dxg")
    return platform.system() != "Linux" or any(Path(node).exists() for node in nodes)


def _choices(bundle: Bundle) -> dict[str, str]:
    try:
        found = json.loads((bundle.path / ENGINES / CHOICE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _proof(files: EngineFiles, threads: int, folder: Path) -> Proof:
    kept = _kept_at(files, threads, folder)
    proof = _kept(kept)
    if proof is not None:
        return proof
    with engine_of(files, threads) as engine:
        proof = prove(engine, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(kept, overwrite=True) as work:
            work.write_text(json.dumps(asdict(proof)) + "\n", encoding="utf-8")
    except (OSError, OutputError):
        pass  # a read-only system proves again at each start
    return proof


def _kept_at(files: EngineFiles, threads: int, folder: Path) -> Path:
    return folder / f"{_key(files.record, files, threads)}.json"


def _kept(path: Path) -> Proof | None:
    try:
        return Proof(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not proved yet, or the cache was damaged


def _key(record: EngineRecord, files: EngineFiles, threads: int) -> str:
    """Another bundle, engine, library, device or number of threads must be proved anew."""
    module = LIBRARIES[record.backend][0]
    packages = [module, "opencv-python-headless", "numpy", "faiss-cpu" if record.graph == "split" else module]
    versions = [f"{name} {_version(name)}" for name in packages]
    text = "\n".join([files.bundle.digest, files.digest, record.name, *versions, str(threads), device()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
