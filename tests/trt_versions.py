"""What the TensorRT tests share: the listed versions, graphs to build, and the doubles put in the real modules' places.

The listings of the real bindings are large and need not be at hand; tests/trt_api holds the part of them that our code
touches. `python tests/trt_versions.py` writes that part anew from the full listings.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mapl_edge.errors import BackendError
from mapl_edge.export.tensorrt_builder import engine_from_onnx
from mapl_edge.runtime.tensorrt_session import TensorRtSession
from mapl_edge.tensorrt_library import Flavour
from mapl_edge.testing import FakeCuda, FakeTensorRt

VERSIONS = ("8.6.1", "10.13.0", "11.4.0", "rtx-1.7.1")
REDUCED = Path(__file__).parent / "trt_api"
SIZE_HW = (8, 6)
Kind = Literal["fp32", "fp16", "int8", "unknown op", "uint8 slice"]


def flavour_of(version: str) -> Flavour:
    """Which module has this version."""
    return "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"


def full_listings() -> Path | None:
    """The folder of full listings, if there is one."""
    for path in (os.environ.get("MAPL_EDGE_TRT_API"), Path(__file__).parents[2] / "shared" / "trt_api"):
        if path and Path(path).is_dir():
            return Path(path)
    return None


def listing(version: str) -> dict[str, Any]:
    """What this version offers: all of it where the full listing is at hand, else the part that we touch."""
    return json.loads(((full_listings() or REDUCED) / f"{version}.json").read_text(encoding="utf-8"))


def install(
    monkeypatch: pytest.MonkeyPatch, version: str, device: str | None = "sm89"
) -> tuple[FakeTensorRt, FakeCuda]:
    """Put the doubles in the places of the real modules."""
    cuda = FakeCuda(gpus=1 if device else 0, driver=13050 if device else 0)
    trt = FakeTensorRt(listing(version), cuda, device)
    monkeypatch.setitem(sys.modules, flavour_of(version), trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return trt, cuda


def graph(path: Path, kind: Kind = "fp32") -> Path:
    """Write a graph with the names and types of a bundle's, small enough to be checked by eye."""
    work = TensorProto.FLOAT16 if kind == "fp16" else TensorProto.FLOAT
    node = helper.make_node
    nodes = [node("Cast", ["image"], ["x"], "cast", to=work)]
    if kind == "int8":
        nodes += [
            node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "one", "zero"], ["y"]),
        ]
    elif kind == "unknown op":
        nodes += [node("Sparkle", ["x"], ["y"], "node_sparkle")]
    else:
        nodes += [node("Identity", ["x"], ["y"])]
    if kind == "uint8 slice":
        nodes = [node("Slice", ["image", "from", "to"], ["i"], "node_flip"), node("Cast", ["i"], ["y"], to=work)]
    nodes += [
        node("ReduceMean", ["y", "last"], ["m"], keepdims=0),
        node("ReduceMax", ["m", "sides"], ["s"], keepdims=0),
        node("Flatten", ["m"], ["f"]),
        node("ArgMax", ["f"], ["nearest"], axis=1, keepdims=0),
        node("Cast", ["m"], ["map"], to=TensorProto.FLOAT),
        node("Cast", ["s"], ["score"], to=TensorProto.FLOAT),
    ]
    constants = {
        "last": np.array([3]),
        "sides": np.array([1, 2]),
        "from": np.array([0]),
        "to": np.array([99]),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
    }
    used = {name for each in nodes for name in each.input}
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SIZE_HW, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", *SIZE_HW]),
            helper.make_tensor_value_info("nearest", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def pictures(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds for the graph."""
    return {"image": np.random.default_rng(seed).integers(0, 256, (batch, *SIZE_HW, 3), np.uint8)}


def reduced(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The part of a listing that our code touches when it builds, refuses and runs everything it can."""
    trt, _ = install(monkeypatch, version)
    flavour = flavour_of(version)
    for kind in ("fp32", "fp16", "int8"):
        engine_from_onnx(
            graph(folder / "model.onnx", kind),
            folder / f"{kind}.engine",
            flavour=flavour,
            precision=kind,
            memory_mb=64,
            timing_cache=folder / "timing.cache",
            size_hw=SIZE_HW,
        )
        session = TensorRtSession(folder / f"{kind}.engine", flavour=flavour)
        for _ in range(4):
            session.run(pictures(2))
        session.close()
    with pytest.raises(BackendError):
        engine_from_onnx(
            graph(folder / "model.onnx", "unknown op"), folder / "no.engine", flavour=flavour, size_hw=SIZE_HW
        )
    for content in (b"", b"not an ONNX file"):
        (folder / "none.onnx").write_bytes(content)
        with pytest.raises(BackendError):
            engine_from_onnx(folder / "none.onnx", folder / "no.engine", flavour=flavour, size_hw=SIZE_HW)
    part: dict[str, Any] = {"version": trt._listing["version"]}
    for name, held in trt._listing.items():
        touched = {used.partition(".")[2] for used in trt.used if used.partition(".")[0] == name}
        if isinstance(held, dict) and ("enum" in held or name == "ILogger"):
            if touched or name in trt._made:
                part[name] = held if "enum" in held else dict.fromkeys(held, "")
        elif touched:
            part[name] = {member: "" for member in held if member in touched}
    return part


if __name__ == "__main__":
    if not full_listings():
        sys.exit("set MAPL_EDGE_TRT_API to the folder of full listings")
    REDUCED.mkdir(exist_ok=True)
    for each in VERSIONS:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as work:
            text = json.dumps(reduced(each, Path(work), patch), indent=1, sort_keys=True)
        (REDUCED / f"{each}.json").write_text(text + "\n", encoding="utf-8")
