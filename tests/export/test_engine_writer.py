"""Engines for a bundle: made, measured and proved before they appear; what costs too much does not appear."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mapl_edge.bundle import ENGINES, Bundle, open_bundle
from mapl_edge.engine_record import engine_files, engine_names
from mapl_edge.errors import BackendError, BundleError, OutputError, ParityError
from mapl_edge.export import engine_writer
from mapl_edge.export.engine_writer import add_engine
from mapl_edge.runtime import choose_engine, engine_of


@pytest.mark.parametrize("graph", ["fused", "split"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_int8_engine_runs_and_says_what_it_costs(bundle: Bundle, backend: str, graph: str, tmp_path: Path) -> None:
    """Score drift, AUROC and time, beside fp32's, measured when it is made."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
    record = add_engine(bundle, backend, "int8", engine_of, graph=graph, force=True)  # type: ignore[arg-type]

    assert record.cost is not None
    assert record.cost.auroc is not None
    assert record.cost.auroc_fp32 is not None
    assert record.cost.ms is not None
    assert record.cost.noise is not None
    assert 0 < record.cost.noise < 1
    engine, proof = choose_engine(open_bundle(bundle.path), record.name, threads=1, cache=tmp_path / "proofs")
    with engine:
        assert proof.score_error <= record.tolerance


def test_an_fp32_engine_costs_nothing(bundle: Bundle) -> None:
    """OpenVINO gets the search the other way round; the answers are the same."""
    pytest.importorskip("openvino", reason="needs the openvino extra")
    record = add_engine(bundle, "openvino", "fp32", engine_of)

    assert record.tolerance == 1e-4
    assert record.cost is not None
    assert record.cost.score_error <= 1e-4


def in_place_of_int8(write: Callable[[Path, Path], None]) -> Callable[..., Any]:
    """A precision that writes what it is told to."""

    class Written:
        def __init__(self, path: Path, *rest: object, **more: object) -> None:
            self.path = path

        def write(self, out: Path, spared: float) -> None:
            write(self.path, out)

    return Written


def upside_down(path: Path, out: Path, *rest: object, **more: object) -> None:
    """A precision that turns the ranking round: good parts score high."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["true_score" if name == "score" else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("minus", TensorProto.FLOAT, [], [-1.0]))
    model.graph.node.append(helper.make_node("Mul", ["true_score", "minus"], ["score"]))
    onnx.save(model, out)


def test_a_precision_that_costs_auroc_is_refused_unless_forced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both figures, and nothing is left behind."""
    monkeypatch.setattr(engine_writer, "Int8Graph", in_place_of_int8(upside_down))

    with pytest.raises(ParityError, match=r"image AUROC falls from \d\.\d+ to \d\.\d+.*--force"):
        add_engine(bundle, "onnxruntime", "int8", engine_of)

    assert engine_names(bundle) == ["onnxruntime-fp32-fused"]
    assert list((bundle.path / ENGINES).iterdir()) == []
    assert add_engine(bundle, "onnxruntime", "int8", engine_of, force=True).name in engine_names(bundle)


def noisy(path: Path, out: Path, *rest: object, **more: object) -> None:
    """A precision whose error depends on the picture alone, and moves no ranks of parts that lie far apart."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["true_score" if name == "score" else name for name in node.output]
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image_float", "pixel_axes"], ["brightness"], keepdims=0),
        helper.make_node("Mul", ["brightness", "big"], ["many_turns"]),
        helper.make_node("Sin", ["many_turns"], ["error"]),
        helper.make_node("Add", ["true_score", "error"], ["score"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor("pixel_axes", TensorProto.INT64, [3], [1, 2, 3]))
    model.graph.initializer.append(helper.make_tensor("big", TensorProto.FLOAT, [], [1e4]))
    onnx.save(model, out)


def test_a_precision_that_is_noisy_is_refused_unless_forced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few validation pictures happen to keep their AUROC, others would not."""
    monkeypatch.setattr(engine_writer, "Int8Graph", in_place_of_int8(noisy))
    monkeypatch.setattr(engine_writer, "auroc", lambda positive, scores: 0.9)
    monkeypatch.setattr(engine_writer, "smooth_auroc", lambda positive, scores, bandwidth: 0.9)

    with pytest.raises(ParityError, match=r"move by \d+\.\d+ of their deviation, expected at most 0\.13.*--force"):
        add_engine(bundle, "onnxruntime", "int8", engine_of)


