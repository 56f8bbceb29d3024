"""One session for TensorRT 8.6, 10, 11 and RTX: ONNX Runtime's answers, memory kept, graphs captured, files refused."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from trt_versions import SIZE_HW, VERSIONS, flavour_of, graph, install, pictures

from mapl_edge.bundle import open_bundle
from mapl_edge.errors import BackendError, BackendUnavailable
from mapl_edge.export.tensorrt_builder import engine_from_onnx
from mapl_edge.runtime.tensorrt_session import TensorRtSession
from mapl_edge.testing import FakeCuda, FakePyCuda, FakeTensorRt
from mapl_edge.testing.cuda import cudaError_t

Answer = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each TensorRT in turn."""
    return str(request.param)


@pytest.fixture
def doubles(version: str, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeTensorRt, FakeCuda]:
    """TensorRT and CUDA of this test."""
    return install(monkeypatch, version)


@pytest.fixture
def engine_path(doubles: tuple[FakeTensorRt, FakeCuda], version: str, tmp_path: Path) -> Path:
    """An engine of the small graph for batches of up to 8."""
    out = tmp_path / "a.engine"
    engine_from_onnx(graph(tmp_path / "model.onnx"), out, flavour=flavour_of(version), size_hw=SIZE_HW)
    return out


@pytest.fixture
def session(engine_path: Path, version: str) -> Iterator[TensorRtSession]:
    """The engine, open."""
    opened = TensorRtSession(engine_path, flavour=flavour_of(version))
    yield opened
    opened.close()


@pytest.fixture
def truth(engine_path: Path) -> Answer:
    """ONNX Runtime's answers on the same graph."""
    reference = onnxruntime.InferenceSession(engine_path.with_name("model.onnx"))
    names = [output.name for output in reference.get_outputs()]
    return lambda feeds: dict(zip(names, reference.run(names, feeds), strict=True))


