"""Fewer bits, the same answers: what stays, what changes, and that the forms are those that engines take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.errors import BackendError, DataError
from mapl_edge.export import precision
from mapl_edge.export.precision import Feed, Int8Graph, _evened, _Form, _Graph, _measured, _session, fp16_from_onnx
from mapl_edge.export.search_graph import search_in_form
from mapl_edge.parity import parity
from mapl_edge.runtime import FusedEngine
from mapl_edge.runtime.onnx_session import OnnxSession


@pytest.fixture(scope="module")
def fused(calibrated: Path) -> Path:
    """The float32 graph."""
    return open_bundle(calibrated).model_path


@pytest.fixture(scope="module")
def feeds(calibrated: Path) -> list[Feed]:
    """The golden pictures, one a feed."""
    return [{"image": picture[None]} for picture in open_bundle(calibrated).golden().pictures]


@pytest.fixture(scope="module")
def encoder_only(fused: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fused graph up to the scaled features."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    graph = onnx.load(fused).graph
    scaled = [node.output[0] for node in graph.node if node.op_type == "Mul" and node.input[1].startswith("scale")]
    onnx.utils.extract_model(str(fused), str(path), ["image"], scaled)
    return path


def signature(path: Path) -> list[tuple[str, int, list[Any]]]:
    """Name, type and shape of each input and output."""
    graph = onnx.load(path).graph
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
        for v in [*graph.input, *graph.output]
    ]


def weights_of_convolutions(path: Path) -> Counter[str]:
    """How many convolutions read float32, fp16 or quantized weights."""
    graph = onnx.load(path).graph
    types = {i.name: i.data_type for i in graph.initializer}
    names = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "fp16", None: "int8"}
    return Counter(names[types.get(node.input[1])] for node in graph.node if node.op_type == "Conv")


def test_fp16_answers_as_float32_does(bundle: Bundle, tmp_path: Path) -> None:
    """Within the tolerance that a GPU engine is held to."""
    fp16_from_onnx(bundle.model_path, tmp_path / "fp16.onnx")

    with FusedEngine(tmp_path / "fp16.onnx", threads=1) as engine:
        result = parity(engine, bundle.golden(), tolerance=5e-3)
    assert result, result
    assert weights_of_convolutions(tmp_path / "fp16.onnx")["fp16"] >= 10
    assert max(result.score_error, result.map_error) > 1e-6, "it computes in float32"


def test_fp16_reaches_the_encoder_where_the_search_may_change(fused: Path, encoder_only: Path, tmp_path: Path) -> None:
    """By request, and in a graph that is nothing but an encoder."""
    fp16_from_onnx(fused, tmp_path / "fused.onnx", exact_search=False)
    fp16_from_onnx(encoder_only, tmp_path / "encoder.onnx")

    assert weights_of_convolutions(tmp_path / "fused.onnx")["fp16"] > 40
    assert weights_of_convolutions(tmp_path / "encoder.onnx") == Counter(fp16=33)


def test_fp16_keeps_search_and_distance_in_float32(fused: Path, tmp_path: Path) -> None:
    """A near neighbour would win by rounding."""
    fp16_from_onnx(fused, tmp_path / "fp16.onnx", exact_search=False)

    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fp16.onnx"), data_prop=True).graph
    half = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    half |= {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT16}
    wide = {"Gemm", "MatMul", "ArgMin", "Pow", "Sqrt", "ReduceSum", "ReduceMean", "Sigmoid", "TopK", "Sub", "Div"}
    assert half
    assert [n.name for n in graph.node if n.op_type in wide and half & {*n.input, *n.output}] == []


def test_fp16_stays_finite_on_odd_pictures(fused: Path, tmp_path: Path) -> None:
    """A lens cap or a torn cable must give a high score, not NaN, which no limit catches."""
    fp16_from_onnx(fused, tmp_path / "fp16.onnx", exact_search=False)
    noise = np.random.default_rng(0).integers(0, 2, (96, 64, 3), np.uint8) * 255

    with FusedEngine(tmp_path / "fp16.onnx", threads=1) as engine:
        for picture in (np.zeros_like(noise), np.full_like(noise, 255), noise):
            assert np.isfinite(engine.infer(picture).score)
            assert np.isfinite(engine.infer(picture).map).all()


@pytest.mark.parametrize("what", ["fp16", "cpu", "tensorrt"])
def test_inputs_and_outputs_stay(what: str, fused: Path, encoder_only: Path, feeds: list[Feed], tmp_path: Path) -> None:
    """Whoever runs the graph does not see what it computes in; the batch stays open."""
    for path in (fused, encoder_only):
        out = tmp_path / path.name
        if what == "fp16":
            fp16_from_onnx(path, out)
        else:
            Int8Graph(path, feeds, what).write(out)  # type: ignore[arg-type]

        assert signature(out) == signature(path)
        assert onnx.load(out).opset_import[0].version == 18
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        three = np.concatenate([feed["image"] for feed in feeds[:3]])
        assert [len(answer) for answer in session.run(None, {"image": three})] == [3] * len(session.get_outputs())


@pytest.mark.parametrize("spared", [0.0, 0.3, 1.0])
def test_the_first_convolutions_stay_float32(fused: Path, feeds: list[Feed], tmp_path: Path, spared: float) -> None:
    """Those before the search, at least the share of their work; all behind it are int8."""
    path = tmp_path / "int8.onnx"

    done = Int8Graph(fused, feeds[:2]).write(path, spared)

    assert weights_of_convolutions(path) == Counter(int8=done.int8) + Counter(float32=done.convolutions - done.int8)
    graph = onnx.load(path).graph
    plain = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    is_float = [node.input[1] in plain for node in graph.node if node.op_type == "Conv"]
    assert is_float == sorted(is_float, reverse=True), "the first ones, and no others between"
    kinds = [node.op_type for node in graph.node]
    before_search = kinds[: kinds.index("ArgMin")].count("Conv")
    expected = {0.0: 0, 1.0: before_search}.get(spared)
    assert expected is None or is_float.count(True) == expected
    assert 0 < is_float.count(True) < before_search or expected is not None


def test_little_is_handed_over_where_int8_begins(fused: Path, feeds: list[Feed], tmp_path: Path) -> None:
    """A block's narrow end, never its wide middle: converting that would cost what int8 gains."""
    path, plain = tmp_path / "int8.onnx", onnx.load(fused).graph
    weights = {i.name: i.dims for i in plain.initializer}
    read = {  # channels
        node.name: weights[node.input[1]][1] * next(a.i for a in node.attribute if a.name == "group")
        for node in plain.node
        if node.op_type == "Conv"
    }
    graph, begins = Int8Graph(fused, feeds[:2]), set()

    for share in np.linspace(0.05, 0.95, 10):
        graph.write(path, share)
        convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
        begins.add(read[next(node.name for node in convolutions if node.input[1] not in weights)])

    assert len(begins) > 2
    assert begins <= {16, 24, 40, 80, 112, 49}, "what lite0's blocks hand on; within them it is 32 to 672"


