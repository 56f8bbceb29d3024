"""The TensorRT session: one engine file on the GPU here, for TensorRT 8.6, 10, 11 and TensorRT for RTX."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.errors import BackendError
from mapl_edge.runtime.cuda_memory import Cuda, open_cuda
from mapl_edge.tensorrt_library import Flavour, TensorRt

logger = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, ...]

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_WARM_UPS = 2  # plain frames of a shape before its capture; TensorRT asks for one
_REMEDY = "it may be built for another device or version, or be truncated; build it again here: mapl-edge export"


class TensorRtSession:
    """Runs one engine file; see `Session`. One thread at a time.

    Memory is taken at the first frame and kept: per tensor one buffer on the device and a pinned one on the host,
    replaced by larger ones when the batch grows. From the third frame of a shape on, copies and kernels are one CUDA
    graph. A graph is void once its context has another shape, so each change of shape begins anew.

    Args:
        path: the engine file.
        threads: has no meaning here; all sessions take it.
        flavour: the library that built it.

    Raises:
        BackendUnavailable: the library is not installed, or there is no GPU or driver.
        BackendError: the engine is for another device or version, is truncated, or is no engine of this library.
    """

    def __init__(self, path: Path, threads: int = 0, *, flavour: Flavour) -> None:
        self._trt = TensorRt(flavour)
        self._tensors: dict[str, _Tensor] = {}
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._graph: Any = None
        self._runs_of_shape = 0
        with self._trt.errors(f"cannot load {path}", _REMEDY), ExitStack() as failed:
            failed.callback(self.close)
            self._engine = self._load(path)
            self._cuda: Cuda = open_cuda()
            self._own_graphs = self._cuda.has_graphs
            self._context = self._new_context()
            if self._context is None:
                raise self._trt.failure(f"cannot start {path}", "end other programs on this GPU")
            self._stream = self._cuda.new_stream()
            self._tensors = {tensor.name: tensor for tensor in self._find_tensors()}
            failed.pop_all()
        self.inputs: Mapping[str, tuple[int | None, ...]] = {
            tensor.name: tuple(None if side == -1 else side for side in tensor.shape)
            for tensor in self._tensors.values()
            if tensor.is_input
        }
        self.name = f"{self._trt.name} {self._cuda.name}"

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """See `Session`; the arrays are the caller's own.

        Raises:
            BackendError: the feeds are not what the engine takes, or the GPU failed.
        """
        if self._context is None:
            raise BackendError(f"{self.name} is closed; open it again")
        self._check(feeds)
        with self._trt.errors("failed on a frame", "restart the station; if it comes again, see dmesg"):
            if any(self._tensors[name].current != array.shape for name, array in feeds.items()):
                self._reshape({name: array.shape for name, array in feeds.items()})
            for name, array in feeds.items():
                np.copyto(self._tensors[name].view, array)
            self._go()
            self._cuda.wait(self._stream)
        return {tensor.name: tensor.view.copy() for tensor in self._tensors.values() if not tensor.is_input}

    def close(self) -> None:
        """See `Session`."""
        try:
            self._drop_graph()
            for tensor in self._tensors.values():
                tensor.free(self._cuda)
            if self._stream is not None:
                self._cuda.free_stream(self._stream)
        except BackendError as exc:  # after a fault the GPU refuses everything; the process's end frees it
            logger.warning("%s was not freed: %s", self._trt.name, exc)
        self._stream = self._context = None  # in this order: each lives by the next
        self._engine = None
        self._runtime = None

    def _load(self, path: Path) -> Any:
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise BackendError(f"cannot read {path}: {exc.strerror}; build the engine again: mapl-edge export") from exc
        self._runtime = self._trt.api.Runtime(self._trt.log)  # to outlive its engine
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._trt.failure(f"cannot load {path}", _REMEDY)
        return engine

    def _new_context(self) -> Any:
        """RTX captures graphs by itself, since it alone knows when its kernels are final. They are made for each shape
        at once, not in the background, so that an engine is proved with the kernels that it will run with.
        """
        api = self._trt.api
        if not hasattr(api, "CudaGraphStrategy"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        self._own_graphs = False
        return self._engine.create_execution_context(config)

    def _find_tensors(self) -> list[_Tensor]:
        tensors = []
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            dtype = self._engine.get_tensor_dtype(name).name
            if dtype not in _DTYPES:
                raise BackendError(f"tensor {name!r} is {dtype}, which numpy does not know; export again")
            is_input = self._engine.get_tensor_mode(name) == self._trt.api.TensorIOMode.INPUT
            shape = tuple(self._engine.get_tensor_shape(name))
            largest = tuple(self._engine.get_tensor_profile_shape(name, 0)[2]) if is_input and -1 in shape else shape
            tensors.append(_Tensor(name, np.dtype(_DTYPES[dtype]), is_input, shape, largest))
        return tensors

    def _check(self, feeds: Mapping[str, AnyArray]) -> None:
        wanted = {tensor.name: tensor for tensor in self._tensors.values() if tensor.is_input}
        if feeds.keys() != wanted.keys():
            raise BackendError(f"{self.name} takes {sorted(wanted)}, got {sorted(feeds)}; export again")
        for name, tensor in wanted.items():
            array = feeds[name]
            if array.dtype != tensor.dtype or not tensor.takes(array.shape):
                raise BackendError(
                    f"{self.name} takes {name!r} as {tensor.dtype} {tensor.shape} (-1: up to {tensor.largest}), got "
                    f"{array.dtype} {array.shape}; export with a larger batch, or give smaller ones"
                )

    def _reshape(self, shapes: Mapping[str, Shape]) -> None:
        """Tell the context the inputs' shapes and make room for all tensors; captured graphs are void after it."""
        self._drop_graph()
        for tensor in self._tensors.values():
            tensor.current = None  # until all is well
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._trt.failure(f"does not take {name!r} as {shape}", "export with a larger batch")
        for tensor in self._tensors.values():
            shape = shapes[tensor.name] if tensor.is_input else tuple(self._context.get_tensor_shape(tensor.name))
            if -1 in shape:
                raise BackendError(f"{self.name}: the shape of {tensor.name!r} depends on the picture; export again")
            tensor.make_room(shape, self._cuda)
            if not self._context.set_tensor_address(tensor.name, tensor.address):
                raise self._trt.failure(f"does not take an address for {tensor.name!r}", "restart the station")
            tensor.current = shape

    def _go(self) -> None:
        """Queue one frame: plain twice, captured once, launched from then on."""
        if self._graph is None and self._own_graphs and self._runs_of_shape == _WARM_UPS:
            self._capture()
        if self._graph is None:
            self._queue()
        else:
            self._cuda.launch(self._graph, self._stream)
        self._runs_of_shape += 1

    def _capture(self) -> None:
        """Record a frame as a graph; where that fails frames go on one by one."""
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._queue()
            except BackendError:
                self._discard_capture()
                raise
            self._graph = self._cuda.end_capture(self._stream)
        except BackendError as exc:
            self._own_graphs = False
            logger.warning("%s runs without a CUDA graph: %s", self.name, exc)

    def _discard_capture(self) -> None:
        try:
            self._cuda.free_graph(self._cuda.end_capture(self._stream))
        except BackendError:  # what spoiled the capture is being raised already
            logger.debug("the spoiled capture could not be ended cleanly", exc_info=True)

    def _queue(self) -> None:
        """The frame's work in the order it is done."""
        inputs = [tensor for tensor in self._tensors.values() if tensor.is_input]
        outputs = [tensor for tensor in self._tensors.values() if not tensor.is_input]
        for tensor in inputs:
            self._cuda.to_device(tensor.address, tensor.used, self._stream)
        if not self._context.execute_async_v3(self._cuda.handle(self._stream)):
            raise self._trt.failure("failed on a frame", "restart the station; if it comes again, see dmesg")
        for tensor in outputs:
            self._cuda.to_host(tensor.used, tensor.address, self._stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.free_graph(self._graph)
        self._graph, self._runs_of_shape = None, 0


@dataclass(slots=True)
class _Tensor:
    """One input or output and its memory on both sides.

    Attributes:
        shape: as the engine declares it; -1 where it is open.
        largest: the most that an input's profile allows.
        current: the shape of the frame in hand; None before the first one.
        address: of the device's memory; 0 before the first frame.
        host: pinned memory of the same size; may be larger than the frame in hand needs.
    """

    name: str
    dtype: np.dtype[Any]
    is_input: bool
    shape: Shape
    largest: Shape
    current: Shape | None = None
    address: int = 0
    host: UInt8Array | None = None

    @property
    def used(self) -> UInt8Array:
        """The pinned bytes of the frame in hand."""
        assert self.host is not None
        assert self.current is not None
        return self.host[: prod(self.current) * self.dtype.itemsize]

    @property
    def view(self) -> AnyArray:
        """The same as an array; it dies with the memory."""
        assert self.current is not None
        return self.used.view(self.dtype).reshape(self.current)

    def takes(self, shape: Shape) -> bool:
        """Whether an input may have this shape."""
        return len(shape) == len(self.shape) and all(
            got == side if side != -1 else 1 <= got <= most
            for got, side, most in zip(shape, self.shape, self.largest, strict=True)
        )

    def make_room(self, shape: Shape, cuda: Cuda) -> None:
        """Keep the memory if the shape fits into it, else replace it."""
        nbytes = max(1, prod(shape) * self.dtype.itemsize)
        if self.host is None or self.host.nbytes < nbytes:
            self.free(cuda)
            self.address = cuda.allocate(nbytes)
            self.host = cuda.pinned(nbytes)

    def free(self, cuda: Cuda) -> None:
        """Give both memories back."""
        address, host = self.address, self.host
        self.address, self.host, self.current = 0, None, None
        if address:
            cuda.free(address)
        if host is not None:
            cuda.free_pinned(host)
