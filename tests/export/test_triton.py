"""Triton's model repository: the graph where the server looks for it, and a configuration that fits the graph."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from mapl_edge.bundle import Bundle
from mapl_edge.errors import OutputError
from mapl_edge.export.triton import triton_from_bundle

DTYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
}


def test_the_configuration_describes_the_graphs_tensors(bundle: Bundle, tmp_path: Path) -> None:
    """Triton refuses a model whose configuration and graph disagree in a name, a type or a shape without the batch."""
    name = triton_from_bundle(bundle, tmp_path / "repository")
    folder = tmp_path / "repository" / name
    text = (folder / "config.pbtxt").read_text()
    graph = onnx.load(folder / "1" / "model.onnx").graph

    for tensor in (*graph.input, *graph.output):
        kind = tensor.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim][1:]
        shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ]\n    reshape { shape: [ ] }"
        assert f'name: "{tensor.name}"\n    data_type: {DTYPES[kind.elem_type]}\n    {shape}' in text
    assert f'name: "{name}"' in text
    assert int(re.findall(r"max_batch_size: (\d+)", text)[0]) > 1


def test_the_configuration_is_well_formed(bundle: Bundle, tmp_path: Path) -> None:
    """Protocol buffers' text form: brackets close, in order."""
    name = triton_from_bundle(bundle, tmp_path / "repository")
    text = (tmp_path / "repository" / name / "config.pbtxt").read_text()

    open_ones: list[str] = []
    for char in re.sub(r'"[^"]*"', "", text):
        if char in "[{":
            open_ones.append({"[": "]", "{": "}"}[char])
        elif char in "]}":
            assert open_ones.pop() == char
    assert not open_ones


def test_an_existing_folder_is_not_touched(bundle: Bundle, tmp_path: Path) -> None:
    """It may be served."""
    (tmp_path / "repository").mkdir()

    with pytest.raises(OutputError, match="exists"):
        triton_from_bundle(bundle, tmp_path / "repository")