def check(answers: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, shapes and numbers; 8.6 has no int64."""
    assert answers.keys() == expected.keys()
    for name, array in expected.items():
        assert answers[name].shape == array.shape
        np.testing.assert_array_equal(answers[name], array)


def test_answers_are_the_references(session: TensorRtSession, truth: Answer) -> None:
    """On every frame: plain, while captured, from the graph, and for each batch again."""
    for seed, batch in enumerate([1, 1, 1, 1, 3, 3, 3, 3, 2, 1, 8]):
        feeds = pictures(batch, seed)

        check(session.run(feeds), truth(feeds))


def test_a_bundles_graph_answers_as_in_onnx_runtime(
    doubles: tuple[FakeTensorRt, FakeCuda], version: str, calibrated: Path, tmp_path: Path
) -> None:
    """The real model's tensors go through with their names, types and shapes."""
    bundle = open_bundle(calibrated)
    golden = bundle.golden()
    engine_from_onnx(
        bundle.model_path, tmp_path / "e", flavour=flavour_of(version), size_hw=bundle.contract.size_hw, max_batch=2
    )
    session = TensorRtSession(tmp_path / "e", flavour=flavour_of(version))

    for i in range(4):
        answers = session.run({"image": golden.pictures[:1]})
        assert abs(float(answers["score"][0]) - golden.scores[0]) < 1e-4, i
    assert answers["map"].shape == (1, *bundle.contract.size_hw)
    session.close()


def test_it_tells_its_inputs_and_its_name(session: TensorRtSession, version: str) -> None:
    """None is an open side, as in every session; the name is for the log and the verdict's reader."""
    assert session.inputs == {"image": (None, *SIZE_HW, 3)}
    assert session.name.startswith(f"{flavour_of(version)} {version.removeprefix('rtx-')}")
    assert session.name.endswith("Fake GPU")


def test_memory_is_taken_once_and_grows_with_the_batch(
    session: TensorRtSession, doubles: tuple[FakeTensorRt, FakeCuda]
) -> None:
    """Allocating on the frame path would cost more than the frame."""
    _, cuda = doubles
    taken = []
    for batch in (2, 2, 1, 2, 3, 1):
        session.run(pictures(batch))
        taken.append((cuda.calls.count("cudaMalloc"), cuda.calls.count("cudaMallocHost"), len(cuda.memory)))

    assert taken == [(4, 4, 8)] * 4 + [(8, 8, 8)] * 2


def test_answers_stay_when_the_next_frame_comes(session: TensorRtSession) -> None:
    """They are the caller's, not views of a buffer that is written again."""
    first = session.run(pictures(1, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    session.run(pictures(1, seed=2))
    session.close()

    for name in kept:
        np.testing.assert_array_equal(first[name], kept[name])


def test_graph_is_captured_after_the_warm_up_and_void_with_its_shape(
    session: TensorRtSession, doubles: tuple[FakeTensorRt, FakeCuda], version: str
) -> None:
    """RTX is told to capture by itself: only it knows when its kernels are final."""
    _, cuda = doubles
    launches = []
    for batch in (1, 1, 1, 1, 2, 2, 2, 1):
        session.run(pictures(batch))
        launches.append(cuda.calls.count("cudaGraphLaunch"))

    assert launches == ([0] * 8 if "rtx" in version else [0, 0, 1, 2, 2, 2, 3, 3])
    assert not cuda.graphs, "the last shape has not been captured yet, and the others' graphs are gone"


@pytest.mark.parametrize(
    "function", ["execute", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_where_no_graph_can_be_captured_frames_go_on_without(
    session: TensorRtSession,
    doubles: tuple[FakeTensorRt, FakeCuda],
    truth: Answer,
    version: str,
    function: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A graph is for speed; the answer comes either way, and the log says once why it is slower."""
    trt, cuda = doubles
    if function == "execute":
        trt.fail["capture"] = "refused"
    else:
        cuda.fail[function] = cudaError_t.cudaErrorStreamCaptureUnsupported

    for seed in range(5):
        feeds = pictures(1, seed)
        check(session.run(feeds), truth(feeds))
    assert caplog.text.count("runs without a CUDA graph") == (0 if "rtx" in version else 1)


def test_everything_is_given_back(session: TensorRtSession, doubles: tuple[FakeTensorRt, FakeCuda]) -> None:
    """A station that changes bundles all day must not leak; closing twice is harmless; a closed one says so."""
    _, cuda = doubles
    for batch in (1, 1, 1, 4):
        session.run(pictures(batch))

    session.close()
    session.close()

    assert (cuda.memory, cuda.streams, cuda.graphs) == ({}, {}, {})
    with pytest.raises(BackendError, match="is closed"):
        session.run(pictures(1))


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"picture": pictures(1)["image"]},
        {"image": pictures(1)["image"].astype(np.float32)},
        {"image": pictures(1)["image"][0]},
        {"image": pictures(1)["image"][:, ::2]},
        {"image": pictures(9)["image"]},
        {"image": pictures(1)["image"][:0]},
    ],
    ids=["none", "another name", "float", "no batch", "another size", "too many", "empty"],
)
def test_feeds_that_the_engine_does_not_take_are_refused(
    session: TensorRtSession, feeds: dict[str, np.ndarray]
) -> None:
    """A silent cast or a copy past the buffer's end would be worse."""
    with pytest.raises(BackendError, match=" takes "):
        session.run(feeds)


def test_pictures_need_not_lie_in_one_piece(session: TensorRtSession, truth: Answer) -> None:
    """A crop of a larger array is copied as it is seen."""
    wide = np.ascontiguousarray(np.repeat(pictures(1)["image"], 2, axis=2))[:, :, ::2]

    check(session.run({"image": wide}), truth({"image": np.ascontiguousarray(wide)}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda engine: engine[: len(engine) // 2], "truncated or no engine of this library"),
        (lambda engine: engine[:10], "truncated or no engine of this library"),
        (lambda engine: b"ONNX, perhaps" * 100, "truncated or no engine of this library"),
        (lambda engine: engine.replace(b'"version": "', b'"version": "1'), "another version of TensorRT"),
        (lambda engine: engine.replace(b"sm89", b"sm86"), "built for another GPU"),
        (None, "cannot read"),
    ],
    ids=["half", "header only", "foreign", "other version", "other GPU", "absent"],
)
def test_an_engine_that_cannot_be_loaded_says_why(
    engine_path: Path,
    doubles: tuple[FakeTensorRt, FakeCuda],
    version: str,
    content: Callable[[bytes], bytes] | None,
    told: str,
) -> None:
    """TensorRT answers None to all of these; each has another cure, and all name the command."""
    _, cuda = doubles
    engine = engine_path.read_bytes()
    engine_path.unlink()
    if content:
        engine_path.write_bytes(content(engine))

    with pytest.raises(BackendError, match=f"{told}.*mapl-edge export"):
        TensorRtSession(engine_path, flavour=flavour_of(version))
    assert not cuda.memory


def test_a_refusal_of_unknown_reason_names_them_all(
    engine_path: Path, doubles: tuple[FakeTensorRt, FakeCuda], version: str
) -> None:
    """With the library's own words."""
    doubles[0].fail["deserialize"] = "Error Code 9: something new (In parsePlan at /_src/runtime/runtime.cpp:780)"

    with pytest.raises(BackendError, match=r"something new; .*another device or version, or be truncated"):
        TensorRtSession(engine_path, flavour=flavour_of(version))


@pytest.mark.parametrize(
    ("gpus", "driver", "told"),
    [
        (0, 0, "no NVIDIA driver"),
        (1, 11080, r"serves CUDA 11\.8, cuda-bindings is for 13\.5"),
        (0, 13050, "no NVIDIA GPU"),
    ],
    ids=["no driver", "old driver", "no GPU"],
)
def test_no_gpu_says_what_is_missing(
    engine_path: Path, doubles: tuple[FakeTensorRt, FakeCuda], version: str, gpus: int, driver: int, told: str
) -> None:
    """Three causes, three cures."""
    _, cuda = doubles
    cuda.gpus, cuda.driver = gpus, driver

    with pytest.raises(BackendUnavailable, match=told):
        TensorRtSession(engine_path, flavour=flavour_of(version))


@pytest.mark.parametrize(
    ("function", "code", "told"),
    [
        ("cudaMalloc", cudaError_t.cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation; the GPU's memory ran out"),
        ("cudaStreamSynchronize", cudaError_t.cudaErrorLaunchFailure, "cudaErrorLaunchFailure; restart the station"),
    ],
)
def test_cuda_errors_keep_their_names(
    session: TensorRtSession,
    doubles: tuple[FakeTensorRt, FakeCuda],
    function: str,
    code: cudaError_t,
    told: str,
) -> None:
    """The name is what one searches for."""
    doubles[1].fail[function] = code

    with pytest.raises(BackendError, match=f"{function}: {told}"):
        session.run(pictures(1))


def test_after_a_failed_frame_the_next_one_is_right(
    session: TensorRtSession, doubles: tuple[FakeTensorRt, FakeCuda], truth: Answer
) -> None:
    """Memory that could not grow must not be taken for grown."""
    session.run(pictures(1))
    doubles[1].fail["cudaMallocHost"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(BackendError):
        session.run(pictures(4))
    doubles[1].fail.clear()

    check(session.run(pictures(4)), truth(pictures(4)))


def test_a_frame_that_tensorrt_refuses_is_an_error(
    session: TensorRtSession, doubles: tuple[FakeTensorRt, FakeCuda]
) -> None:
    """False must never pass for an answer: the buffers still hold the last frame's."""
    session.run(pictures(1))
    doubles[0].fail["execute"] = ""

    with pytest.raises(BackendError, match="failed on a frame"):
        session.run(pictures(1))


def test_pycuda_serves_where_cuda_bindings_are_absent(
    engine_path: Path,
    doubles: tuple[FakeTensorRt, FakeCuda],
    version: str,
    truth: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """JetPack images carry it; without graphs, and without a context left behind."""
    pycuda = FakePyCuda(doubles[1])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda)
    session = TensorRtSession(engine_path, flavour=flavour_of(version))

    for seed, batch in enumerate([1, 1, 1, 2, 1]):
        feeds = pictures(batch, seed)
        check(session.run(feeds), truth(feeds))
    session.close()
    assert pycuda.contexts == 0
    assert not doubles[1].memory


def test_importing_the_session_loads_no_library() -> None:
    """A station that runs on the CPU pays nothing for what it does not use."""
    code = (
        "import sys, mapl_edge.runtime.tensorrt_session, mapl_edge.testing;"
        "heavy = {'torch', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'onnx', 'mapl_edge.export'};"
        "print(sorted(heavy & {*sys.modules}))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
