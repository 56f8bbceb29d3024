"""The exported bundle answers as the trained model does, or does not appear."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.engine import Engine, Reading
from mapl_edge.errors import OutputError, ParityError
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.model.checkpoint import Checkpoint, TorchEngine
from mapl_edge.parity import parity, require_parity
from mapl_edge.runtime import FusedEngine
from mapl_edge.testing import FakeEngine, SyntheticLine


def test_exported_graph_answers_as_torch_on_the_golden_pictures(bundle: Bundle, engine: FusedEngine) -> None:
    """The strongest complaint of this field: raw score and map within 1e-4."""
    result = parity(engine, bundle.golden())

    assert result, result
    assert result.pictures >= 6


def test_exported_graph_answers_as_torch_on_pictures_it_was_not_proved_on(
    checkpoint: Checkpoint, engine: FusedEngine
) -> None:
    """Golden pictures prove nothing about branches that they do not take; parts, noise, black and white do."""
    rng = np.random.default_rng(0)
    line = SyntheticLine(seed=9, size_hw=(96, 64))
    pictures = [line.part(i).image for i in range(6)]
    pictures += [rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), np.zeros((96, 64, 3), np.uint8)]
    pictures.append(np.full((96, 64, 3), 255, np.uint8))
    reference = TorchEngine(checkpoint.detector)

    for picture in pictures:
        ours, theirs = engine.infer(picture), reference.infer(picture)
        assert abs(ours.score - theirs.score) <= 1e-4
        assert np.abs(ours.map - theirs.map).max() <= 1e-4
        assert ours.nearest == theirs.nearest


def test_graph_takes_any_batch_and_bytes(bundle: Bundle) -> None:
    """uint8 NHWC in, stable names, opset 18, and one copy of the memory."""
    model = onnx.load(bundle.model_path)
    (image,) = model.graph.input

    assert [o.name for o in model.graph.output] == ["score", "map", "nearest"]
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param != "" or d.dim_value for d in image.type.tensor_type.shape.dim] == [True, 96, 64, 3]
    assert model.opset_import[0].version == 18
    weights = sum(np.prod(t.dims) * 4 for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert bundle.model_path.stat().st_size < 1.2 * weights + 200_000


def test_memory_pictures_are_those_of_the_memory(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """The operator is shown the very sample that the model compared with (JPEG, so nearly)."""
    for i, picture in enumerate(checkpoint.memory_pictures):
        shown = bundle.memory_picture(i)

        assert np.abs(shown.astype(int) - picture.astype(int)).mean() < 6


class Skewed:
    """The real engine with one fault, to see whether the proof notices."""

    name = "skewed"

    def __init__(self, real: Engine, fault: str) -> None:
        self._real, self._fault = real, fault

    def infer(self, picture: np.ndarray) -> Reading:
        if self._fault == "colour order":
            picture = np.ascontiguousarray(picture[..., ::-1])
        if self._fault == "upside down":
            picture = np.ascontiguousarray(picture[::-1])
        reading = self._real.infer(picture)
        if self._fault == "nan":
            return Reading(float("nan"), reading.map, reading.nearest)
        if self._fault == "score off by 2e-4":
            off = 2e-4 * max(1.0, abs(reading.score))  # see Parity.score_error
            return Reading(reading.score + off, reading.map, reading.nearest)
        if self._fault == "map shape":
            return Reading(reading.score, reading.map[:-1], reading.nearest)
        return reading

    def close(self) -> None:
        self._real.close()


@pytest.mark.parametrize("fault", ["colour order", "upside down", "nan", "score off by 2e-4", "map shape"])
def test_an_engine_that_answers_differently_is_refused(bundle: Bundle, engine: FusedEngine, fault: str) -> None:
    """Each of these ran in somebody's factory."""
    with pytest.raises(ParityError):
        require_parity(Skewed(engine, fault), bundle.golden())


def test_a_bundle_that_fails_its_proof_does_not_appear(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Nor anything half-written beside it."""
    with pytest.raises(ParityError, match="must not be used"):
        bundle_from_checkpoint(checkpoint, tmp_path / "part.mapl", lambda path: FakeEngine())

    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_not_touched(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """It may be in use on the line."""
    with pytest.raises(OutputError, match="exists"):
        bundle_from_checkpoint(checkpoint, bundle.path, lambda path: FakeEngine())

    assert open_bundle(bundle.path).digest == bundle.digest
