"""The search's forms: each finds the same patch, on real libraries."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from mapl_edge.arrays import AnyArray
from mapl_edge.config import TrainConfig
from mapl_edge.export.onnx_graph import onnx_from_detector
from mapl_edge.export.search_graph import Form, _bytes, _read, search_in_form
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import pretrained_encoder
from mapl_edge.model.frozen import onnx_program
from mapl_edge.model.memory import PatchMemory
from mapl_edge.search import CODE, NEVER

FORMS: tuple[Form, ...] = ("float", "integer", "qdq")
PATCHES = 200  # in blocks of 64, the last one filled up


@pytest.fixture(scope="module")
def pictures() -> AnyArray:
    """Noise in squares, so that neighbouring places differ."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(12, axis=1).repeat(12, axis=2)


def exported(folder: Path, pictures: AnyArray, memory: str) -> Path:
    """A fused graph of an untrained detector, as torch writes it."""
    config = TrainConfig.model_validate(
        {"memory": memory, "position_weight": 0.0, "contract": {"size_hw": (96, 96)}, "crop": 64}
    )
    encoder = pretrained_encoder("efficientnet_lite0")
    torch.manual_seed(0)
    detector = Detector(encoder, empty_memory(config, encoder.channels, PATCHES if memory == "patch" else 4), config)
    with torch.no_grad():
        detector.fill_memory(detector.encoder(torch.from_numpy(pictures[:4])), torch.arange(4))
    onnx_from_detector(detector.eval(), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, pictures: AnyArray) -> dict[str, Path]:
    """The same detector in all forms; `again` is float made of integer."""
    folder = tmp_path_factory.mktemp("forms")
    plain = exported(folder, pictures, "patch")
    made = {"torch": plain}
    for form in FORMS:
        made[form] = folder / f"{form}.onnx"
        assert search_in_form(plain, made[form], form)
    made["again"] = folder / "again.onnx"
    assert search_in_form(made["integer"], made["again"], "float")
    return made


def answers(path: Path, pictures: AnyArray) -> list[AnyArray]:
    """Score, map and nearest."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[AnyArray] = session.run(None, {"image": pictures})
    return found


@given(
    codes=arrays(np.int8, st.tuples(st.integers(1, 8), st.integers(1, 20)), elements=st.integers(-CODE, CODE)),
    empty=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_bytes_give_the_squared_distance_and_never_a_place_without_a_patch(
    codes: AnyArray, empty: int, seed: int
) -> None:
    """For any query, as far away as one can be too."""
    dims, patches = codes.shape
    padded = np.concatenate([codes, np.zeros((dims, empty))], 1).astype(np.float32)
    squares = np.where(np.arange(patches + empty) < patches, np.square(padded).sum(0), NEVER).astype(np.float32)
    drawn = np.random.default_rng(seed).integers(-CODE, CODE + 1, (20, dims))
    queries = np.concatenate([drawn, np.where(drawn < 0, -CODE, CODE)])

    table = _bytes(padded, squares).astype(np.int64)

    ones = np.full((40, len(table) - dims), CODE)
    ones[:, -1] = 1
    found = np.concatenate([queries, ones], 1) @ table
    slow = np.square(queries[:, :, None] - codes[None].astype(np.int64)).sum(1)
    np.testing.assert_array_equal(found[:, :patches] + np.square(queries).sum(1, keepdims=True), slow)
    np.testing.assert_array_equal(found.argmin(1), slow.argmin(1))
    for what, again in zip((padded, squares), _read(_bytes(padded, squares), dims), strict=True):
        np.testing.assert_array_equal(what, again)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("form", [*FORMS, "again"])
def test_every_form_gives_the_same_answers(graphs: dict[str, Path], pictures: AnyArray, form: str, batch: int) -> None:
    """Whole numbers leave nothing to round, so scores and maps agree to the last bit."""
    expected = answers(graphs["torch"], pictures[:batch])

    found = answers(graphs[form], pictures[:batch])

    assert len(set(expected[2].tolist())) > (batch > 1), "otherwise the test says little"
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


class _Nearest(nn.Module):
    def __init__(self, codes: AnyArray) -> None:
        super().__init__()
        self.memory = PatchMemory(codes.shape[1], (1, 1, len(codes) - 2))
        self.memory.codes[:, : codes.shape[1]] = torch.from_numpy(codes)
        self.memory.squares[: codes.shape[1]] = torch.from_numpy(np.square(codes).sum(0))

    def forward(self, queries: Tensor) -> Tensor:
        return self.memory.nearest(queries)


@pytest.mark.parametrize("patches", [1, 64, 130, 300])
def test_of_patches_that_are_equally_near_every_form_finds_the_first(tmp_path: Path, patches: int) -> None:
    """Within a block and in several; with few values there are many such, and places that no part divides evenly."""
    rng = np.random.default_rng(patches)
    codes, queries = (rng.integers(-1, 2, shape).astype(np.float32) for shape in ((3, patches), (2, 7, 3)))
    away = np.square(queries[:, :, :, None] - codes).sum(2)
    onnx_program(_Nearest(codes), {"queries": torch.from_numpy(queries)}, ["index"]).save(tmp_path / "torch.onnx")

    for form in FORMS:
        assert search_in_form(tmp_path / "torch.onnx", tmp_path / f"{form}.onnx", form)
        session = onnxruntime.InferenceSession(str(tmp_path / f"{form}.onnx"), providers=["CPUExecutionProvider"])

        assert session.run(None, {"queries": queries})[0].tolist() == away.argmin(2).tolist()
    assert patches == 1 or ((away == away.min(2, keepdims=True)).sum(2) > 1).any(), "otherwise the test says little"


@pytest.mark.parametrize("form", [*FORMS, "torch"])
def test_openvino_finds_the_same(graphs: dict[str, Path], pictures: AnyArray, form: str) -> None:
    """It runs the form made for it, and all others."""
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(graphs[form], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    found = model([pictures])

    for wanted, output in zip(answers(graphs["torch"], pictures), model.outputs, strict=True):
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)


@pytest.mark.parametrize(("form", "product"), [("integer", "MatMulInteger"), ("qdq", "MatMul"), ("float", "Gemm")])
def test_a_form_multiplies_as_it_says(graphs: dict[str, Path], form: str, product: str) -> None:
    """And leaves nothing behind of the form before it."""
    graph = onnx.load(graphs[form]).graph
    memory = PATCHES + -PATCHES % 64
    of_the_memory = {i.name for i in graph.initializer if len(i.dims) == 2 and i.dims[1] == memory}

    readers = {node.op_type for node in graph.node if of_the_memory & set(node.input)}

    assert len(of_the_memory) == 1
    assert readers == ({"DequantizeLinear"} if form == "qdq" else {product})
    assert product in {node.op_type for node in graph.node}


def test_a_memory_of_whole_pictures_has_no_patch_search(tmp_path: Path, pictures: AnyArray) -> None:
    """Nothing is written then, and the caller is told."""
    plain = exported(tmp_path, pictures, "image")

    assert not search_in_form(plain, tmp_path / "out.onnx", "integer")
    assert not (tmp_path / "out.onnx").exists()
