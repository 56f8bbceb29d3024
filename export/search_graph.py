"""The patch search of a graph, written as a library computes it fastest.

Codes are whole numbers of 7 bits (`mapl_edge.model.memory.PatchMemory`), so all forms give the same numbers and find
the same patch:

    float    Gemm, as torch exports it: for TensorRT, and for everyone
    integer  MatMulInteger of bytes, |m|² among them, a few hundred places at a time, so that what they are away is
             still in the cache when its minima are looked for: for ONNX Runtime, and what a bundle's model.onnx holds
    qdq      MatMul between QuantizeLinear and DequantizeLinear: for OpenVINO
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BundleError
from mapl_edge.search import CODE, NEVER

Form = Literal["float", "integer", "qdq"]
_TABLE, _BLOCKS, _DOUBLED = "search_table", "search_blocks", "search_doubled"
_ROOM = f"{_TABLE}_room"
_LAST = "search_index"  # the node that says which patch it is
_PARTS = 4  # that the form "integer" searches for one after the other
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
        if node is search.nodes[0]:
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
    written[_ROOM] = np.array([0, 0, 0, len(written[_TABLE]) - dims - 1])
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
    most = max(float(squares[there].max()), 0 if there.all() else worst + CODE)
    rows = max(1, math.ceil(most / (CODE * _MOST)))
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
    """What finds the nearest patch.

    Attributes:
        nodes: that do it now, in order.
        queries, index: names of what comes in and goes out.
        codes: float32 (S, K), whole numbers.
        squares: float32 (K,), |m|².
        block: patches whose nearest is found first.
    """

    nodes: list[NodeProto]
    queries: str
    index: str
    codes: AnyArray
    squares: AnyArray
    block: int


def _search_of(model: Any) -> _Search | None:
    """The product whose minima are looked for, and all that makes an index of it."""
    constants = {i.name: i for i in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    minima = next((node for node in model.graph.node if node.op_type == "ReduceMin"), None)
    blocks = None if minima is None else made_by.get(minima.input[0])
    product = None if blocks is None else made_by.get(blocks.input[0])
    if product is None or blocks is None:
        return None
    if product.op_type == "Gemm":
        queries = product.input[0]
        codes, squares = (numpy_helper.to_array(constants[name]) for name in product.input[1:])
    elif product.op_type == "MatMulInteger":
        queries = next(node for node in model.graph.node if node.name.startswith("search_")).input[0]
        table = numpy_helper.to_array(constants[_TABLE])
        codes, squares = _read(table, len(table) - 1 - int(numpy_helper.to_array(constants[_ROOM])[-1]))
    else:
        raise BundleError("its search is not as this version exports it; export the model again")
    nodes = _until_index(model, queries)
    block = int(numpy_helper.to_array(constants[blocks.input[1]])[-1])
    return _Search(nodes, queries, nodes[-1].output[0], codes, squares, block)


def _until_index(model: Any, queries: str) -> list[NodeProto]:
    """The nodes behind the queries up to the one that adds a patch's place in its block to the block's."""
    nodes, reached = [], {queries}
    is_ours = any(node.name == _LAST for node in model.graph.node)
    for node in model.graph.node:
        if reached.isdisjoint(node.input):
            continue
        nodes.append(node)
        reached.update(node.output)
        if node.name == _LAST or (not is_ours and node.op_type == "Add"):
            return nodes
    raise BundleError("its search is not as this version exports it; export the model again")


def _written(search: _Search, form: Form, graph: Any) -> list[NodeProto]:
    nodes: list[NodeProto] = []

    def constant(name: str, value: Any) -> str:
        if name not in {i.name for i in graph.initializer}:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = _LAST if output == search.index else f"search_{kind}_{output}"
        nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    step, middle, zero = (constant(name, value) for name, value in _CONSTANTS.items())
    blocks = constant(_BLOCKS, np.array([-1, len(search.squares) // search.block, search.block]))
    second, third, size = (
        constant(f"search_{name}", np.array(value))
        for name, value in (("second", [1]), ("third", [2]), ("size", search.block))
    )

    def nearest(away: str, index: str, part: str = "") -> None:
        laid = node("Reshape", [away, blocks], f"search_laid{part}")
        least = node("ReduceMin", [laid, third], f"search_least{part}", keepdims=0)
        if form == "integer":  # whose places are found faster among floats, which hold these numbers exactly
            least = node("Cast", [least], f"search_least_float{part}", to=TensorProto.FLOAT)
        block = node("ArgMin", [least], f"search_block{part}", axis=1, keepdims=0)
        if form == "integer":
            alone = node("Unsqueeze", [block, second], f"search_alone{part}")
            within = node("GatherND", [laid, alone], f"search_within{part}", batch_dims=1)
            within = node("Cast", [within], f"search_within_float{part}", to=TensorProto.FLOAT)
        else:  # as in mapl_edge.model.memory
            alone = node("Reshape", [block, constant("search_row", np.array([-1, 1, 1]))], f"search_alone{part}")
            wide = node("Expand", [alone, constant("search_wide", np.array([1, 1, search.block]))], "search_expanded")
            gathered = node("GatherElements", [laid, wide], "search_gathered", axis=1)
            within = node("Gather", [gathered, constant("search_only", np.array(0))], "search_within", axis=1)
        place = node("ArgMin", [within], f"search_place{part}", axis=1, keepdims=0)
        node("Add", [node("Mul", [block, size], f"search_first{part}"), place], index)

    if form == "float":
        codes, squares = constant("search_codes", search.codes), constant("search_squares", search.squares)
        nearest(node("Gemm", [search.queries, codes, squares], "search_away", alpha=-2.0), search.index)
    elif form == "integer":
        table = _bytes(search.codes, search.squares)
        rows = len(table) - len(search.codes) - 1
        room, one = constant(_ROOM, np.array([0, 0, 0, rows])), constant("search_one", np.array([0, 0, 0, 1]))
        most, unit = (constant(f"search_{n}", np.uint8(_ZERO + n)) for n in (CODE, 1))
        full = node(
            "Pad", [node("QuantizeLinear", [search.queries, step, middle], "search_bytes"), room, most], "search_full"
        )
        ones = node("Pad", [full, one, unit], "search_ones")
        parts = [f"_{i}" for i in range(_PARTS)]
        some = [f"search_some{part}" for part in parts]
        nodes.append(helper.make_node("Split", [ones], some, name="search_Split", axis=0, num_outputs=_PARTS))
        for part, queries in zip(parts, some, strict=True):
            known = [queries, constant(_TABLE, table), middle, zero]
            nearest(node("MatMulInteger", known, f"search_away{part}"), f"search_found{part}", part)
        node("Concat", [f"search_found{part}" for part in parts], search.index, axis=0)
    else:
        doubled = constant(_DOUBLED, (-2 * search.codes).astype(np.int8))
        squares = constant("search_squares", search.squares)
        bytes_ = node("QuantizeLinear", [search.queries, step, zero], "search_bytes")
        known = [
            node("DequantizeLinear", [name, step, zero], output)
            for name, output in ((bytes_, "search_queries"), (doubled, "search_memory"))
        ]
        nearest(node("Add", [node("MatMul", known, "search_product"), squares], "search_away"), search.index)
    return nodes
