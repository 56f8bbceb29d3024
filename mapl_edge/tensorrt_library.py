"""The TensorRT door: `tensorrt` or `tensorrt_rtx`, whichever version is installed, its log and its refusals.

The builder (`export`) and the session (`runtime`) share it; TensorRT itself is imported when one of them opens it.
TensorRT reports most failures as None or False and says why only in its log, so the log is kept and read here.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from mapl_edge.errors import BackendError, BackendUnavailable

logger = logging.getLogger(__name__)

Flavour: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]

_EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}

# What TensorRT 8.6 to 11 and RTX write to their log → the error, what is wrong and what to do. First match wins.
_CAUSES: tuple[tuple[str, type[BackendError], str], ...] = (
    (
        r"version tag does not match|expecting library version|not compatible with this version",
        BackendError,
        "it was built by another version of TensorRT; build the engine again here: mapl-edge export",
    ),
    (
        r"incompatible device|expecting compute|unsupported.{0,20}compute capability",
        BackendError,
        "it was built for another GPU; build the engine again for this one: mapl-edge export",
    ),
    (
        r"magic ?tag|Serialization assertion|minBufferSize|empty memory buffer|required bytes",
        BackendError,
        "the file is truncated or no engine of this library; build the engine again: mapl-edge export",
    ),
    (
        r"out ?of ?memory|could not be allocated|cudaError 2:|MEM_ALLOC|insufficient memory|FAILED_ALLOCATION",
        BackendError,
        "the GPU's memory ran out; allow less with memory_mb, lower max_batch, or end other programs on this GPU",
    ),
    (
        r"cudaError 35|(?:failure with|CUDA) error:? ?35|insufficient for CUDA runtime",
        BackendUnavailable,
        "there is no NVIDIA driver, or it is older than this library needs; install or update the driver (nvidia-smi "
        "shows it), or set backend: onnx",
    ),
    (
        r"cudaError 100|(?:failure with|CUDA) error:? ?100|no CUDA-capable device",
        BackendUnavailable,
        "no NVIDIA GPU was found; check that nvidia-smi lists one, or set backend: onnx",
    ),
)


class TensorRt:
    """One TensorRT, loaded.

    Args:
        flavour: which library; both have the same names.

    Attributes:
        api: the module, as the vendor wrote it; it has no types.
        name: library and version, for people.
        log: an `ILogger` of the module, to be given to its Builder, OnnxParser and Runtime.

    Raises:
        BackendUnavailable: it is not installed, or its shared libraries cannot be loaded.
    """

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        try:
            self.api: Any = importlib.import_module(flavour)
        except ModuleNotFoundError as exc:
            raise BackendUnavailable(
                f"{flavour} is not installed; pip install 'mapl-edge[{_EXTRAS[flavour]}]' or set backend: onnx"
            ) from exc
        except (ImportError, OSError, RuntimeError) as exc:
            raise BackendUnavailable(
                f"{flavour} is installed but its libraries do not load: {_first_line(exc)}; "
                f"pip install --force-reinstall 'mapl-edge[{_EXTRAS[flavour]}]' or set backend: onnx"
            ) from exc
        self.name = f"{flavour} {self.api.__version__}"
        self._errors: list[str] = []
        self.log = _log(self.api, self._errors)

    @contextmanager
    def errors(self, doing: str, remedy: str) -> Iterator[None]:
        """Translate what TensorRT raises inside into BackendError; see `failure`."""
        self.forget()
        try:
            yield
        except (TypeError, RuntimeError, ValueError, MemoryError) as exc:
            # A factory that fails is a TypeError of the bindings ("factory function returned nullptr").
            raise self.failure(doing, remedy, _first_line(exc)) from exc

    def forget(self) -> None:
        """Let what was said so far not be the reason of a later failure."""
        self._errors.clear()

    def failure(self, doing: str, remedy: str, otherwise: str = "it gives no reason") -> BackendError:
        """The error to raise when TensorRT has answered None or False: the reason is in its log.

        Args:
            doing: what was tried, "cannot load a.engine".
            remedy: what to do when the reason is none of those we know.
            otherwise: what to quote when the log is empty.
        """
        said = " ".join(self._errors)
        for pattern, error, advice in _CAUSES:
            if re.search(pattern, f"{said} {otherwise}", re.IGNORECASE):
                return error(f"{self.name} {doing}: {advice}")
        return BackendError(f"{self.name} {doing}: {_short(self._errors[0] if self._errors else otherwise)}; {remedy}")


def _log(api: Any, errors: list[str]) -> Any:
    """An ILogger that keeps errors for `TensorRt.failure` and hands the rest to `logging`."""

    class Log(api.ILogger):  # type: ignore[misc]  # a class of the module that was just loaded
        def __init__(self) -> None:
            api.ILogger.__init__(self)  # the bindings refuse super()

        def log(self, severity: object, message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                errors.append(message)
            elif severity == api.ILogger.WARNING:
                logger.info("%s: %s", api.__name__, _short(message))

    return Log()


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _short(message: str) -> str:
    """On one line, without where in its sources the library said it."""
    return re.sub(r"\s*\(?In [\w:]+ at \S+?:\d+\)?", "", " ".join(message.split()))[:300]
