"""Encoder, index and decoder together answer as the trained model does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import TINY

from mapl_edge.arrays import UInt8Array
from mapl_edge.export import split_from_detector
from mapl_edge.model.bank import Bank
from mapl_edge.model.checkpoint import Checkpoint, readings
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.runtime import FusedEngine
from mapl_edge.search import SearchIndex


@pytest.fixture(scope="module", params=["patch", "image"])
def detector(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Detector:
    """The trained one, and its encoder, fusion and decoder with a memory of whole pictures."""
    trained = checkpoint.detector
    if request.param == "patch":
        return trained
    pictures = checkpoint.memory_pictures
    config = TINY.model_copy(update={"memory": "image"})
    bank = Bank(pictures, np.arange(len(pictures)), config)
    detector = Detector(trained.encoder, empty_memory(config, trained.encoder.channels, bank.size), config)
    bank.fill(detector, lambda few: trained.encoder(torch.from_numpy(few)))
    detector.fusion, detector.decoder, detector.evidence = trained.fusion, trained.decoder, trained.evidence
    return detector.eval()


@pytest.fixture(scope="module")
def folder(detector: Detector, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The split form on disk."""
    folder = tmp_path_factory.mktemp("split")
    summary = split_from_detector(detector, folder, checkpoint.golden_pictures)
    vectors = detector.memory.vectors()
    assert (summary.entries, summary.dims, summary.recall) == (*vectors.shape, 1.0)
    return folder


def run(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """One call of a graph, outputs by name."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def answers(folder: Path, detector: Detector, pictures: UInt8Array) -> tuple[Any, Any, Any]:
    """Scores, maps and nearest by way of all three files."""
    entries, dims = detector.memory.vectors().shape
    encoded = run(folder / "encoder.onnx", {"image": pictures})
    search = SearchIndex(folder / "memory.faiss", threads=1, entries=entries, dims=dims)
    index = search.search(encoded.pop("queries"))
    answer = run(folder / "decoder.onnx", encoded | {"index": index})
    return answer["score"], answer["map"], answer["nearest"]


@pytest.mark.parametrize("batch", [1, 3])
def test_split_graphs_answer_as_torch(folder: Path, detector: Detector, checkpoint: Checkpoint, batch: int) -> None:
    """The same parity as the fused graph's, pictures one by one and several at once."""
    pictures = checkpoint.golden_pictures[: 2 * batch]
    scores, maps, nearest = readings(detector, pictures)

    for first in range(0, len(pictures), batch):
        part = slice(first, first + batch)
        split = answers(folder, detector, pictures[part])
        np.testing.assert_allclose(split[0], scores[part], atol=1e-4, rtol=1e-4)  # as parity measures
        np.testing.assert_allclose(split[1], maps[part], atol=1e-4)
        assert split[2].tolist() == nearest[part].tolist()


@pytest.mark.parametrize("detector", ["patch"], indirect=True)
def test_split_graphs_answer_as_the_fused_one(
    folder: Path, detector: Detector, checkpoint: Checkpoint, engine: FusedEngine
) -> None:
    """Whichever form a station runs, its thresholds hold."""
    for picture in checkpoint.golden_pictures:
        score, plane, nearest = (value[0] for value in answers(folder, detector, picture[None]))
        fused = engine.infer(picture)
        assert abs(score - fused.score) <= 1e-4
        assert np.abs(plane - fused.map).max() <= 1e-4
        assert nearest == fused.nearest


def test_split_graphs_have_stable_names_and_any_batch(folder: Path, detector: Detector) -> None:
    """The runtime finds tensors by name; the memory lies in the decoder, once, and not in the encoder."""
    graphs = {name: onnx.load(folder / f"{name}.onnx") for name in ("encoder", "decoder")}
    floats = {name: sum(np.prod(t.dims) for t in model.graph.initializer) for name, model in graphs.items()}
    shapes = {
        (name, value.name): [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for name, model in graphs.items()
        for value in [*model.graph.input, *model.graph.output]
    }
    _, s = detector.memory.vectors().shape
    q = 1 if detector.memory.scope == "image" else 96 * 64 // 64
    levels = {"features1": ["batch", 24, 24, 16], "features2": ["batch", 40, 12, 8], "features3": ["batch", 112, 6, 4]}

    assert shapes == {
        ("encoder", "image"): ["batch", 96, 64, 3],
        **{("encoder", name): shape for name, shape in levels.items()},
        ("encoder", "queries"): ["batch", q, s],
        **{("decoder", name): shape for name, shape in levels.items()},
        ("decoder", "index"): ["batch", q],
        ("decoder", "score"): ["batch"],
        ("decoder", "map"): ["batch", 96, 64],
        ("decoder", "nearest"): ["batch"],
    }
    assert [model.opset_import[0].version for model in graphs.values()] == [18, 18]
    encoder, head = detector.encoder, (detector.fusion, detector.decoder)
    held = sum(buffer.numel() for buffer in detector.memory.buffers())
    small = sum(buffer.numel() for name, buffer in detector.memory.named_buffers() if name in ("mean", "basis"))
    assert floats["encoder"] < 1.02 * sum(p.numel() for p in encoder.parameters()) + small + 5_000
    assert floats["decoder"] < 1.02 * sum(p.numel() for part in head for p in part.parameters()) + held + 5_000
