"""The ONNX Runtime engine: the fused graph on the CPU. The one module that imports onnxruntime in this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from mapl_edge.arrays import UInt8Array
from mapl_edge.engine import Reading
from mapl_edge.errors import BackendError, ContractMismatch


class OnnxRuntimeEngine:
    """Runs `model.onnx`; see `Engine`.

    Args:
        path: the fused graph: `image` uint8 (B, H, W, 3) → `score`, `map`, `nearest`.
        threads: for one call; 0 lets ONNX Runtime take all cores.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's errors share no base class of their own
            raise BackendError(f"onnxruntime cannot load {path}: {str(exc).splitlines()[0]}; export again") from exc
        self._shape = tuple(self._session.get_inputs()[0].shape[1:])
        self.name = f"onnxruntime {onnxruntime.__version__} cpu fp32"

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Engine`.

        Raises:
            ContractMismatch: the picture is not what the graph takes.
        """
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ContractMismatch(f"picture is {picture.dtype} {picture.shape}, the model takes uint8 {self._shape}")
        score, anomaly_map, nearest = self._session.run(("score", "map", "nearest"), {"image": picture[None]})
        return Reading(float(score[0]), anomaly_map[0], int(nearest[0]))

    def close(self) -> None:
        """Let ONNX Runtime free its memory."""
        del self._session

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
