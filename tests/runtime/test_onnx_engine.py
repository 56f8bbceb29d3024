"""The ONNX Runtime door: wrong files and wrong pictures get one line."""

from pathlib import Path

import numpy as np
import pytest

from mapl_edge.errors import BackendError, ContractMismatch
from mapl_edge.runtime import OnnxRuntimeEngine


@pytest.mark.parametrize("content", [b"", b"not an ONNX file"], ids=["empty", "garbage"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    """onnxruntime's own exceptions end at this door."""
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(BackendError, match="cannot load"):
        OnnxRuntimeEngine(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "picture",
    [np.zeros((64, 96, 3), np.uint8), np.zeros((96, 64, 3), np.float32), np.zeros((96, 64), np.uint8)],
    ids=["sides swapped", "float", "grey"],
)
def test_a_picture_that_was_not_prepared_is_refused(engine: OnnxRuntimeEngine, picture: np.ndarray) -> None:
    """A silent resize or cast here would be a second preparation."""
    with pytest.raises(ContractMismatch, match="the model takes uint8"):
        engine.infer(picture)


def test_answers_do_not_depend_on_threads(engine: OnnxRuntimeEngine, bundle) -> None:  # type: ignore[no-untyped-def]
    """Within the parity tolerance, whatever the machine."""
    picture = bundle.golden().pictures[0]
    with OnnxRuntimeEngine(bundle.model_path, threads=2) as other:
        assert abs(engine.infer(picture).score - other.infer(picture).score) < 1e-5
