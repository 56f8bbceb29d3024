"""TensorRT engines from ONNX: one code for TensorRT 8.6, 10, 11 and TensorRT for RTX.

What a version offers is asked of it, never derived from its number. Where networks are strongly typed the precision is
that of the graph (float32, an fp16 graph, QDQ for int8); where they are not, the builder is told to use it too.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mapl_edge.errors import BackendError, ContractMismatch
from mapl_edge.files import check_absent, new_file
from mapl_edge.tensorrt_library import Flavour, TensorRt

logger = logging.getLogger(__name__)

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

_GRAPH_OF = {"fp16": "an fp16 graph", "int8": "a graph with QuantizeLinear and DequantizeLinear nodes"}


def engine_from_onnx(
    onnx: Path,
    out: Path,
    *,
    flavour: Flavour,
    precision: Precision = "fp32",
    target: str | None = None,
    memory_mb: int | None = None,
    timing_cache: Path | None = None,
    size_hw: tuple[int, int],
    max_batch: int = 8,
) -> None:
    """Build one engine and write it to `out`, whole or not at all.

    Args:
        onnx: the graph, already in its precision: float32, fp16, or int8 as QDQ.
        out: the engine's file; it must not exist.
        flavour: "tensorrt" or "tensorrt_rtx".
        precision: of the kernels; "fp32" is IEEE, with TF32 switched off. Inputs and outputs keep the graph's types.
        target: GPU to build ahead of time for, like "sm89", which needs no GPU (TensorRT for RTX only); None: the GPU
            of this machine.
        memory_mb: most GPU memory for scratch; None leaves it to the library.
        timing_cache: read if it is there and written after the build, so that the next one is faster and chooses the
            same kernels. TensorRT for RTX measures nothing while it builds and leaves the file alone.
        size_hw: height and width of prepared pictures.
        max_batch: the engine takes 1 to this many pictures at once and is tuned for one.

    Raises:
        BackendUnavailable: the library is not installed, or there is no GPU or driver and `target` is None.
        BackendError: the library refuses the graph (the message names the node), memory runs out, `target` is unknown.
        ContractMismatch: the graph takes pictures of another size.
        OutputError: `out` exists or cannot be written.
    """
    check_absent(out)
    trt = TensorRt(flavour)
    if _ahead_of_time(trt.api):
        timing_cache = None
    started = time.monotonic()
    with trt.errors(f"cannot build an engine of {onnx}", "set backend: onnx, or report this line"):
        builder = trt.api.Builder(trt.log)
        network = builder.create_network(_creation_flags(trt.api))
        _parse(trt, network, onnx)
        _check_precision(trt, network, precision, onnx)
        config = builder.create_builder_config()
        _set_precision(trt.api, config, precision)
        _set_target(trt, config, target)
        if memory_mb is not None:
            config.set_memory_pool_limit(trt.api.MemoryPoolType.WORKSPACE, memory_mb << 20)
        _add_profile(builder, network, config, size_hw, max_batch)
        if timing_cache is not None:
            _load_timing_cache(trt, config, timing_cache)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise trt.failure(f"cannot build an engine of {onnx}", "set backend: onnx, or report this line")
        with new_file(out) as work:
            work.write_bytes(engine)
        if timing_cache is not None:
            _save_timing_cache(config, timing_cache)
    seconds = time.monotonic() - started
    logger.info("%s built %s (%s, %s) in %.1f s", trt.name, out, precision, target or "this GPU", seconds)


def _creation_flags(api: Any) -> int:
    """Explicit batch is a flag up to 10, strong typing one from 10 on; later neither may need saying."""
    flags = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        if hasattr(api.NetworkDefinitionCreationFlag, name):
            flags |= 1 << int(getattr(api.NetworkDefinitionCreationFlag, name))
    return flags


def _strongly_typed(api: Any) -> bool:
    return hasattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _ahead_of_time(api: Any) -> bool:
    """Whether it builds for GPUs that are not here, as RTX does: nothing is timed then."""
    return hasattr(api, "ComputeCapability")


def _parse(trt: TensorRt, network: Any, path: Path) -> None:
    parser = trt.api.OnnxParser(network, trt.log)
    graph = _bytes_of(path)
    if parser.parse(graph, str(path)):
        if not network.num_outputs:
            raise BackendError(f"{path} holds no ONNX graph; export again")
        return
    if not parser.num_errors:
        raise trt.failure(f"cannot read {path}", "export again")
    error = parser.get_error(0)
    node, op = _node_and_op(error, graph)
    where = f"node {node!r} ({op}) of {path}" if op else f"{path}"
    reason = " ".join(error.desc().split()).removeprefix("Assertion failed: ")[:200]
    raise BackendError(
        f"{trt.name} does not take {where}: {reason}; export the model again, use a newer TensorRT or set backend: onnx"
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BackendError(f"cannot read {path}: {exc.strerror}; export again") from exc


def _node_and_op(error: Any, graph: bytes) -> tuple[str, str]:
    """Name and operator of the node that was refused; both empty where the file itself is."""
    if hasattr(error, "node_name"):
        return error.node_name() or str(error.node()), error.node_operator()
    try:  # up to 8.6 the parser tells only the node's number
        import onnx

        node = onnx.load_from_string(graph).graph.node[error.node()]
    except Exception:  # no onnx here, or no graph: the number is all there is
        return str(error.node()), "operator unknown" if error.node() >= 0 else ""
    return node.name or str(error.node()), node.op_type


def _check_precision(trt: TensorRt, network: Any, precision: Precision, path: Path) -> None:
    """A float32 graph would build without complaint and be called fp16 or int8 ever after."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    if precision == "int8":
        present = any(layer.type == trt.api.LayerType.DEQUANTIZE for layer in layers)
    elif precision == "fp16" and _strongly_typed(trt.api):
        half = trt.api.DataType.HALF
        present = any(layer.get_output(i).dtype == half for layer in layers for i in range(layer.num_outputs))
    else:
        return
    if not present:
        raise BackendError(
            f"{path} holds no {precision} layers; {trt.name} needs {_GRAPH_OF[precision]} for {precision}"
        )


