"""Engines of graphs: every library and both graphs answer alike; wrong files and wrong pictures get one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import faiss
import numpy as np
import pytest

from mapl_edge.arrays import AnyArray
from mapl_edge.bundle import Bundle, open_bundle, write_manifest
from mapl_edge.engine import BaseEngine, Engine
from mapl_edge.engine_record import plain_engine
from mapl_edge.errors import BackendError, ContractMismatch
from mapl_edge.parity import parity
from mapl_edge.runtime import FusedEngine, engine_of
from mapl_edge.runtime.onnx_session import OnnxSession
from mapl_edge.testing import FakeEngine


@pytest.mark.parametrize("graph", ["fused", "split"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_engine_answers_as_the_reference(bundle: Bundle, backend: str, graph: str) -> None:
    """One oracle, the golden answers of the torch model, for all."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
    with engine_of(plain_engine(bundle, backend, graph), threads=1) as engine:  # type: ignore[arg-type]
        result = parity(engine, bundle.golden())

    assert result, result
    assert backend in engine.name


@pytest.mark.parametrize("graph", ["fused", "split"])
def test_a_batch_answers_as_its_pictures_do(bundle: Bundle, graph: str) -> None:
    """Cameras that share an engine must not see each other's parts."""
    pictures = bundle.golden().pictures[:3]
    with engine_of(plain_engine(bundle, graph=graph), threads=1) as engine:  # type: ignore[arg-type]
        together = engine.infer_many(pictures)
        alone = [engine.infer(picture) for picture in pictures]

    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert np.abs(one.map - other.map).max() < 1e-5
        assert one.nearest == other.nearest


@pytest.mark.parametrize(("reach", "alike"), [(1e9, True), (None, False)], ids=["as told", "left to FAISS"])
def test_a_search_reaches_as_far_as_the_manifest_tells(bundle: Bundle, reach: float | None, alike: bool) -> None:
    """The index itself says to look into one list only, which finds other patches."""
    flat = faiss.read_index(str(bundle.memory_path))
    lists = faiss.index_factory(flat.d, "IVF64,Flat")
    lists.cp.min_points_per_centroid = 1
    for step in (lists.train, lists.add):
        step(flat.reconstruct_n(0, flat.ntotal))
    faiss.write_index(lists, str(bundle.memory_path))
    fields = bundle.manifest.model_dump(exclude={"files"})
    fields["memory"]["search"]["reach"] = reach
    write_manifest(bundle.path, **fields)

    with engine_of(plain_engine(open_bundle(bundle.path), graph="split"), threads=1) as engine:
        result = parity(engine, bundle.golden())

    assert bool(result) == alike, result


@pytest.mark.parametrize("content", [b"", b"not an ONNX file"], ids=["empty", "garbage"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes, backend: str) -> None:
    """The libraries' own exceptions end at their doors."""
    session = OnnxSession
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
        from mapl_edge.runtime.openvino_session import OpenVinoSession as session  # type: ignore[assignment]  # noqa: N813
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(BackendError, match="cannot load"):
        FusedEngine(tmp_path / "model.onnx", open_session=session).load()


@pytest.mark.parametrize(
    "picture",
    [np.zeros((64, 96, 3), np.uint8), np.zeros((96, 64, 3), np.float32), np.zeros((96, 64), np.uint8)],
    ids=["sides swapped", "float", "grey"],
)
def test_a_picture_that_was_not_prepared_is_refused(engine: FusedEngine, picture: np.ndarray) -> None:
    """A silent resize or cast here would be a second preparation."""
    with pytest.raises(ContractMismatch, match="the model takes uint8"):
        engine.infer(picture)


def test_answers_do_not_depend_on_threads(engine: FusedEngine, bundle: Bundle) -> None:
    """Within the parity tolerance, whatever the machine."""
    picture = bundle.golden().pictures[0]
    with FusedEngine(bundle.model_path, threads=2) as other:
        assert abs(engine.infer(picture).score - other.infer(picture).score) < 1e-5


class Cropped:
    """A real session whose map lost a row."""

    def __init__(self, path: Path, threads: int) -> None:
        self._real = OnnxSession(path, threads)
        self.name, self.inputs = "cropped", self._real.inputs

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        found = self._real.run(feeds)
        return found | {"map": found["map"][:, 1:]}

    def close(self) -> None:
        self._real.close()


def test_an_answer_of_the_wrong_shape_is_an_error(bundle: Bundle) -> None:
    """Not a map that is drawn askew over the part."""
    with (
        FusedEngine(bundle.model_path, open_session=Cropped) as engine,
        pytest.raises(BackendError, match="map has shape"),
    ):
        engine.infer(bundle.golden().pictures[0])


def test_a_closed_engine_says_so(bundle: Bundle) -> None:
    """And closing twice is harmless."""
    engine = FusedEngine(bundle.model_path)
    engine.load()
    engine.close()
    engine.close()

    with pytest.raises(BackendError, match="was closed"):
        engine.infer(bundle.golden().pictures[0])


def test_the_fake_engine_has_the_real_ones_interface() -> None:
    """A double that drifts from the real thing proves nothing."""
    verbs = [name for name in vars(Engine) if not name.startswith("_") and name != "name"]

    assert sorted(verbs) == ["close", "infer", "infer_many", "load"]
    for verb in verbs:
        assert getattr(FakeEngine, verb).__annotations__ == getattr(BaseEngine, verb).__annotations__
