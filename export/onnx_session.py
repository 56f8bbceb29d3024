"""ONNX Runtime with one thread a call: several pictures are looked at side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mapl_edge.arrays import FloatArray

_OPSET, _IR = 13, 7  # what every ONNX Runtime reads

Product = Callable[[FloatArray], FloatArray]
"""float32 (N, S) → float32 (N, K)."""


def onnx_session(graph: Path | bytes) -> Any:
    """A graph that is loaded."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    source = str(graph) if isinstance(graph, Path) else graph
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def product_with(table: FloatArray) -> Product:
    """What multiplies rows with a table, float32 (S, K).

    Not numpy: its products take all cores, each leaves threads that wait in loops for the next one (60 ms of the
    processor for a product of 8), and those of several pictures at once wait for each other.
    """
    dims, count = table.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "table"], ["product"])],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", dims])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["N", count])],
        [numpy_helper.from_array(np.ascontiguousarray(table, np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    session = onnx_session(model.SerializeToString())
    return lambda rows: np.asarray(session.run(["product"], {"rows": rows})[0], np.float32)
