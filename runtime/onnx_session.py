"""The ONNX Runtime door: the one module that imports onnxruntime in this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import BackendError
from mapl_edge.runtime.cores import cores_here, staying_on

GPU_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
CPU_PROVIDERS = ("CPUExecutionProvider",)
# It gives a convolution that int8 spared, between two that it did not, weights of bytes after all, with one scale for
# all channels: scores move by ten deviations.
UNWANTED = ("WeightBiasQuantization",)


class OnnxSession:
    """A graph in ONNX Runtime, on the GPU where its build has one; see `Session`.

    Args:
        path: the ONNX file.
        threads: for one call; 0: one on each core, where who calls is put on the first one meanwhile.
        providers: execution providers in order of preference; those that this build lacks are left out.
    """

    def __init__(self, path: Path, threads: int = 0, providers: Sequence[str] = GPU_PROVIDERS) -> None:
        present = [name for name in providers if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        cores = cores_here() if threads == 0 and present[0] == CPU_PROVIDERS[0] else []
        options.intra_op_num_threads = len(cores) or threads
        self._core = cores[0] if len(cores) > 1 else frozenset[int]()
        if self._core:  # the others' threads, by numbers from 1 on
            processors = ";".join(",".join(str(cpu + 1) for cpu in sorted(core)) for core in cores[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", processors)
        # Threads that wait in a loop take a sixth off a call, where each has a core of its own. Between two calls they
        # would take the cores from FAISS, cameras and the store.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._core else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
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
            with staying_on(self._core):
                return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))
        except Exception as exc:  # as above
            raise BackendError(f"{self.name}: {_first_line(exc)}") from exc

    def close(self) -> None:
        """Let ONNX Runtime free its memory."""
        self._session = None


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
