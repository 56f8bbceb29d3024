"""The ONNX Runtime door: the one module that imports onnxruntime in this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BackendError

GPU_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
CPU_PROVIDERS = ("CPUExecutionProvider",)
# It gives a convolution that int8 spared, between two that it did not, weights of bytes after all, with one scale for
# all channels: scores move by ten deviations.
UNWANTED = ("WeightBiasQuantization",)


class OnnxSession:
    """A graph in ONNX Runtime, on the GPU where its build has one; see `Session`.

    Args:
        path: the ONNX file.
        threads: for one call; 0 lets ONNX Runtime take all cores.
        providers: execution providers in order of preference; those that this build lacks are left out.
    """

    def __init__(self, path: Path, threads: int = 0, providers: Sequence[str] = GPU_PROVIDERS) -> None:
        present = [name for name in providers if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that wait in a loop take the cores from FAISS, cameras and the store between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=present, disabled_optimizers=list(UNWANTED)
            )
        except Exception as exc:  # onnxruntime's errors share no base class of their own
            raise BackendError(f"onnxruntime cannot load {path}: {_first_line(exc)}; export again") from exc
        self.inputs: Mapping[str, tuple[int | None, ...]] = {
            tensor.name: tuple(n if isinstance(n, int) else None for n in tensor.shape)
            for tensor in self._session.get_inputs()
        }
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        device = self._session.get_providers()[0].removesuffix("ExecutionProvider").lower()
        self.name = f"onnxruntime {onnxruntime.__version__} {device}"

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """See `Session`."""
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))
        except Exception as exc:  # as above
            raise BackendError(f"{self.name}: {_first_line(exc)}") from exc

    def close(self) -> None:
        """Let ONNX Runtime free its memory."""
        self._session = None


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
