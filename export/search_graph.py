"""The patch search of a graph, written as a library computes it fastest.

Codes are whole numbers of 7 bits (`mapl_edge.model.memory.PatchMemory`), so all forms give the same numbers and find
the same patch:

    float    Gemm, as torch exports it: for TensorRT, and for everyone
    integer  MatMulInteger of bytes, |m|² among them: for ONNX Runtime, and what a bundle's model.onnx holds
    qdq      MatMul between QuantizeLinear and DequantizeLinear: for OpenVINO
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BundleError
from mapl_edge.search import CODE, NEVER

Form = Literal["float", "integer", "qdq"]
_TABLE, _BLOCKS, _DOUBLED = "search_table", "search_blocks", "search_doubled"
_ZERO = 64  # of the queries' bytes: with values from 1 to 127, sums of two products fit 16 bits on any processor
_MOST = 126  # of a row's bytes that say |m|²; 127 marks a column where there is no patch
_CONSTANTS = {
    "search_step": np.float32(1),
    "search_middle": np.uint8(_ZERO),
    "search_zero": np.int8(0),
}


def search_in_form(path: Path, out: Path, form: Form) -> bool:
    """Write the graph with its patch search in another form.

    Args:
        path: a fused graph of ours in the form "float" or "integer".
        out: the file to write; it may be `path`.
        form: the form to write it in.

    Returns:
        Whether there was a search; if not (a memory of whole pictures, half of a split model) nothing is written.
    """
    model = onnx.load(path)
    search = _search_of(model)
    if search is None:
        return False
    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node is search.nodes[-1]:
            nodes += _written(search, form, graph)
        elif not any(node is old for old in search.nodes):
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # of types that are no more
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return True


def add_to_search(model: Any, entries: int, codes: AnyArray) -> None:
    """Let a graph in the form "integer" find more patches.

    Args:
        model: changed in place.
        entries: how many patches it finds now.
        codes: float32 (N, S), whole numbers: those to find too.

    Raises:
        BundleError: its search has another form.
    """
    constants = {i.name: i for i in model.graph.initializer}
    if not {_TABLE, _BLOCKS} <= constants.keys():
        raise BundleError("its search cannot be added to: it is not as this version exports it; export the model again")
    table, blocks = (numpy_helper.to_array(constants[name]) for name in (_TABLE, _BLOCKS))
    block, total = int(blocks[-1]), entries + len(codes)
    dims = codes.shape[1]
    known, squares = _read(table[:, :entries], dims)
    made = np.zeros((dims, total + -total % block), np.float32)
    made[:, :total] = np.concatenate([known, codes.T], 1)
    away = np.full(made.shape[1], NEVER, np.float32)
    away[:total] = np.concatenate([squares, np.square(codes).sum(1)])
    written = {_TABLE: _bytes(made, away), _BLOCKS: np.array([-1, made.shape[1] // block, block])}
    written[f"{_TABLE}_room"] = np.array([0, 0, 0, len(written[_TABLE]) - dims - 1])
    for name, value in written.items():
        constants[name].CopyFrom(numpy_helper.from_array(value, name))


def _bytes(codes: AnyArray, squares: AnyArray) -> AnyArray:
    """What queries of bytes are multiplied with for |m|² - 2 x·m at once: adding |m|² later would read all sums again.

    Behind a query's S numbers come some of 63 and a last one of 1, so the rows below -2 m hold |m|² in 63rds and the
    rest. Where there is no patch, they hold more than the nearest patch of any query can be away.

    Args:
        codes: float32 (S, K), whole numbers.
        squares: float32 (K,), `NEVER` where there is no patch.

    Returns:
        int8 (S + n + 1, K).
    """
    dims, there = len(codes), squares < NEVER
    longest = CODE * dims**0.5  # a query
    worst = float((squares[there] + 2 * longest * np.sqrt(squares[there])).min())  # even the middlemost may be so far
    rows = math.ceil(max(float(squares[there].max()), worst + CODE) / (CODE * _MOST))
    full, rest = np.divmod(squares.astype(np.int64), CODE)
    digits = np.clip(full - _MOST * np.arange(rows)[:, None], 0, _MOST)
    table = np.concatenate([-2 * codes, digits, rest[None]]).astype(np.int8)
    table[dims:-1, ~there], table[-1, ~there] = _MOST + 1, 0
    return table


def _read(table: AnyArray, dims: int) -> tuple[AnyArray, AnyArray]:
    """Codes (S, K) and squares (K,) of what `_bytes` wrote."""
    squares = CODE * table[dims:-1].astype(np.int64).sum(0) + table[-1]
    squares[(table[dims] > _MOST)] = NEVER
    return (table[:dims] / -2).astype(np.float32), squares.astype(np.float32)


@dataclass(frozen=True)
class _Search:
    """What |x - m|² - |x|² is computed by.

    Attributes:
        nodes: that do it now, in order.
        blocks: the node that lays its distances out in blocks.
        queries, distances: names of what comes in and goes out.
        codes: float32 (S, K), whole numbers.
        squares: float32 (K,), |m|².
    """

    nodes: list[NodeProto]
    blocks: NodeProto
    queries: str
    distances: str
    codes: AnyArray
    squares: AnyArray


def _search_of(model: Any) -> _Search | None:
    """The product whose minima are looked for."""
    constants = {i.name: i for i in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    minima = next((node for node in model.graph.node if node.op_type == "ReduceMin"), None)
    blocks = None if minima is None else made_by.get(minima.input[0])
    last = None if blocks is None else made_by.get(blocks.input[0])
    if last is None or blocks is None:
        return None
    if last.op_type == "Gemm":
        codes, squares = (numpy_helper.to_array(constants[name]) for name in last.input[1:])
        return _Search([last], blocks, last.input[0], last.output[0], codes, squares)
    if last.op_type != "MatMulInteger":
        raise BundleError("its search is not as this version exports it; export the model again")
    ones, full, narrow = _chain(last, made_by)
    table = numpy_helper.to_array(constants[last.input[1]])
    dims = len(table) - 1 - int(numpy_helper.to_array(constants[full.input[1]])[-1])
    codes, squares = _read(table, dims)
    return _Search([narrow, full, ones, last], blocks, narrow.input[0], last.output[0], codes, squares)


def _chain(node: NodeProto, made_by: dict[str, NodeProto]) -> list[NodeProto]:
    """The three nodes before it, last first."""
    found = []
    for _ in range(3):
        node = made_by[node.input[0]]
        found.append(node)
    return found


def _written(search: _Search, form: Form, graph: Any) -> list[NodeProto]:
    def constant(name: str, value: Any) -> str:
        if name not in {i.name for i in graph.initializer}:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"search_{kind}_{output}", **attributes)

    step, middle, zero = (constant(name, value) for name, value in _CONSTANTS.items())
    if form == "float":
        codes, squares = constant("search_codes", search.codes), constant("search_squares", search.squares)
        return [node("Gemm", [search.queries, codes, squares], search.distances, alpha=-2.0)]
    if form == "integer":
        shape = next(numpy_helper.to_array(i) for i in graph.initializer if i.name == search.blocks.input[1])
        search.blocks.input[1] = constant(_BLOCKS, shape)
        table = _bytes(search.codes, search.squares)
        rows = len(table) - len(search.codes) - 1
        room, one = (
            constant(f"{_TABLE}_room", np.array([0, 0, 0, rows])),
            constant("search_one", np.array([0, 0, 0, 1])),
        )
        most, unit = (constant(f"search_{n}", np.uint8(_ZERO + n)) for n in (CODE, 1))
        return [
            node("QuantizeLinear", [search.queries, step, middle], "search_bytes"),
            node("Pad", ["search_bytes", room, most], "search_full"),
            node("Pad", ["search_full", one, unit], "search_ones"),
            node("MatMulInteger", ["search_ones", constant(_TABLE, table), middle, zero], search.distances),
        ]
    doubled = constant(_DOUBLED, (-2 * search.codes).astype(np.int8))
    squares = constant("search_squares", search.squares)
    return [
        node("QuantizeLinear", [search.queries, step, zero], "search_bytes"),
        node("DequantizeLinear", ["search_bytes", step, zero], "search_queries"),
        node("DequantizeLinear", [doubled, step, zero], "search_memory"),
        node("MatMul", ["search_queries", "search_memory"], "search_product"),
        node("Add", ["search_product", squares], search.distances),
    ]
