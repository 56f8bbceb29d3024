"""The OpenVINO door: the one module that imports openvino."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BackendError, BackendUnavailable


class OpenVinoSession:
    """An ONNX graph compiled by OpenVINO for the CPU; see `Session`.

    It asks for one answer at a time (the latency hint) in plain float32: bfloat16, the default on newer processors,
    would not answer as the reference does.

    Args:
        path: the ONNX file.
        threads: for one call; 0 lets OpenVINO take all cores.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import openvino
        except ImportError as exc:
            raise BackendUnavailable(
                "openvino is not installed; pip install 'mapl-edge[openvino]' or choose another engine"
            ) from exc
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as exc:  # openvino raises RuntimeError for everything, and others from its ONNX reader
            raise BackendError(f"openvino cannot load {path}: {_last_line(exc)}; export again") from exc
        self.inputs: Mapping[str, tuple[int | None, ...]] = {
            port.any_name: tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
            for port in model.inputs
        }
        self._outputs = [port.any_name for port in model.outputs]
        self.name = f"openvino {openvino.__version__.split('-')[0]} cpu"

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """See `Session`."""
        try:
            results = self._request.infer(dict(feeds), share_inputs=True)
            return {name: results[name].copy() for name in self._outputs}
        except Exception as exc:  # as above
            raise BackendError(f"{self.name}: {_last_line(exc)}") from exc

    def close(self) -> None:
        """Let OpenVINO free its memory."""
        self._request = None


def _last_line(exc: Exception) -> str:
    """OpenVINO's messages begin with places in its own sources; what happened stands last."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(exc).__name__