def test_scores_are_near_and_the_nearer_the_fewer_are_int8(bundle: Bundle, feeds: list[Feed], tmp_path: Path) -> None:
    """Weights rounded together leave a third less error than each rounded by itself; with the encoder spared, less than
    half of it is left on pictures that set no range."""
    pictures, anomalous = bundle.validation()
    normals = pictures[~anomalous.astype(bool)]

    def scores(path: Path, pictures: Any) -> Any:
        with FusedEngine(path, threads=1) as engine:
            return np.array([engine.infer(picture).score for picture in pictures])

    def error(graph: Int8Graph, spared: float, pictures: Any) -> float:
        graph.write(tmp_path / "int8.onnx", spared)
        off = scores(tmp_path / "int8.onnx", pictures) - scores(bundle.model_path, pictures)
        return float(np.sqrt(np.mean(off**2)))

    together, each = Int8Graph(bundle.model_path, feeds), Int8Graph(bundle.model_path, feeds)
    each._form = replace(each._form, inputs={})
    golden = bundle.golden().pictures

    assert error(together, 0.0, golden) < 0.7 * error(each, 0.0, golden)
    assert error(together, 1.0, normals) < 0.5 * error(together, 0.0, normals)


def test_tensorrt_form_has_no_offset_and_no_quantized_bias(fused: Path, feeds: list[Feed], tmp_path: Path) -> None:
    """TensorRT refuses int32 biases and zero points other than zero."""
    path, plain = tmp_path / "int8.onnx", tmp_path / "plain.onnx"
    assert search_in_form(fused, plain, "float")

    Int8Graph(plain, feeds, "tensorrt").write(path)

    graph = onnx.load(path).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {values[n.input[2]].dtype for n in pairs} == {np.dtype(np.int8)}
    assert not any(values[n.input[2]].any() for n in pairs)
    assert {values[n.input[2]].dtype for n in graph.node if n.op_type == "Conv" and n.input[2] in values} == {
        np.dtype(np.float32)
    }


def test_seven_bits_leave_room_for_a_sum_of_two(fused: Path, feeds: list[Feed], tmp_path: Path) -> None:
    """255 · 63 · 2 fits in 16 bits, 255 · 127 · 2 does not."""
    path = tmp_path / "int8.onnx"

    Int8Graph(fused, feeds[:2], weight_bits=7).write(path)

    constants = [numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer if i.name.endswith("_quantized")]
    weights = [constant for constant in constants if constant.dtype == np.int8]
    assert max(int(np.abs(w).max()) for w in weights) == 63


