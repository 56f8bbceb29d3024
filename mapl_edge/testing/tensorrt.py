"""TensorRT without a GPU: a module that offers the names of one real version and no other, whose engines really answer.

    trt = FakeTensorRt(json.loads(Path("11.4.0.json").read_text()), cuda := FakeCuda())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)

A listing is a mapping from the names in a real module to what they hold: `{"enum": [members]}` for an enumeration,
`{method or property: signature}` for a class, and `"version"`. A name that is not listed is an AttributeError, as in
the real module; a listed one that the fake lacks is a NotImplementedError, so that `hasattr` cannot miss it.

An engine is the ONNX file with a header; it runs in ONNX Runtime. Rules of the real libraries hold here too: uint8 goes
into nothing but a cast, an open shape needs a profile, a strongly typed network takes no precision flags, int64 is
int32 where there is no INT64, a captured graph is void once its context has changed.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from enum import IntEnum
from types import ModuleType
from typing import Any, cast

import numpy as np

from mapl_edge.testing.cuda import FakeCuda

Listing = Mapping[str, Any]

_ENUM = cast(Any, IntEnum)  # type checkers want to know the members
_MAGIC = b"fake-trt"
_NO_DRIVER = "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
_DTYPES = {
    "float": ("FLOAT", np.float32),
    "float16": ("HALF", np.float16),
    "int8": ("INT8", np.int8),
    "uint8": ("UINT8", np.uint8),
    "int32": ("INT32", np.int32),
    "int64": ("INT64", np.int64),
    "bool": ("BOOL", np.bool_),
}


class FakeTensorRt(ModuleType):
    """A stand-in for the module `tensorrt` or `tensorrt_rtx`.

    Args:
        listing: what the module offers.
        cuda: the CUDA that its engines run on.
        device: the GPU of this machine, like "sm89"; None: there is none.

    Attributes:
        used: "Class.name" of everything that was touched and is listed.
        fail: text that a step writes to the log before it answers None, by "build" or "deserialize" or "execute"; the
            step "capture" fails only while a graph is being captured.
    """

    def __init__(self, listing: Listing, cuda: FakeCuda | None = None, device: str | None = "sm89") -> None:
        super().__init__("tensorrt_rtx" if "ComputeCapability" in listing else "tensorrt")
        self.__version__ = str(listing["version"])
        self.cuda = cuda or FakeCuda()
        self.device = device
        self.used: set[str] = set()
        self.fail: dict[str, str] = {}
        self._listing = listing
        self._made: dict[str, Any] = {}
        self._ahead_of_time = "ComputeCapability" in listing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not isinstance(self._listing.get(name), Mapping):
            raise AttributeError(f"module {self.__name__!r} {self.__version__} has no attribute {name!r}")
        self.used.add(name)
        return self.make(name)

    def make(self, name: str) -> Any:
        """The class of this name, made on first sight. The fake's own way in; it is not recorded."""
        if name not in self._made:
            members = self._listing[name]
            if "enum" in members:
                self._made[name] = _ENUM(name, {member: i for i, member in enumerate(members["enum"])})
            elif name == "ILogger":
                self._made[name] = type(name, (_ILogger,), _severities(members))
            elif name in _CLASSES:
                self._made[name] = type(name, (_CLASSES[name],), {"_trt": self})
            else:
                raise NotImplementedError(f"{name} is in {self.__name__} {self.__version__} but not in this fake")
        return self._made[name]

    def dtype(self, onnx_type: str) -> Any:
        """The DataType of ONNX Runtime's "tensor(float)"."""
        name = _DTYPES[onnx_type.removeprefix("tensor(").removesuffix(")")][0]
        types = self.make("DataType")
        return types[name if name in types.__members__ else "INT32"]


