"""Precision: a float32 graph of ours in fewer bits: fp16 for GPUs, int8 for GPUs and CPUs.

Inputs and outputs stay as they are. Only convolutions give up bits, and what lies between two of them; search, distance
and score stay float32, or another neighbour would win by rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BackendError, DataError
from mapl_edge.export.rounding import Inputs, inputs_of, mean_error, rounded

Feed: TypeAlias = Mapping[str, AnyArray]

HALF_LIMIT = 3e4  # fp16 ends at 65504; on odd pictures the weighted differences come near it

# What runs between two convolutions in whatever type it is given.
_BETWEEN = frozenset({"Add", "Clip", "Concat", "LeakyRelu", "MaxPool", "Relu", "Resize"})
_SEEN = 20_000  # values of an activation that each feed adds to its range
_EVENED = 0.5  # of how many powers of two a channel is narrower than the widest: the rest is left to the weights
_RARE = 1e-5  # share of values that are cut at each end: a few large ones would make all steps large
_ELEMENT_MACS = 5  # moving one activation costs a CPU about as much as so many multiplications


@dataclass(frozen=True, slots=True)
class Quantised:
    """What became of a graph.

    Attributes:
        int8: how many convolutions are int8 now, of `convolutions`.
    """

    int8: int
    convolutions: int


def fp16_from_onnx(path: Path, out: Path, *, exact_search: bool = True) -> None:
    """Write a graph whose convolutions, and what lies between them, compute in fp16, for GPU engines.

    Those that read features weighted by the attention stay float32.

    What comes from float32 is cut at ±3e4 on its way into fp16, so that nothing becomes infinite.

    Args:
        path: a fused, encoder-only or decoder-only graph in float32.
        out: the file to write.
        exact_search: what the search reads stays float32, and so does the encoder of a fused graph. Without, about one
            place in a hundred finds another neighbour, and there the map moves by as much as 0.07. An encoder-only
            graph, where no search is to be seen, has its convolutions in fp16 in any case.

    Raises:
        BackendError: the graph has no convolution.
    """
    graph = _Graph(onnx.load(path), path)
    exact = graph.before("ArgMin") if exact_search else set()
    nodes: list[NodeProto] = []
    half: set[str] = set()
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            source, casts[name, to] = name, f"{name}_{'half' if to == TensorProto.FLOAT16 else 'float'}"
            if to == TensorProto.FLOAT16:
                limits = [graph.constant(f"half_{end}", np.float32(v)) for end, v in _HALF_ENDS.items()]
                source = f"{name}_limited"
                nodes.append(helper.make_node("Clip", [name, *limits], [source], name=f"{name}_limit"))
            nodes.append(helper.make_node("Cast", [source], [casts[name, to]], name=f"{casts[name, to]}_cast", to=to))
        return casts[name, to]

    weighted: set[str] = set()  # by the attention, whose three factors leave what fp16 can tell apart
    for node in graph.model.graph.node:
        flowing = [name for name in node.input if name and name not in graph.constants]
        if (node.op_type == "Mul" and len(flowing) == 2) or (
            node.op_type in _BETWEEN and not weighted.isdisjoint(flowing)
        ):
            weighted.update(node.output)
        narrow = (
            node.name not in exact
            and weighted.isdisjoint([*flowing, *node.output])
            and (node.op_type == "Conv" or (node.op_type in _BETWEEN and all(name in half for name in flowing)))
        )
        for i, name in enumerate(node.input):
            constant = graph.constants.get(name)
            if constant is None:
                if name and narrow != (name in half):
                    node.input[i] = cast(name, TensorProto.FLOAT16 if narrow else TensorProto.FLOAT)
            elif narrow and constant.dtype == np.float32 and not (node.op_type == "Resize" and i > 0):
                node.input[i] = graph.constant(f"{name}_half", constant.astype(np.float16))
        nodes.append(node)
        if narrow and node.output[0] in graph.outputs:
            wanted, node.output[0] = node.output[0], f"{node.output[0]}_narrow"
            nodes.append(helper.make_node("Cast", [node.output[0]], [wanted], name=f"{wanted}_cast", to=1))
            casts[node.output[0], TensorProto.FLOAT] = wanted
        if narrow:
            half.update(node.output)
    onnx.save(graph.rewritten(nodes), out)


class Int8Graph:
    """A float32 graph that was watched at work, to be written with convolutions in int8.

    They become pairs of QuantizeLinear and DequantizeLinear. The first ones may stay float32: what they round goes
    through all others and into every distance, while the last ones cost next to no accuracy. What lies together needs
    no conversion in between. Weights are rounded together (`mapl_edge.export.rounding`), and biases make good what that
    gets wrong on average. Where a convolution reads several tensors at once, whose ranges may differ a hundredfold, its
    channels are brought nearer to each other first (SmoothQuant, Xiao et al. 2023): else the steps of the widest would
    swallow the others.

    Args:
        path: a fused, encoder-only or decoder-only graph in float32.
        feeds: the graph's inputs by name, one feed for each of a few dozen pictures. Beyond what 99,998
            of 100,000 values lie within they are cut, so a few feeds should show (simulated) defects.
        target: "cpu", for ONNX Runtime and OpenVINO: uint8 activations, before and after each convolution. "tensorrt":
            int8 activations without offset, before each convolution.
        weight_bits: 7 for CPUs with AVX2 and no VNNI, where the sum of two products of 8 bits overflows.

    Raises:
        DataError: there are no feeds.
        BackendError: the graph has no convolution.
    """

    def __init__(
        self,
        path: Path,
        feeds: Iterable[Feed],
        target: Literal["cpu", "tensorrt"] = "cpu",
        *,
        weight_bits: Literal[7, 8] = 8,
    ) -> None:
        kept = list(feeds)
        if not kept:
            raise DataError(
                "int8 needs pictures to learn the range of values from, found none; give a few dozen good ones"
            )
        self._path = path
        self._model = _evened(_Graph(onnx.load(path), path), kept)
        graph = self._graph()
        ranges, sizes, inputs = _measured(graph, kept)
        read = {node.name: sizes[node.input[0]] for node in graph.convolutions}
        self._work = {
            node.name: float(
                sizes[node.output[0]] * graph.constants[node.input[1]][0].size
                + _ELEMENT_MACS * (read[node.name] + sizes[node.output[0]])
            )
            for node in graph.convolutions
        }
        before = graph.before("ArgMin")
        self._first = {name: work for name, work in self._work.items() if name in before} or self._work
        self._ends = _ends(list(self._first.values()), [read[name] for name in self._first])
        self._form = _Form(target == "cpu", 2 ** (weight_bits - 1) - 1, ranges, inputs)

    def write(self, out: Path, spared: float = 0.0) -> Quantised:
        """Write it.

        Args:
            out: the file to write.
            spared: 0 to 1, the share of the convolutions' work that stays float32 at least, the first ones; in a fused
                graph of the work before the search. It ends where little is handed over: a large activation costs more
                to convert than the convolution behind it gains.
        """
        end = next(i for i, share in self._ends.items() if share >= spared - 1e-9)
        chosen = self._work.keys() - list(self._first)[:end]
        onnx.save(self._form.quantised(self._graph(), chosen), out)
        return Quantised(len(chosen), len(self._work))

    def _graph(self) -> _Graph:
        return _Graph(copy.deepcopy(self._model), self._path)


_HALF_ENDS = {"lowest": -HALF_LIMIT, "highest": HALF_LIMIT}


class _Graph:
    """A model while it is rewritten.

    Attributes:
        constants: the initializers by name.
        outputs: names of the graph's outputs.
        convolutions: in the graph's order.
    """

    def __init__(self, model: Any, path: Path) -> None:
        self.model = model
        self.constants: dict[str, AnyArray] = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.convolutions: list[NodeProto] = [node for node in model.graph.node if node.op_type == "Conv"]
        if not self.convolutions:
            raise BackendError(f"{path}: no convolution in it, so there is nothing to narrow; export the model again")
        self._readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def constant(self, name: str, value: Any) -> str:
        """Add an initializer if it is not there yet; its name."""
        if name not in self.constants:
            self.constants[name] = np.asarray(value)
            self.model.graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return name

    def showing(self, names: Iterable[str]) -> Any:
        """A copy of the model with these tensors among its outputs."""
        model = copy.deepcopy(self.model)
        shown = {value.name for value in [*model.graph.input, *model.graph.output]}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
        return model

    def activation(self, convolution: NodeProto) -> NodeProto | None:
        """The activation that alone reads a convolution's output."""
        readers = self._readers.get(convolution.output[0], [])
        alone = len(readers) == 1 and convolution.output[0] not in self.outputs
        return readers[0] if alone and readers[0].op_type in ("Clip", "LeakyRelu", "Relu") else None

    def before(self, op_type: str) -> set[str]:
        """Names of the nodes that nodes of this type depend on."""
        wanted: set[str] = set()
        found: set[str] = set()
        for node in reversed(self.model.graph.node):
            if node.op_type == op_type or not wanted.isdisjoint(node.output):
                wanted.update(node.input)
                found.add(node.name)
        return found

    def rewritten(self, nodes: Sequence[NodeProto]) -> Any:
        """The model with other nodes, checked, without the initializers that nobody reads."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        used = [initializer for initializer in graph.initializer if initializer.name in read]
        del graph.initializer[:]
        graph.initializer.extend(used)
        del graph.value_info[:]  # types have changed
        onnx.checker.check_model(self.model, full_check=True)
        return self.model


@dataclass(frozen=True)
class _Form:
    """How int8 is written.

    Attributes:
        both_sides: activations are quantised before and after convolutions, uint8 with an offset; or else before them
            only, int8 without.
        weight_max: the largest weight as an integer.
        ranges: between which all but rare values of each activation lie.
        inputs: what convolutions read, by their names; the weights of others are rounded each by itself.
    """

    both_sides: bool
    weight_max: int
    ranges: Mapping[str, tuple[float, float]]
    inputs: Mapping[str, Inputs]
    _whole: dict[str, AnyArray] = field(default_factory=dict)  # weights that were rounded already

    def quantised(self, graph: _Graph, chosen: set[str]) -> Any:
        """The model with the convolutions of these names in int8; uses `graph` up."""
        before: set[str] = set()  # read in int8 by the chosen convolutions alone: what else reads them is not hurt
        after: set[str] = set()  # read in int8 by all
        dropped: set[str] = set()  # Clips that the pair after them does: it cuts at the range that was seen behind them
        for node in graph.convolutions:
            if node.name in chosen:
                before.add(node.input[0])
                activation = graph.activation(node)
                last = activation.output[0] if activation else node.output[0]
                if self.both_sides and last not in graph.outputs:
                    after.add(last)
                    if activation and activation.op_type == "LeakyRelu":
                        after.add(node.output[0])
                    elif activation:
                        dropped.add(activation.name)
        nodes: list[NodeProto] = []
        renamed: dict[str, str] = {}

        def pair(source: str, name: str) -> None:
            if name in before | after:
                nodes.extend(self._pair(graph, source, name))
                renamed[name] = f"{name}_dequantized"

        for value in graph.model.graph.input:
            pair(value.name, value.name)
        for node in list(graph.model.graph.node):
            for i, name in enumerate(node.input):
                if name in after or (i == 0 and node.name in chosen):
                    node.input[i] = renamed.get(name, name)
            if node.name in dropped:
                pair(node.input[0], node.output[0])
                continue
            if node.name in chosen:
                source = _plain(node.input[0])
                nodes.append(self._weight(graph, node))
                if self.both_sides and len(node.input) > 2:
                    nodes.append(self._bias(graph, node, self._steps(source)[0]))
            nodes.append(node)
            for name in node.output:
                pair(name, name)
        return graph.rewritten(nodes)

    def _pair(self, graph: _Graph, source: str, name: str) -> list[NodeProto]:
        step, zero = self._steps(name)
        unit = [graph.constant(f"{name}_scale", np.float32(step)), graph.constant(f"{name}_zero", zero)]
        middle, end = f"{name}_quantized", f"{name}_dequantized"
        return [
            helper.make_node("QuantizeLinear", [source, *unit], [middle], name=f"{name}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [middle, *unit], [end], name=f"{name}_DequantizeLinear"),
        ]

    def _steps(self, name: str) -> tuple[float, Any]:
        """Of an activation: how much one step of its bytes is, and which byte is zero."""
        low, high = min(self.ranges[name][0], 0.0), max(self.ranges[name][1], 0.0)
        if not self.both_sides:
            return max(-low, high, 1e-6) / 127, np.int8(0)
        step = max((high - low) / 255, 1e-8)
        return step, np.uint8(round(-low / step))

    def _bias(self, graph: _Graph, node: NodeProto, step: float) -> NodeProto:
        """In steps of the products that it is added to; ONNX Runtime joins no convolution to bytes without."""
        name = node.input[2]
        scale = (np.float64(step) * graph.constants[f"{_plain(node.input[1])}_scale"]).astype(np.float32)
        whole = np.round(graph.constants[name] / scale.astype(np.float64)).astype(np.int32)
        return _dequantized(graph, node, 2, whole, scale)

    def _weight(self, graph: _Graph, node: NodeProto) -> NodeProto:
        """Round its weights, and take what that gets wrong on average off its bias."""
        weight, inputs = graph.constants[node.input[1]], self.inputs.get(node.name)
        scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / self.weight_max, 1e-10)
        biased = len(node.input) > 2
        if self.both_sides and biased:  # a bias must not need more than 32 bits in steps of the products
            step, _ = self._steps(_plain(node.input[0]))
            scale = np.maximum(scale, np.abs(graph.constants[node.input[2]]) / (step * 2**30))
        scale = scale.astype(np.float32)
        if node.name not in self._whole:
            self._whole[node.name] = (
                np.round(weight / scale[:, None, None, None])
                if inputs is None
                else rounded(weight, scale, self.weight_max, inputs, biased=biased)
            )
        whole = self._whole[node.name]
        if inputs is not None and biased:
            right = graph.constants[node.input[2]] - mean_error(weight, whole, scale, inputs)
            node.input[2] = graph.constant(f"{node.name}_bias", right.astype(np.float32))
        return _dequantized(graph, node, 1, whole.astype(np.int8), scale)


def _dequantized(graph: _Graph, node: NodeProto, which: int, whole: AnyArray, scale: AnyArray) -> NodeProto:
    """A constant input of a convolution in whole numbers, a scale for each C_out; the node that reads them."""
    name = node.input[which]
    values = {"quantized": whole, "scale": scale, "zero": np.zeros(len(scale), whole.dtype)}
    inputs = [graph.constant(f"{name}_{what}", value) for what, value in values.items()]
    node.input[which] = f"{name}_dequantized"
    return helper.make_node("DequantizeLinear", inputs, [node.input[which]], name=f"{name}_DequantizeLinear", axis=0)


def _plain(name: str) -> str:
    return name.removesuffix("_dequantized")


def _evened(graph: _Graph, feeds: Sequence[Feed]) -> Any:
    """The same model, whose convolutions behind a Concat read channels with less unequal ranges: divided by the root of
    how wide each is beside the widest, in powers of two, so that the answers stay the same to the last bit."""
    joined = {name for node in graph.model.graph.node if node.op_type == "Concat" for name in node.output}
    behind = {node.name: node for node in graph.convolutions if node.input[0] in joined}
    if not behind:
        return graph.model
    names = sorted({node.input[0] for node in behind.values()})
    widest = {name: np.zeros(1) for name in names}
    session = _session(graph.showing(names))
    for feed in feeds:
        for name, values in zip(names, session.run(names, dict(feed)), strict=True):
            widest[name] = np.maximum(widest[name], np.abs(values).max(axis=(0, 2, 3)))
    nodes: list[NodeProto] = []
    for node in list(graph.model.graph.node):
        if node.name in behind:
            source, weight = node.input[:2]
            wide = np.maximum(widest[source], 1e-3 * widest[source].max() + 1e-12)
            factor = np.exp2(np.round(np.log2(wide / wide.max()) * _EVENED)).astype(np.float32)
            node.input[0], node.input[1] = f"{node.name}_evened", f"{node.name}_uneven"
            graph.constant(node.input[1], graph.constants[weight] * factor[:, None, None])
            by = graph.constant(f"{node.name}_factor", 1 / factor[:, None, None])
            nodes.append(helper.make_node("Mul", [source, by], [node.input[0]], name=node.input[0]))
        nodes.append(node)
    return graph.rewritten(nodes)


def _measured(
    graph: _Graph, feeds: Sequence[Feed]
) -> tuple[dict[str, tuple[float, float]], dict[str, int], dict[str, Inputs]]:
    """Between what the activations around convolutions lie and how many values they have; of each convolution by its
    name its inputs."""
    around = {name for node in graph.convolutions for name in (node.input[0], node.output[0])}
    around |= {act.output[0] for node in graph.convolutions if (act := graph.activation(node))}
    names = sorted(around)
    session = _session(graph.showing(names))
    rng = np.random.default_rng(0)
    seen: dict[str, list[AnyArray]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    known = {node.name: inputs_of(node, graph.constants[node.input[1]]) for node in graph.convolutions}
    inputs = {name: found for name, found in known.items() if found is not None}
    for feed in feeds:
        hidden = [name for name in names if name not in feed]
        values = dict(zip(hidden, session.run(hidden, dict(feed)), strict=True)) | dict(feed)
        for name in names:
            sizes[name] = values[name].size
            some = values[name].ravel()
            seen[name].append(some if some.size <= _SEEN else some[rng.integers(0, some.size, _SEEN)])
        for node in graph.convolutions:
            if node.name in inputs:
                inputs[node.name].add(values[node.input[0]], rng)
    ranges: dict[str, tuple[float, float]] = {}
    for name, parts in seen.items():
        low, high = np.quantile(np.concatenate(parts), [_RARE, 1 - _RARE])
        ranges[name] = float(low), float(high)
    return ranges, sizes, inputs


def _ends(work: Sequence[float], read: Sequence[int]) -> dict[int, float]:
    """After how many convolutions int8 may begin, and the share of the work before it: where the next one reads no more
    than the one before it and the one behind it do."""
    count = len(work)
    least = [i for i in range(1, count) if read[i] == min(read[i - 1 : i + 2])]
    return {i: sum(work[:i]) / sum(work) for i in (0, *least, count)}


def _session(model: Any) -> Any:
    """Computes as the graph says, to see what lies between its nodes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
