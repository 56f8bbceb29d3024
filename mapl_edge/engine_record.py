"""Engine records: the engines that were made for a bundle, each in a folder of its own, engines/NAME.

An engine is a model's graphs for one library, precision and device. It may be made where the bundle was exported or on
the device itself, long after, so the bundle's manifest does not list it; its own record does.

    engines/openvino-int8-fused/
      engine.json      library, precision, graph, target, the bundle it belongs to, digests, what it costs
      engine.sha256    its own digest, as `sha256sum -c` reads it
      engine.sig       a signature of it, if somebody signed it
      model.onnx       or model.engine, encoder.*, decoder.*; what is missing is taken from the bundle itself
      answers.npz      of int8: its own golden scores and maps. How good they are its cost says; that they stay, a proof
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mapl_edge.bundle import ENGINES, Bundle, Golden
from mapl_edge.engine import Engine
from mapl_edge.errors import BundleError
from mapl_edge.files import sha256_of

Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "int8"]
Graph = Literal["fused", "split"]

ENGINE_SCHEMA = 1
RECORD, RECORD_SEAL, RECORD_SIGNATURE = "engine.json", "engine.sha256", "engine.sig"
ANSWERS = "answers.npz"
TOLERANCE: dict[str, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.05}
"""How far golden scores and maps may be off the reference's; those of int8 off its own, given when it was made."""


class Cost(BaseModel):
    """What an engine's precision costs, measured when it was made.

    Attributes:
        score_error, map_error: against the golden answers, see `mapl_edge.parity`.
        auroc, auroc_fp32: image AUROC on the bundle's validation pictures, of this engine and of the fp32 graph; None
            for fp32 itself.
        smooth_auroc, smooth_auroc_fp32: the same by kernel estimates, see `mapl_edge.metrics.smooth_auroc`; neither
            may fall by more than 0.002.
        noise: by how much scores of held-out normals move from part to part, in the deviation of their fp32 scores;
            None for fp32 itself.
        ms, ms_fp32: median milliseconds a frame, both in turns on the machine where it was made; None where it could
            not run there.
        library_error: how far the library's golden scores are off those of ONNX Runtime with the same int8 graph.
        measured_with: the library that ran it; another one where the target was not at hand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_error: float
    map_error: float
    auroc: float | None = None
    auroc_fp32: float | None = None
    smooth_auroc: float | None = None
    smooth_auroc_fp32: float | None = None
    noise: float | None = None
    ms: float | None = None
    ms_fp32: float | None = None
    library_error: float = 0.0
    measured_with: str


class EngineRecord(BaseModel):
    """What engine.json holds.

    Attributes:
        target: what device it was built for, such as sm89; "any" where the library compiles when it loads.
        bundle: digest of the bundle that it belongs to.
        tolerance: of its golden answers; see `TOLERANCE`.
        files: SHA-256 of each of its files, by name.
        tools: versions of what built it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = ENGINE_SCHEMA
    backend: Backend
    precision: Precision
    graph: Graph
    target: str
    bundle: str
    created_at: str
    tolerance: float
    cost: Cost | None
    files: dict[str, str]
    tools: dict[str, str]

    @property
    def name(self) -> str:
        """Its folder's name, and what `--engine` takes."""
        return engine_name(self.backend, self.precision, self.graph, self.target)


@dataclass(frozen=True)
class EngineFiles:
    """An engine of a bundle, its files checked.

    Attributes:
        digest: SHA-256 of its record; the bundle's own for the one that every bundle has.
    """

    bundle: Bundle
    record: EngineRecord
    digest: str
    folder: Path | None

    def path(self, graph: str) -> Path:
        """Where a graph lies: `model`, `encoder` or `decoder`."""
        for suffix in ("engine", "onnx"):
            if f"{graph}.{suffix}" in self.record.files:
                assert self.folder is not None
                return self.folder / f"{graph}.{suffix}"
        return self.bundle.path / f"{graph}.onnx"

    def golden(self) -> Golden:
        """What the engine must answer: the reference's golden answers, or its own where it has some."""
        golden = self.bundle.golden()
        if ANSWERS not in self.record.files:
            return golden
        assert self.folder is not None
        try:
            with np.load(self.folder / ANSWERS, allow_pickle=False) as arrays:
                own = replace(golden, scores=arrays["scores"], maps=arrays["maps"])
        except (OSError, ValueError, KeyError, BadZipFile) as exc:
            raise BundleError(f"{self.folder}: {ANSWERS} cannot be read ({exc}); make the engine again") from exc
        if own.scores.shape != golden.scores.shape or own.maps.shape != golden.maps.shape:
            raise BundleError(f"{self.folder}: {ANSWERS} does not fit the bundle's pictures; make the engine again")
        return own


