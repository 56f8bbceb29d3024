"""The CUDA door: device memory, pinned host memory, streams and graphs, by cuda-bindings or, in its absence, pycuda.

JetPack images carry pycuda; everywhere else cuda-bindings has wheels. Of `pycuda.driver` these names are used: `init`,
`Error`, `Device` (`count`, `name`, `retain_primary_context`), a context's `push` and `pop`, `mem_alloc` and its `free`,
`pagelocked_empty`, `memcpy_htod_async`, `memcpy_dtoh_async`, `Stream` (`handle`, `synchronize`). It has no graphs.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.errors import BackendError, BackendUnavailable

_INSTALL = "pip install 'mapl-edge[tensorrt]' (or [rtx], or on a Jetson [pycuda]), or set backend: onnx"
_NO_GPU = "no NVIDIA GPU was found; check that nvidia-smi lists one, or set backend: onnx"
_NO_DRIVER = "there is no NVIDIA driver on this machine; install it (nvidia-smi shows it), or set backend: onnx"
_MEMORY = "the GPU's memory ran out; end other programs on this GPU or lower the batch"


class Cuda(Protocol):
    """The first GPU, through one library. Streams and graphs are handles that only this object understands.

    Every method raises BackendError with CUDA's own name of what went wrong.
    """

    name: str
    """For people: the GPU."""

    has_graphs: bool
    """Whether begin_capture and its kin work."""

    def allocate(self, nbytes: int) -> int:
        """Device memory; its address."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def pinned(self, nbytes: int) -> UInt8Array:
        """Host memory that the GPU can copy from and to; (nbytes,)."""
        ...

    def free_pinned(self, memory: UInt8Array) -> None:
        """Give it back; no view of it may be used afterwards."""
        ...

    def to_device(self, address: int, source: UInt8Array, stream: Any) -> None:
        """Queue a copy of pinned memory to the device."""
        ...

    def to_host(self, target: UInt8Array, address: int, stream: Any) -> None:
        """Queue a copy from the device to pinned memory."""
        ...

    def new_stream(self) -> Any:
        """A queue of work."""
        ...

    def handle(self, stream: Any) -> int:
        """The stream as other libraries take it."""
        ...

    def wait(self, stream: Any) -> None:
        """Return when everything in the stream is done."""
        ...

    def free_stream(self, stream: Any) -> None:
        """Give the stream back."""
        ...

    def begin_capture(self, stream: Any) -> None:
        """From now on this thread's work on the stream is recorded, not done."""
        ...

    def end_capture(self, stream: Any) -> Any:
        """The recorded work as a graph. Recording ends in any case, also if it fails."""
        ...

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue the recorded work."""
        ...

    def free_graph(self, graph: Any) -> None:
        """Give the graph back."""
        ...


def open_cuda() -> Cuda:
    """The GPU, by whichever library is installed.

    Raises:
        BackendUnavailable: no library, no driver, a driver that is too old, or no GPU; the message says which.
    """
    for module, door in (("cuda.bindings.runtime", CudaBindings), ("pycuda.driver", PyCuda)):
        try:
            api = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as exc:  # pycuda needs the driver's library to be imported at all
            raise BackendUnavailable(f"{module} does not load: {str(exc).splitlines()[0]}; {_NO_DRIVER}") from exc
        return door(api)
    raise BackendUnavailable(f"neither cuda-bindings nor pycuda is installed; {_INSTALL}")


class CudaBindings:
    """See `Cuda`; NVIDIA's cuda-bindings, the runtime API. Any thread may call it."""

    has_graphs = True

    def __init__(self, api: Any) -> None:
        self._api = api
        driver, wanted = self._call("cudaDriverGetVersion"), self._call("cudaRuntimeGetVersion")
        if not driver:
            raise BackendUnavailable(_NO_DRIVER)
        if driver // 1000 < wanted // 1000:  # within a major version any driver serves
            raise BackendUnavailable(
                f"the NVIDIA driver serves CUDA {_dotted(driver)}, cuda-bindings is for {_dotted(wanted)}; update the "
                f"driver, or pip install 'cuda-bindings=={driver // 1000}.*'"
            )
        if not self._call("cudaGetDeviceCount"):
            raise BackendUnavailable(_NO_GPU)
        name = self._call("cudaGetDeviceProperties", 0).name
        self.name: str = name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)

    def allocate(self, nbytes: int) -> int:
        """See `Cuda`."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._call("cudaFree", address)

    def pinned(self, nbytes: int) -> UInt8Array:
        """See `Cuda`."""
        address = int(self._call("cudaMallocHost", nbytes))
        memory: UInt8Array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return memory

    def free_pinned(self, memory: UInt8Array) -> None:
        """See `Cuda`."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def to_device(self, address: int, source: UInt8Array, stream: Any) -> None:
        """See `Cuda`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: UInt8Array, address: int, stream: Any) -> None:
        """See `Cuda`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def new_stream(self) -> Any:
        """See `Cuda`."""
        return self._call("cudaStreamCreate")

    def handle(self, stream: Any) -> int:
        """See `Cuda`."""
        return int(stream)

    def wait(self, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaStreamSynchronize", stream)

    def free_stream(self, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: Any) -> None:
        """See `Cuda`. Thread-local: another camera's allocations must not spoil this recording."""
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: Any) -> Any:
        """See `Cuda`."""
        try:
            recorded = self._call("cudaStreamEndCapture", stream)
            try:
                return self._call("cudaGraphInstantiate", recorded, 0)
            finally:
                self._call("cudaGraphDestroy", recorded)
        except BackendError:
            self._api.cudaGetLastError()  # it would be taken for the next call's
            raise

    def launch(self, graph: Any, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """See `Cuda`."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, function: str, *arguments: Any) -> Any:
        """The function's value, if it has one; its error code raised as BackendError."""
        code, *values = getattr(self._api, function)(*arguments)
        if code == self._api.cudaError_t.cudaSuccess:
            return values[0] if values else None
        name = code.name
        if name in ("cudaErrorNoDevice", "cudaErrorInsufficientDriver"):
            raise BackendUnavailable(f"{function}: {name}; {_NO_GPU if name == 'cudaErrorNoDevice' else _NO_DRIVER}")
        advice = _MEMORY if name == "cudaErrorMemoryAllocation" else "restart the station; if it comes again, see dmesg"
        raise BackendError(f"{function}: {name}; {advice}")


class PyCuda:
    """See `Cuda`; pycuda on the device's primary context, which TensorRT uses too. No graphs."""

    has_graphs = False

    def __init__(self, api: Any) -> None:
        self._api = api
        self._allocations: dict[int, Any] = {}
        with self._errors("init"):
            api.init()
            if not api.Device.count():
                raise BackendUnavailable(_NO_GPU)
            device = api.Device(0)
            self.name: str = device.name()
            self._context = device.retain_primary_context()

    def allocate(self, nbytes: int) -> int:
        """See `Cuda`."""
        with self._current("mem_alloc"):
            allocation = self._api.mem_alloc(nbytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Cuda`."""
        with self._current("free"):
            self._allocations.pop(address).free()

    def pinned(self, nbytes: int) -> UInt8Array:
        """See `Cuda`."""
        with self._current("pagelocked_empty"):
            memory: UInt8Array = self._api.pagelocked_empty(nbytes, np.uint8)
        return memory

    def free_pinned(self, memory: UInt8Array) -> None:
        """See `Cuda`; pycuda frees it with its last view."""

    def to_device(self, address: int, source: UInt8Array, stream: Any) -> None:
        """See `Cuda`."""
        with self._current("memcpy_htod_async"):
            self._api.memcpy_htod_async(address, source, stream)

    def to_host(self, target: UInt8Array, address: int, stream: Any) -> None:
        """See `Cuda`."""
        with self._current("memcpy_dtoh_async"):
            self._api.memcpy_dtoh_async(target, address, stream)

    def new_stream(self) -> Any:
        """See `Cuda`."""
        with self._current("Stream"):
            return self._api.Stream()

    def handle(self, stream: Any) -> int:
        """See `Cuda`."""
        return int(stream.handle)

    def wait(self, stream: Any) -> None:
        """See `Cuda`."""
        with self._current("synchronize"):
            stream.synchronize()

    def free_stream(self, stream: Any) -> None:
        """See `Cuda`; pycuda frees it with its last reference."""

    def begin_capture(self, stream: Any) -> None:
        """See `Cuda`."""
        raise BackendError("pycuda has no CUDA graphs; pip install cuda-bindings")

    end_capture = free_graph = begin_capture

    def launch(self, graph: Any, stream: Any) -> None:
        """See `Cuda`."""
        self.begin_capture(stream)

    @contextmanager
    def _current(self, doing: str) -> Iterator[None]:
        """Work on the primary context, from any thread, and leave no trace: pycuda aborts at exit if one stays."""
        with self._errors(doing):
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._api.Error as exc:
            said = (str(exc).splitlines() or [type(exc).__name__])[0]
            if "no CUDA-capable device" in said:
                raise BackendUnavailable(f"pycuda {doing}: {said}; {_NO_GPU}") from exc
            if "driver version is insufficient" in said:
                raise BackendUnavailable(f"pycuda {doing}: {said}; {_NO_DRIVER}") from exc
            advice = _MEMORY if "out of memory" in said else "restart the station; if it comes again, see dmesg"
            raise BackendError(f"pycuda {doing}: {said}; {advice}") from exc


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