def _set_precision(api: Any, config: Any, precision: Precision) -> None:
    if precision == "fp32":
        config.clear_flag(api.BuilderFlag.TF32)
    elif not _strongly_typed(api):
        config.set_flag(getattr(api.BuilderFlag, precision.upper()))


def _set_target(trt: TensorRt, config: Any, target: str | None) -> None:
    if not _ahead_of_time(trt.api):
        if target is not None:
            raise BackendError(
                f"{trt.name} builds only for the GPU it runs on, not for {target}; build there, or ahead of time with "
                "tensorrt_rtx"
            )
        return
    known = {name.lower(): value for name, value in trt.api.ComputeCapability.__members__.items()}
    here = known.pop("current")
    known.pop("none", None)
    if target is not None and target.lower() not in known:
        raise BackendError(f"{trt.name} cannot build for {target!r}; it knows {', '.join(sorted(known))}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(here if target is None else known[target.lower()], 0)


def _add_profile(builder: Any, network: Any, config: Any, size_hw: tuple[int, int], max_batch: int) -> None:
    """Say the smallest, usual and largest shape of each input whose shape is open."""
    profile, dynamic = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        name, shape = tensor.name, tuple(tensor.shape)
        rest = _rest_of_shape(name, shape, size_hw)
        if -1 in shape:
            batches = (1, 1, max_batch) if shape[0] == -1 else (shape[0],) * 3
            profile.set_shape(name, *((batch, *rest) for batch in batches))
            dynamic = True
    if dynamic:
        config.add_optimization_profile(profile)


def _rest_of_shape(name: str, shape: tuple[int, ...], size_hw: tuple[int, int]) -> tuple[int, ...]:
    """The shape of one sample: pictures (H, W, 3) have the contract's size, everything else must be fixed."""
    rest = shape[1:]
    if len(rest) == 3 and rest[2] == 3:
        if any(side not in (-1, expected) for side, expected in zip(rest[:2], size_hw, strict=True)):
            raise ContractMismatch(
                f"input {name!r} takes pictures of {rest[0]}x{rest[1]} px, the contract is {size_hw}"
            )
        return (*size_hw, 3)
    if -1 in rest:
        raise BackendError(f"input {name!r} has the shape {shape}; only its batch may be open: export again")
    return rest


def _load_timing_cache(trt: TensorRt, config: Any, path: Path) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        logger.warning("timing cache %s is of another GPU or TensorRT; it is begun anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)
    trt.forget()  # what it said of the cache is not why a build fails


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with new_file(path, overwrite=True) as work:
            work.write_bytes(cache.serialize())
