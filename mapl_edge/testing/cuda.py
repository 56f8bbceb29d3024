"""CUDA without a GPU: host memory stands in for the device's, under the names of `cuda.bindings.runtime` and pycuda.

Work on a stream waits in a queue until the stream is synchronised: code that forgets to wait reads old bytes here too.

    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
"""
# ruff: noqa: N801, N802, N815 - the names are CUDA's

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from mapl_edge.arrays import UInt8Array

Work = Callable[[], None]


class cudaError_t(IntEnum):
    """The codes that the fake gives, as CUDA counts them."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    """Whose other calls may spoil a capture."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class FakeStream:
    """A queue of work; `int(stream)` is its handle, as in cuda-bindings.

    Attributes:
        recording: the work captured so far, or None when none is being captured.
    """

    def __init__(self) -> None:
        self.recording: list[Work] | None = None
        self._queue: list[Work] = []

    def __int__(self) -> int:
        return id(self)

    def submit(self, work: Work) -> None:
        """Queue it, or record it."""
        (self._queue if self.recording is None else self.recording).append(work)

    def drain(self) -> None:
        """Do everything that is queued."""
        queue, self._queue = self._queue, []
        for work in queue:
            work()


class FakeCuda(ModuleType):
    """A stand-in for the module `cuda.bindings.runtime`: each function answers `(error code, value)`.

    Args:
        gpus: how many there are.
        driver: the CUDA version that the driver serves, like 13050; 0: there is no driver.
        runtime: the CUDA version that the bindings are for.

    Attributes:
        calls: the names of the functions called, in order.
        fail: error codes to answer instead, by function name.
        memory: addresses of device and pinned memory in use; empty when everything was given back.
        streams: those not yet destroyed, by handle.
    """

    def __init__(self, gpus: int = 1, driver: int = 13050, runtime: int = 13050) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpus, self.driver, self.runtime = gpus, driver, runtime
        self.calls: list[str] = []
        self.fail: dict[str, cudaError_t] = {}
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.cudaError_t = cudaError_t
        self.cudaMemcpyKind = cudaMemcpyKind
        self.cudaStreamCaptureMode = cudaStreamCaptureMode
        for name in FUNCTIONS:
            setattr(self, name, self._answering(name, getattr(self, f"_{name}")))

    def _answering(self, name: str, function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        def answer(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            code = self.fail.get(name, cudaError_t.cudaSuccess)
            if code:
                if name == "cudaStreamEndCapture":
                    arguments[0].recording = None  # it ends, whatever comes of it
                return (code, None)
            try:
                value = function(*arguments)
            except _Refusal as exc:
                return (exc.code, None)
            return (cudaError_t.cudaSuccess,) if value is None else (cudaError_t.cudaSuccess, value)

        return answer

    def _cudaDriverGetVersion(self) -> int:
        return self.driver

    def _cudaRuntimeGetVersion(self) -> int:
        return self.runtime

    def _cudaGetDeviceCount(self) -> int:
        if not self.gpus:
            raise _Refusal(cudaError_t.cudaErrorNoDevice)
        return self.gpus

    def _cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=b"Fake GPU")

    def _cudaGetLastError(self) -> None:
        return None

    def _cudaMalloc(self, nbytes: int) -> int:
        if any(stream.recording is not None for stream in self.streams.values()):
            raise _Refusal(cudaError_t.cudaErrorStreamCaptureUnsupported)
        block = (ctypes.c_uint8 * nbytes)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _cudaFree(self, address: int) -> None:
        if self.memory.pop(address, None) is None:
            raise _Refusal(cudaError_t.cudaErrorInvalidValue)

    _cudaMallocHost, _cudaFreeHost = _cudaMalloc, _cudaFree

    def _cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: cudaMemcpyKind, stream: FakeStream) -> None:
        for address in (to, source):
            if not any(begin <= address and address + nbytes <= begin + len(m) for begin, m in self.memory.items()):
                raise _Refusal(cudaError_t.cudaErrorInvalidValue)
        stream.submit(lambda: _copy(to, source, nbytes))

    def _cudaStreamCreate(self) -> FakeStream:
        stream = FakeStream()
        self.streams[int(stream)] = stream
        return stream

    def _cudaStreamDestroy(self, stream: FakeStream) -> None:
        del self.streams[int(stream)]

    def _cudaStreamSynchronize(self, stream: FakeStream) -> None:
        if stream.recording is not None:
            raise _Refusal(cudaError_t.cudaErrorStreamCaptureUnsupported)
        stream.drain()

    def _cudaStreamBeginCapture(self, stream: FakeStream, mode: cudaStreamCaptureMode) -> None:
        stream.recording = []

    def _cudaStreamEndCapture(self, stream: FakeStream) -> list[Work]:
        if stream.recording is None:
            raise _Refusal(cudaError_t.cudaErrorStreamCaptureInvalidated)
        recording, stream.recording = stream.recording, None
        return recording

    def _cudaGraphInstantiate(self, graph: list[Work], flags: int) -> list[Work]:
        made = list(graph)
        self.graphs[id(made)] = made
        return made

    def _cudaGraphDestroy(self, graph: list[Work]) -> None:
        return None

    def _cudaGraphLaunch(self, graph: list[Work], stream: FakeStream) -> None:
        for work in graph:
            stream.submit(work)

    def _cudaGraphExecDestroy(self, graph: list[Work]) -> None:
        del self.graphs[id(graph)]


