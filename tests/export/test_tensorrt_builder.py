"""One builder for TensorRT 8.6, 10, 11 and RTX, driven by doubles of each and by the real RTX where it is."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from trt_versions import SIZE_HW, VERSIONS, Kind, flavour_of, graph, install, pictures

from mapl_edge.bundle import open_bundle
from mapl_edge.errors import BackendError, BackendUnavailable, ContractMismatch, MaplEdgeError, OutputError
from mapl_edge.export.search_graph import search_in_form
from mapl_edge.export.tensorrt_builder import Precision, engine_from_onnx
from mapl_edge.runtime.cuda_memory import open_cuda
from mapl_edge.runtime.tensorrt_session import TensorRtSession
from mapl_edge.testing import FakeTensorRt

Build = Callable[..., FakeTensorRt]

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is missing: pip install 'mapl-edge[rtx]'"
)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each TensorRT in turn."""
    return str(request.param)


@pytest.fixture
def build(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build out.engine of a small graph with the double of a version; `fail` and `device` prepare the double."""

    def build(kind: Kind = "fp32", fail: str = "", device: str | None = "sm89", **options: object) -> FakeTensorRt:
        trt, _ = install(monkeypatch, version, device)
        if fail:
            trt.fail["build"] = fail
        options = {"precision": kind if kind in ("fp16", "int8") else "fp32", "size_hw": SIZE_HW} | options
        path = graph(tmp_path / "model.onnx", kind)
        engine_from_onnx(path, tmp_path / "out.engine", flavour=flavour_of(version), **options)  # type: ignore[arg-type]
        return trt

    return build


def rtx(version: str) -> bool:
    """Whether it is TensorRT for RTX."""
    return flavour_of(version) == "tensorrt_rtx"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_every_precision(build: Build, tmp_path: Path, precision: Precision) -> None:
    """The same code; the double refuses each name that its version does not have."""
    build(precision)

    assert (tmp_path / "out.engine").stat().st_size > 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precision_flags_are_set_only_without_strong_typing(build: Build, version: str, precision: Precision) -> None:
    """A strongly typed network refuses them; a weakly typed one would silently run in float32 without."""
    trt = build(precision)

    assert ("IBuilderConfig.set_flag" in trt.used) == (version == "8.6.1")


def test_fp32_is_not_tf32(build: Build) -> None:
    """The engine that all others are compared with keeps all 23 bits."""
    assert "IBuilderConfig.clear_flag" in build("fp32").used


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_float32_graph_is_not_called_something_else(
    build: Build, version: str, tmp_path: Path, precision: Precision
) -> None:
    """It would build without complaint and be slow for ever after."""
    if precision == "fp16" and version == "8.6.1":
        pytest.skip("8.6 makes fp16 of a float32 graph by itself")

    with pytest.raises(BackendError, match=f"holds no {precision} layers"):
        build("fp32", precision=precision)
    assert not (tmp_path / "out.engine").exists()


@pytest.mark.parametrize(
    ("kind", "node", "operator"),
    [("unknown op", "node_sparkle", "Sparkle"), ("uint8 slice", "node_flip", "Slice")],
)
def test_a_refused_node_is_named(build: Build, kind: Kind, node: str, operator: str) -> None:
    """8.6 tells only the node's number, which says nothing to anybody."""
    with pytest.raises(
        BackendError, match=rf"does not take node '{node}' \({operator}\) of .*; export the model again"
    ):
        build(kind)


@pytest.mark.parametrize("content", [b"", b"not a graph" * 50], ids=["empty", "garbage"])
def test_a_file_that_is_no_graph_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """One line, and no engine."""
    install(monkeypatch, version)
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(BackendError, match=r"model\.onnx.*; export"):
        engine_from_onnx(tmp_path / "model.onnx", tmp_path / "out.engine", flavour=flavour_of(version), size_hw=SIZE_HW)


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (
            "Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)",
            BackendError,
            "memory ran out; .*memory_mb",
        ),
        (
            "Error Code 1: Cuda Runtime (cudaError 100: no CUDA-capable device is detected)",
            BackendUnavailable,
            "no NVID",
        ),
        ("CUDA driver version is insufficient for CUDA runtime version", BackendUnavailable, "update the driver"),
        (
            "Error Code 10: Could not find any implementation for node X.",
            BackendError,
            "implementation for node X.; set",
        ),
    ],
    ids=["memory", "no GPU", "old driver", "anything else"],
)
def test_a_failed_build_says_why(build: Build, tmp_path: Path, said: str, error: type[BackendError], told: str) -> None:
    """TensorRT answers None; the reason is in its log."""
    with pytest.raises(error, match=told):
        build(fail=said)
    assert not list(tmp_path.glob("*out*")), "nothing half-made stays"