def test_what_cannot_be_done_is_told(fused: Path, tmp_path: Path) -> None:
    """By errors of ours, with what to do."""
    with pytest.raises(DataError, match="few dozen"):
        Int8Graph(fused, [])
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "empty.onnx")
    with pytest.raises(BackendError, match="no convolution"):
        fp16_from_onnx(tmp_path / "empty.onnx", tmp_path / "a.onnx")

    assert not (tmp_path / "a.onnx").exists()


def test_a_convolution_that_was_spared_keeps_its_weights(tmp_path: Path) -> None:
    """Between two in int8, one whose channels differ a thousandfold: a scale for all of them would be its end."""
    rng = np.random.default_rng(0)
    gains = np.geomspace(0.01, 10, 8).astype(np.float32)
    weights = {
        "first": rng.normal(size=(8, 3, 1, 1)).astype(np.float32),
        "spared": rng.normal(size=(8, 1, 3, 3)).astype(np.float32) * gains[:, None, None, None],
        "last": rng.normal(size=(2, 8, 1, 1)).astype(np.float32) / gains[None, :, None, None],
    }
    biases = {f"{name}_bias": np.full(len(w), 0.1, np.float32) for name, w in weights.items()}
    names = ["image", "first_out", "spared_out", "map"]
    nodes = [
        helper.make_node(
            "Conv",
            [a, name, f"{name}_bias"],
            [b],
            name=name,
            pads=[w.shape[2] // 2] * 4,
            group=8 // w.shape[1] if w.shape[1] == 1 else 1,
        )
        for (name, w), a, b in zip(weights.items(), names[:-1], names[1:], strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 2, 16, 16])],
        [numpy_helper.from_array(value, name) for name, value in (weights | biases).items()],
    )
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    pictures: list[Feed] = [{"image": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    ranges, _, inputs = _measured(_Graph(onnx.load(path), path), pictures)

    made = _Form(True, 127, ranges, inputs).quantised(_Graph(onnx.load(path), path), {"first", "last"})
    onnx.save(made, tmp_path / "int8.onnx")

    found = OnnxSession(tmp_path / "int8.onnx").run(pictures[0])["map"]

    expected = _session(made).run(None, pictures[0])[0]
    assert np.abs(found - expected).max() < 0.01 * expected.std()


def test_a_wide_tensor_does_not_swallow_the_narrow_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences, a hundred times as large where there is a defect, joined with features: normal parts need these."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 8, 3, 3)).astype(np.float32)
    weight[:, 4:] *= 0.01
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["narrow", "wide"], ["joined"], name="join", axis=1),
            helper.make_node("Conv", ["joined", "weight", "bias"], ["map"], name="only", pads=[1] * 4),
        ],
        "joined",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 16, 16]) for name in ("narrow", "wide")],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 6, 16, 16])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.zeros(6, np.float32), "bias")],
    )
    path, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)

    def part(defect: float) -> Feed:
        narrow, wide = (rng.uniform(size=(1, 4, 16, 16)).astype(np.float32) for _ in range(2))
        wide[..., 5:9, 5:9] += defect
        return {"narrow": narrow, "wide": wide}

    def error(feeds: list[Feed], normal: Feed) -> float:
        Int8Graph(path, feeds).write(made)
        found, expected = (OnnxSession(one).run(normal)["map"] for one in (made, path))
        return float(np.abs(found - expected).mean() / expected.std())

    feeds, normal = [part(100.0), part(0.0), part(50.0)], part(0.0)
    evened = error(feeds, normal)
    monkeypatch.setattr(precision, "_EVENED", 0.0)
    as_it_is = error(feeds, normal)

    assert evened < 0.3 * as_it_is


def test_evening_changes_no_answer(fused: Path, feeds: list[Feed]) -> None:
    """Powers of two: to the last bit the same, before anything is rounded."""
    graph = _Graph(onnx.load(fused), fused)
    evened = _evened(graph, feeds)

    factors = [numpy_helper.to_array(i) for i in evened.graph.initializer if i.name.endswith("_factor")]
    assert len(factors) >= 3
    assert any(factor.max() > 1 for factor in factors)
    for ours, its in zip(
        _session(evened).run(None, feeds[0]), _session(onnx.load(fused)).run(None, feeds[0]), strict=True
    ):
        np.testing.assert_array_equal(ours, its)


def test_a_channel_without_weights_keeps_its_bias(tmp_path: Path) -> None:
    """In steps of nothing it would be more than 32 bits hold."""
    weight, bias = np.zeros((2, 3, 1, 1), np.float32), np.array([0.5, 3.0], np.float32)
    weight[1] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["map"], name="only")],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 2, 8, 8])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    path, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    picture = {"image": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}

    Int8Graph(path, [picture]).write(made)

    expected, found = (OnnxSession(one).run(picture)["map"] for one in (path, made))
    np.testing.assert_allclose(found, expected, atol=0.2)