@pytest.mark.parametrize("measure", ["auroc", "smooth_auroc"])
def test_neither_counted_nor_smoothed_auroc_may_fall(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    """Each lets through what the other one refuses."""
    falling = iter([0.897, 0.9] * len(engine_writer.INT8_SPARED))
    for name in ("auroc", "smooth_auroc"):
        answer = (lambda *rest: next(falling)) if name == measure else (lambda *rest: 0.9)
        monkeypatch.setattr(engine_writer, name, answer)

    with pytest.raises(ParityError, match=r"image AUROC falls from 0\.9000 to 0\.8970.*--force"):
        add_engine(bundle, "onnxruntime", "int8", engine_of)


def test_an_fp16_graph_that_is_too_far_off_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """5e-3 is the tolerance; forcing is for AUROC, not for wrong answers."""
    monkeypatch.setattr(engine_writer, "fp16_from_onnx", upside_down)

    with pytest.raises(ParityError, match="tolerance 5e-03"):
        add_engine(bundle, "onnxruntime", "fp16", engine_of, force=True)


def test_an_engine_ahead_of_time_is_measured_with_another_library(bundle: Bundle) -> None:
    """A real TensorRT for RTX engine for SM89, built here; no GPU is needed for that, only to run it."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    record = add_engine(bundle, "tensorrt_rtx", "fp32", engine_of, target="sm89")

    assert record.name == "tensorrt_rtx-fp32-fused-sm89"
    assert sorted(record.files) == ["model.engine"]
    assert record.cost is not None
    assert record.cost.measured_with.startswith("onnxruntime")
    assert record.cost.ms is None
    assert engine_files(bundle, record.name).path("model").stat().st_size > 100_000


def test_an_engine_is_not_replaced_by_accident(bundle: Bundle) -> None:
    """It may be in use."""
    add_engine(bundle, "onnxruntime", "fp32", engine_of, graph="split")

    with pytest.raises(OutputError, match="exists"):
        add_engine(bundle, "onnxruntime", "fp32", engine_of, graph="split")
    add_engine(bundle, "onnxruntime", "fp32", engine_of, graph="split", overwrite=True)


def test_what_a_killed_export_left_in_the_bundle_goes_with_the_next(bundle: Bundle) -> None:
    """Of whatever engine it was."""
    left = bundle.path / ENGINES / ".openvino-int8-fused.abcd1234.partial"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))

    add_engine(bundle, "onnxruntime", "int8", engine_of, force=True)

    assert [path.name for path in (bundle.path / ENGINES).iterdir()] == ["onnxruntime-int8-fused"]


def test_a_target_is_for_rtx_alone(bundle: Bundle) -> None:
    """The others build for the device at hand."""
    with pytest.raises(BackendError, match="only tensorrt_rtx"):
        add_engine(bundle, "onnxruntime", "fp32", engine_of, target="sm89")


def test_a_missing_library_names_its_extra(bundle: Bundle) -> None:
    """Full TensorRT is not installed where these tests run."""
    if pytest.importorskip("importlib.util").find_spec("tensorrt"):
        pytest.skip("tensorrt is installed here")
    with pytest.raises(BackendError, match=r"pip install 'mapl-edge\[tensorrt\]'"):
        add_engine(bundle, "tensorrt", "fp32", engine_of)

    assert list((bundle.path / ENGINES).iterdir()) == []


def test_a_bundle_without_validation_pictures_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower precision with no measured cost is not offered."""

    def none(self: Bundle) -> None:
        raise BundleError("has no validation pictures")

    monkeypatch.setattr(Bundle, "validation", none)

    with pytest.raises(BundleError, match="no validation pictures"):
        add_engine(bundle, "onnxruntime", "int8", engine_of)