def test_without_a_gpu_only_rtx_builds_and_only_ahead_of_time(build: Build, version: str, tmp_path: Path) -> None:
    """The full library's very Builder needs a driver."""
    with pytest.raises(BackendUnavailable, match="driver"):
        build(device=None)

    if rtx(version):
        build(device=None, target="sm86")
        assert b'"target": "sm86"' in (tmp_path / "out.engine").read_bytes()


def test_a_target_that_cannot_be_built_for_is_refused(build: Build, version: str) -> None:
    """Orin is sm87, which RTX does not have; the full library builds for the GPU that it runs on."""
    told = r"'sm87'; it knows sm120, .*sm89" if rtx(version) else "only for the GPU it runs on, not for sm87"

    with pytest.raises(BackendError, match=told):
        build(target="sm87")


def test_pictures_of_another_size_are_refused(build: Build) -> None:
    """Height and width swapped would build a useless engine."""
    with pytest.raises(ContractMismatch, match="8x6 px"):
        build(size_hw=SIZE_HW[::-1])


def test_an_engine_is_never_overwritten(build: Build, tmp_path: Path) -> None:
    """And the refusal comes before the minutes of building."""
    (tmp_path / "out.engine").write_bytes(b"precious")

    with pytest.raises(OutputError, match="exists"):
        build()
    assert (tmp_path / "out.engine").read_bytes() == b"precious"


def test_timing_cache_grows_from_build_to_build(build: Build, version: str, tmp_path: Path) -> None:
    """RTX times nothing, so there the file is left alone."""
    cache = tmp_path / "timing.cache"
    sizes = []
    for _ in range(2):
        build(timing_cache=cache)
        (tmp_path / "out.engine").unlink()
        sizes.append(cache.stat().st_size if cache.exists() else 0)

    assert sizes == [0, 0] if rtx(version) else 0 < sizes[0] < sizes[1]


def test_a_foreign_timing_cache_is_begun_anew(build: Build, tmp_path: Path) -> None:
    """It is a cache: it must never be the reason why there is no engine."""
    (tmp_path / "timing.cache").write_bytes(b"of another GPU")

    build(timing_cache=tmp_path / "timing.cache")

    assert (tmp_path / "out.engine").exists()