class _Offered:
    """An object with the names that its class has in the listing, and no others."""

    _trt: FakeTensorRt

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            _touch(type(self), name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._trt._listing[type(self).__name__]:
            raise AttributeError(f"{type(self).__name__} of {self._trt.__version__} has no attribute {name!r}")
        raise NotImplementedError(f"{type(self).__name__}.{name} is listed but not in this fake")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            _touch(type(self), name)
        super().__setattr__(name, value)


def _touch(cls: type[_Offered], name: str) -> None:
    trt = cls._trt
    if name not in trt._listing[cls.__name__]:
        raise AttributeError(f"{cls.__name__} of {trt.__name__} {trt.__version__} has no attribute {name!r}")
    trt.used.add(f"{cls.__name__}.{name}")


class _ILogger:
    """To be derived from; without `log` nothing is said."""

    def __init__(self) -> None:
        self._derived = True  # the real one crashes unless its __init__ ran

    def log(self, severity: Any, message: str) -> None:
        """Overridden by users."""


def _severities(members: Mapping[str, Any]) -> dict[str, Any]:
    order = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    severity = _ENUM("Severity", {name: i for i, name in enumerate(order) if name in members})
    return dict(severity.__members__)


def _say(logger: Any, message: str) -> None:
    assert logger._derived, "call ILogger.__init__"
    logger.log(logger.ERROR, message)


def _need_gpu(trt: FakeTensorRt, logger: Any) -> bool:
    if trt.device is None:
        _say(logger, "CUDA initialization failure with error: 35. Please check your CUDA installation")
    return trt.device is not None


class _HostMemory(bytes):
    """What the library wrote; bytes for whoever takes a buffer."""

    @property
    def nbytes(self) -> int:
        return len(self)


class _Builder(_Offered):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if not self._trt._ahead_of_time and not _need_gpu(self._trt, logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.make("INetworkDefinition")(self, flags)

    def create_builder_config(self) -> Any:
        return self._trt.make("IBuilderConfig")()

    def create_optimization_profile(self) -> Any:
        return self._trt.make("IOptimizationProfile")()

    def build_serialized_network(self, network: Any, config: Any) -> _HostMemory | None:
        trt = self._trt
        problem = trt.fail.get("build") or self._problem(network, config)
        if problem:
            _say(self._logger, problem)
            return None
        onnx = network._onnx.SerializeToString()
        header = {
            "version": trt.__version__,
            "target": config._target(),
            "profile": config._shapes(),
            "size": len(onnx),
        }
        config._cache += b"one more kernel;"
        return _HostMemory(_MAGIC + json.dumps(header).encode() + b"\n" + onnx)

    def _problem(self, network: Any, config: Any) -> str | None:
        if config._target() is None:
            return _NO_DRIVER
        if network._strong and config._flags & {"FP16", "INT8"}:
            return "Error Code 3: API Usage Error (a strongly typed network takes no precision flags)"
        for i in range(len(network._inputs())):
            name, shape = network._inputs()[i]
            low, _, high = config._shapes().get(name, (shape, shape, shape))
            if -1 in low:
                return (
                    "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no optimization profile)"
                )
            if any(side not in (-1, a) or side not in (-1, b) for side, a, b in zip(shape, low, high, strict=True)):
                return f"Error Code 4: the profile of {name} does not fit {shape}"
        return None


class _INetworkDefinition(_Offered):
    def __init__(self, builder: Any, flags: int) -> None:
        known = self._trt.make("NetworkDefinitionCreationFlag").__members__
        self._strong = "STRONGLY_TYPED" in known and bool(flags >> known["STRONGLY_TYPED"] & 1)
        self._explicit = "EXPLICIT_BATCH" not in known or bool(flags >> known["EXPLICIT_BATCH"] & 1)
        self._builder, self._onnx = builder, _no_graph()
        self._types: dict[str, Any] = {}

    @property
    def num_inputs(self) -> int:
        return len(self._inputs())

    @property
    def num_outputs(self) -> int:
        return len(self._onnx.graph.output)

    @property
    def num_layers(self) -> int:
        return len(self._onnx.graph.node)

    def get_input(self, index: int) -> Any:
        name, shape = self._inputs()[index]
        return self._trt.make("ITensor")(name, shape, self._types[name])

    def get_layer(self, index: int) -> Any:
        return self._trt.make("ILayer")(self, self._onnx.graph.node[index])

    def _inputs(self) -> list[tuple[str, tuple[int, ...]]]:
        return [
            (tensor.name, tuple(side.dim_value or -1 for side in tensor.type.tensor_type.shape.dim))
            for tensor in self._onnx.graph.input
        ]

    def _take(self, model: Any) -> None:
        import onnx

        self._onnx = model
        names = {value: key.lower() for key, value in onnx.TensorProto.DataType.items()}
        graph = onnx.shape_inference.infer_shapes(model).graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = names[value.type.tensor_type.elem_type]
            if kind in _DTYPES:
                self._types[value.name] = self._trt.dtype(f"tensor({kind})")


class _ITensor(_Offered):
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class _ILayer(_Offered):
    def __init__(self, network: Any, node: Any) -> None:
        self._network, self._node = network, node

    @property
    def type(self) -> Any:
        kinds = self._trt.make("LayerType").__members__
        names = {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Conv": "CONVOLUTION"}
        return kinds[names.get(self._node.op_type, "IDENTITY")]

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)

    def get_output(self, index: int) -> Any:
        name = self._node.output[index]
        return self._trt.make("ITensor")(name, (), self._network._types.get(name))


def _no_graph() -> Any:
    import onnx

    return onnx.ModelProto()


class _OnnxParser(_Offered):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        try:
            graph = onnx.load_from_string(model)
        except Exception:  # protobuf's, which has no types
            graph = None
        if graph is None or not graph.graph.node:
            self._refuse(-1, "", "", "Failed to parse the ONNX model.")
            return False
        uint8 = {t.name for t in graph.graph.input if t.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
        if not self._network._explicit:
            self._refuse(-1, "", "", "This version of the ONNX parser only supports networks with an explicit batch")
        for i, node in enumerate(graph.graph.node):
            if not onnx.defs.has(node.op_type, node.domain):
                self._refuse(i, node.name, node.op_type, f'creator && "Plugin not found: {node.op_type}"')
            elif uint8 & set(node.input) and node.op_type != "Cast":
                self._refuse(i, node.name, node.op_type, "Found unsupported input type of UINT8")
        if not self._errors:
            self._network._take(graph)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def _refuse(self, node: int, name: str, operator: str, text: str) -> None:
        _say(self._logger, f"ModelImporter.cpp:142: {text}")
        self._errors.append(self._trt.make("ParserError")(node, name, operator, f"Assertion failed: {text}"))


class _ParserError(_Offered):
    def __init__(self, node: int, name: str, operator: str, text: str) -> None:
        self._all = node, name, operator, text

    def node(self) -> int:
        return self._all[0]

    def node_name(self) -> str:
        return self._all[1]

    def node_operator(self) -> str:
        return self._all[2]

    def desc(self) -> str:
        return self._all[3]


class _IOptimizationProfile(_Offered):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class _IBuilderConfig(_Offered):
    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._profiles: list[Any] = []
        self._cache = b""
        self._capability: Any = None
        self._limits: dict[Any, int] = {}

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache and not serialized_timing_cache.endswith(b";"):
            return None
        return self._trt.make("ITimingCache")(serialized_timing_cache)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache._content
        return True

    def get_timing_cache(self) -> Any:
        return self._trt.make("ITimingCache")(self._cache)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._capability = compute_capability
        return True

    num_compute_capabilities = 0

    def _target(self) -> str | None:
        if self._capability is None or self._capability.name == "CURRENT":
            return self._trt.device
        return str(self._capability.name).lower()

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        return self._profiles[0]._shapes if self._profiles else {}


class _ITimingCache(_Offered):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> _HostMemory:
        return _HostMemory(self._content)


class _Runtime(_Offered):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if not self._trt._ahead_of_time and not _need_gpu(self._trt, logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        problem = self._trt.fail.get("deserialize") or self._problem(serialized_engine)
        if problem:
            _say(self._logger, problem)
            return None
        header, _, onnx = serialized_engine[len(_MAGIC) :].partition(b"\n")
        return self._trt.make("ICudaEngine")(json.loads(header), onnx)

    def _problem(self, engine: bytes) -> str | None:
        if not engine.startswith(_MAGIC):
            return (
                "Error Code 1: Serialization (Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.)"
            )
        text, _, onnx = engine[len(_MAGIC) :].partition(b"\n")
        try:
            header = json.loads(text)
        except ValueError:
            return "Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.)"
        if header["size"] != len(onnx):
            return "Error Code 1: Serialization (Serialization assertion plan.header.size == blobSize failed.)"
        if header["version"] != self._trt.__version__:
            return (
                "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {self._trt.__version__} got {header['version']}, please rebuild.)"
            )
        if self._trt.device is None:
            return _NO_DRIVER
        if header["target"] != self._trt.device:
            return (
                "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                f"expecting compute {self._trt.device} got compute {header['target']}, please rebuild.)"
            )
        return None


class _ICudaEngine(_Offered):
    def __init__(self, header: Mapping[str, Any], onnx: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._profile = header["profile"]
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._all = {tensor.name: tensor for tensor in (*self._session.get_inputs(), *self._session.get_outputs())}

    @property
    def num_io_tensors(self) -> int:
        return len(self._all)

    def get_tensor_name(self, index: int) -> str:
        name: str = list(self._all)[index]
        return name

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.make("TensorIOMode")["INPUT" if name in self._inputs else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.dtype(self._all[name].type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._all[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profile[name]]

    def create_runtime_config(self) -> Any:
        return self._trt.make("IRuntimeConfig")()

    def create_execution_context(self, config: Any = None) -> Any:
        return self._trt.make("IExecutionContext")(self)


class _IRuntimeConfig(_Offered):
    cuda_graph_strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None


class _IExecutionContext(_Offered):
    def __init__(self, engine: Any) -> None:
        self._engine, self._changes = engine, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine._profile.get(name, (shape, shape, shape))
        fits = all(a <= side <= b for a, side, b in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name], self._changes = tuple(shape), self._changes + 1
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0]
        shape = self._engine._all[name].shape
        return self._shapes.get(name) or tuple(side if isinstance(side, int) else batch for side in shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name], self._changes = memory, self._changes + 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, stream = self._trt, self._trt.cuda.streams[stream_handle]
        if "execute" in trt.fail or (stream.recording is not None and "capture" in trt.fail):
            return False
        changes = self._changes
        shapes = {name: _Offered.__getattribute__(self, "get_tensor_shape")(name) for name in self._engine._all}

        def work() -> None:
            assert changes == self._changes, "a captured graph was launched after its context had changed"
            arrays = {name: _array(self._addresses[name], shape, self._numpy(name)) for name, shape in shapes.items()}
            feeds = {name: arrays[name] for name in self._engine._inputs}
            outputs = [name for name in arrays if name not in feeds]
            for name, value in zip(outputs, self._engine._session.run(outputs, feeds), strict=True):
                arrays[name][...] = value

        stream.submit(work)
        return True

    def _numpy(self, name: str) -> Any:
        dtype = self._trt.dtype(self._engine._all[name].type).name
        return next(numpy for trt, numpy in _DTYPES.values() if trt == dtype)


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """The bytes at an address as an array; writing to it writes there."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), dtype).reshape(shape)


_CLASSES = {name[1:]: value for name, value in vars().copy().items() if isinstance(value, type) and name[:1] == "_"}