FUNCTIONS = tuple(name[1:] for name in vars(FakeCuda) if name.startswith("_cuda"))
"""The functions of `cuda.bindings.runtime` that the fake has."""


class _Refusal(Exception):  # noqa: N818 - becomes an error code
    def __init__(self, code: cudaError_t) -> None:
        self.code = code


class FakePyCuda(ModuleType):
    """A stand-in for the module `pycuda.driver`, on a `FakeCuda`'s memory and streams.

    Attributes:
        contexts: how many contexts are pushed; pycuda aborts the process at exit unless it is 0.
        fail: messages to raise as `Error` instead, by name of the function.
    """

    class Error(Exception):
        """What pycuda raises."""

    def __init__(self, cuda: FakeCuda | None = None) -> None:
        super().__init__("pycuda.driver")
        self.cuda = cuda or FakeCuda()
        self.contexts = 0
        self.fail: dict[str, str] = {}
        fake = self

        class Device:
            def __init__(self, index: int) -> None:
                self._index = index

            @staticmethod
            def count() -> int:
                return fake.cuda.gpus

            def name(self) -> str:
                return "Fake GPU"

            def retain_primary_context(self) -> Any:
                return SimpleNamespace(push=lambda: fake._push(1), pop=lambda: fake._push(-1))

        class Stream:
            def __init__(self) -> None:
                fake._need_context("Stream")
                self._stream = fake.cuda.cudaStreamCreate()[1]

            @property
            def handle(self) -> int:
                return int(self._stream)

            def synchronize(self) -> None:
                fake._need_context("synchronize")
                self._stream.drain()

        self.Device, self.Stream = Device, Stream

    def init(self) -> None:
        """As pycuda's."""
        if "init" in self.fail:
            raise self.Error(self.fail["init"])

    def mem_alloc(self, nbytes: int) -> Any:
        """As pycuda's: an object that is an address and can be freed."""
        self._need_context("mem_alloc")
        return _Allocation(self.cuda, self.cuda.cudaMalloc(nbytes)[1])

    def pagelocked_empty(self, shape: int, dtype: Any) -> UInt8Array:
        """As pycuda's."""
        self._need_context("pagelocked_empty")
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, to: int, source: UInt8Array, stream: Any) -> None:
        """As pycuda's."""
        self._need_context("memcpy_htod_async")
        stream._stream.submit(lambda: _copy(to, source.ctypes.data, source.nbytes))

    def memcpy_dtoh_async(self, to: UInt8Array, source: int, stream: Any) -> None:
        """As pycuda's."""
        self._need_context("memcpy_dtoh_async")
        stream._stream.submit(lambda: _copy(to.ctypes.data, source, to.nbytes))

    def _push(self, by: int) -> None:
        self.contexts += by

    def _need_context(self, name: str) -> None:
        if name in self.fail:
            raise self.Error(self.fail[name])
        if not self.contexts:
            raise self.Error(f"{name} failed: invalid device context")


class _Allocation:
    def __init__(self, cuda: FakeCuda, address: int) -> None:
        self._cuda, self._address = cuda, address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._cuda.cudaFree(self._address)


def _copy(to: int, source: int, nbytes: int) -> None:
    ctypes.memmove(to, source, nbytes)