def test_a_missing_library_names_its_extra(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to type, not a traceback."""
    monkeypatch.setitem(sys.modules, flavour_of(version), None)
    extra = "rtx" if rtx(version) else "tensorrt"

    with pytest.raises(BackendUnavailable, match=rf"is not installed; pip install 'mapl-edge\[{extra}\]'"):
        engine_from_onnx(tmp_path / "m.onnx", tmp_path / "e", flavour=flavour_of(version), size_hw=SIZE_HW)


def test_a_library_that_does_not_load_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bindings come without their libraries where a mirror holds only some of the packages."""
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    with pytest.raises(BackendUnavailable, match=r"installed but its libraries do not load: libnvinfer\.so\.10"):
        engine_from_onnx(tmp_path / "m.onnx", tmp_path / "e", flavour="tensorrt", size_hw=SIZE_HW)


@needs_rtx
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_real_rtx_builds_for_another_gpu(tmp_path: Path, kind: Precision) -> None:
    """Ahead of time, without a GPU, with an open batch."""
    out = tmp_path / "out.engine"
    path = graph(tmp_path / "model.onnx", kind)

    engine_from_onnx(path, out, flavour="tensorrt_rtx", precision=kind, target="sm89", memory_mb=256, size_hw=SIZE_HW)

    assert out.stat().st_size > 1000


@needs_rtx
def test_real_rtx_takes_the_graph_of_a_bundle(calibrated: Path, tmp_path: Path) -> None:
    """Every operator that we export, uint8 input included, and then what the file says where there is no GPU."""
    bundle, plain, out = open_bundle(calibrated), tmp_path / "plain.onnx", tmp_path / "out.engine"
    assert search_in_form(bundle.model_path, plain, "float")

    engine_from_onnx(plain, out, flavour="tensorrt_rtx", target="sm89", size_hw=bundle.contract.size_hw)

    assert out.stat().st_size > plain.stat().st_size / 2
    half = tmp_path / "half.engine"
    half.write_bytes(out.read_bytes()[: out.stat().st_size // 2])
    with pytest.raises(BackendError, match="truncated or no engine of this library"):
        TensorRtSession(half, flavour="tensorrt_rtx")
    try:
        open_cuda()
    except MaplEdgeError:
        with pytest.raises(BackendUnavailable, match=r"cannot load .*driver"):
            TensorRtSession(out, flavour="tensorrt_rtx")


@needs_rtx
def test_real_rtx_names_the_node_it_refuses(tmp_path: Path) -> None:
    """The doubles say what the real library says."""
    path = graph(tmp_path / "model.onnx", "unknown op")

    with pytest.raises(BackendError, match=r"does not take node 'node_sparkle' \(Sparkle\)"):
        engine_from_onnx(path, tmp_path / "e", flavour="tensorrt_rtx", target="sm89", size_hw=SIZE_HW)


@needs_rtx
def test_real_rtx_refuses_what_is_no_graph(tmp_path: Path) -> None:
    """It parses some garbage without complaint, as a network of nothing."""
    (tmp_path / "m.onnx").write_bytes(b"hello" * 100)

    with pytest.raises(BackendError, match="export"):
        engine_from_onnx(tmp_path / "m.onnx", tmp_path / "e", flavour="tensorrt_rtx", target="sm89", size_hw=SIZE_HW)


@needs_rtx
def test_real_rtx_takes_uint8_into_a_cast_only(tmp_path: Path) -> None:
    """Why the export casts before it turns BGR round."""
    path = graph(tmp_path / "model.onnx", "uint8 slice")

    with pytest.raises(BackendError, match=r"node 'node_flip' \(Slice\).*UINT8"):
        engine_from_onnx(path, tmp_path / "e", flavour="tensorrt_rtx", target="sm89", size_hw=SIZE_HW)


def test_only_the_batch_may_be_open(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile needs numbers, and only the contract has them."""
    install(monkeypatch, version)
    model = onnx.load(graph(tmp_path / "model.onnx"))
    image = model.graph.input[0]
    image.CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 8, "width", 4]))
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(BackendError, match="only its batch may be open"):
        engine_from_onnx(tmp_path / "model.onnx", tmp_path / "e", flavour=flavour_of(version), size_hw=SIZE_HW)


def test_the_batch_is_limited_as_asked(build: Build, version: str, tmp_path: Path) -> None:
    """The engine answers up to max_batch pictures and refuses more by name."""
    build(max_batch=3)
    session = TensorRtSession(tmp_path / "out.engine", flavour=flavour_of(version))

    assert len(session.run(pictures(3))["score"]) == 3
    with pytest.raises(BackendError, match=r"up to \(3, 8, 6, 3\).*got uint8 \(4, 8, 6, 3\)"):
        session.run(pictures(4))
