"""Products by one thread a call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mapl_edge.export.onnx_session import onnx_session, product_with


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_product_of_codes_is_exact(rows: int, dims: int, columns: int, seed: int) -> None:
    """Codes are whole numbers of 7 bits: a sum that is off by one would find another patch."""
    random = np.random.default_rng(seed)
    left, right = (random.integers(-63, 64, shape) for shape in ((rows, dims), (dims, columns)))

    found = product_with(right.astype(np.float32))(left.astype(np.float32))

    assert found.dtype == np.float32
    assert np.array_equal(found, left @ right)


def test_several_may_multiply_with_one_table() -> None:
    """Pictures are looked at side by side."""
    random = np.random.default_rng(0)
    table, several = random.normal(size=(63, 4000)), random.normal(size=(8, 256, 63))
    multiply = product_with(table.astype(np.float32))

    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(multiply, several.astype(np.float32)))

    np.testing.assert_allclose(np.stack(found), several @ table, rtol=1e-4, atol=1e-4)


def test_a_session_takes_one_thread() -> None:
    """More would wait for those of the picture beside it."""
    node = helper.make_node("Identity", ["x"], ["y"])
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])] for name in "xy")
    graph = helper.make_graph([node], "same", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)

    assert onnx_session(model.SerializeToString()).get_session_options().intra_op_num_threads == 1