OpenEngine = Callable[[EngineFiles], Engine]
"""Makes an engine of its files; `mapl_edge.runtime.engine_of` does, and export is given it."""


def engine_name(backend: str, precision: str, graph: str, target: str = "any") -> str:
    """Such as openvino-int8-fused, or tensorrt_rtx-fp16-fused-sm89."""
    return "-".join([backend, precision, graph, *([] if target == "any" else [target])])


def plain_engine(bundle: Bundle, backend: Backend = "onnxruntime", graph: Graph = "fused") -> EngineFiles:
    """The bundle's own fp32 graphs in a library that compiles when it loads. It needs no record."""
    record = EngineRecord(
        backend=backend,
        precision="fp32",
        graph=graph,
        target="any",
        bundle=bundle.digest,
        created_at=bundle.manifest.created_at,
        tolerance=TOLERANCE["fp32"],
        cost=None,
        files={},
        tools=bundle.manifest.tools,
    )
    return EngineFiles(bundle, record, bundle.digest, None)


def engine_names(bundle: Bundle) -> list[str]:
    """Names of all engines of a bundle, its own first; their files are not looked at."""
    folder = bundle.path / ENGINES
    made = sorted(path.name for path in folder.iterdir() if (path / RECORD).is_file()) if folder.is_dir() else []
    return [plain_engine(bundle).record.name, *made]


def engine_files(bundle: Bundle, name: str) -> EngineFiles:
    """An engine by its name; each of its files is checked against its record.

    Raises:
        BundleError: there is none of this name, or it was changed, cut short, or made for another bundle.
    """
    own = plain_engine(bundle)
    if name == own.record.name:
        return own
    folder = bundle.path / ENGINES / name
    if not (folder / RECORD).is_file():
        raise BundleError(f"{bundle.path}: no engine {name!r}, found {', '.join(engine_names(bundle))}")
    again = f"make it again: mapl-edge export {bundle.path} --engine {name.split('-')[0]}"
    raw = (folder / RECORD).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    seal = folder / RECORD_SEAL
    if not seal.is_file() or seal.read_text(encoding="utf-8", errors="replace") != _seal(digest):
        raise BundleError(f"{folder}: {RECORD} was changed; {again}")
    record = _record_from_json(raw, folder, again)
    if record.bundle != bundle.digest:
        raise BundleError(
            f"{folder}: was made for bundle {record.bundle[:12]}, this one is {bundle.digest[:12]}; {again}"
        )
    if record.name != name:
        raise BundleError(f"{folder}: holds the engine {record.name}; {again}")
    present = {path.name for path in folder.iterdir()} - {RECORD, RECORD_SEAL, RECORD_SIGNATURE}
    for file in sorted(present ^ record.files.keys()):
        raise BundleError(f"{folder}: {file} is {'not in its record' if file in present else 'missing'}; {again}")
    for file, listed in record.files.items():
        if (folder / file).is_symlink() or sha256_of(folder / file) != listed:
            raise BundleError(f"{folder}: {file} was changed or cut short; {again}")
    return EngineFiles(bundle, record, digest, folder)


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write engine.json and its seal beside the engine's files, as the last step of making one."""
    text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")
    (folder / RECORD_SEAL).write_text(_seal(sha256_of(folder / RECORD)), encoding="utf-8")


def _record_from_json(raw: bytes, folder: Path, again: str) -> EngineRecord:
    try:
        content = json.loads(raw)
        found = content["schema_version"]
        if isinstance(found, int) and found > ENGINE_SCHEMA:
            raise BundleError(
                f"{folder}: schema {found} is newer than this version reads; update mapl-edge, or {again}"
            )
        return EngineRecord.model_validate(content)
    except ValidationError as exc:
        raise BundleError(f"{folder}: {RECORD} is wrong: {exc.errors()[0]['msg']}; {again}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BundleError(f"{folder}: {RECORD} cannot be read ({exc}); {again}") from exc


def _seal(digest: str) -> str:
    return f"{digest}  {RECORD}\n"
