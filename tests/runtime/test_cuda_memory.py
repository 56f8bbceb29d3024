"""The CUDA door: which library, which message; the doubles have the names that the real libraries have."""

import inspect
import sys

import pytest

from mapl_edge.errors import BackendError, BackendUnavailable
from mapl_edge.runtime.cuda_memory import Cuda, CudaBindings, PyCuda, open_cuda
from mapl_edge.testing import FakeCuda, FakePyCuda
from mapl_edge.testing.cuda import FUNCTIONS, cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode


@pytest.fixture
def bindings() -> object:
    """NVIDIA's own module."""
    return pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is missing: pip install 'mapl-edge[rtx]'", exc_type=ImportError
    )


def test_fake_functions_are_in_cuda_bindings_and_take_the_same(bindings: object) -> None:
    """A double with names of its own would prove nothing."""
    fake = FakeCuda()
    for name in FUNCTIONS:
        signature = (getattr(bindings, name).__doc__ or "").splitlines()[0]
        listed = [each for each in signature.partition("(")[2].rstrip(")").split(",") if each.strip()]

        assert len(inspect.signature(getattr(fake, f"_{name}")).parameters) == len(listed), signature


@pytest.mark.parametrize("fake", [cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode])
def test_fake_codes_are_those_of_cuda_bindings(bindings: object, fake: type[cudaError_t]) -> None:
    """By name and number."""
    real = getattr(bindings, fake.__name__)

    assert {code.name: int(code) for code in fake} == {code.name: int(getattr(real, code.name)) for code in fake}


def test_real_cuda_bindings_open_or_say_what_is_missing(bindings: object) -> None:
    """On a machine with a GPU its name; on any other one line."""
    try:
        said = open_cuda().name
    except BackendUnavailable as exc:
        said = str(exc)

    assert "NVIDIA" in said


def test_neither_library_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to type."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)

    with pytest.raises(BackendUnavailable, match=r"pip install 'mapl-edge\[tensorrt\]'"):
        open_cuda()


def test_cuda_bindings_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have graphs."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    monkeypatch.setitem(sys.modules, "pycuda.driver", FakePyCuda())

    assert isinstance(open_cuda(), CudaBindings)


@pytest.mark.parametrize("door", [CudaBindings(FakeCuda()), PyCuda(FakePyCuda())], ids=["cuda-bindings", "pycuda"])
def test_bytes_go_to_the_device_and_back(door: Cuda) -> None:
    """Queued until the stream is waited for."""
    stream, address, source, target = door.new_stream(), door.allocate(4), door.pinned(4), door.pinned(4)
    source[:] = (1, 2, 3, 4)
    target[:] = 0

    door.to_device(address, source, stream)
    door.to_host(target, address, stream)

    assert target.tolist() == [0, 0, 0, 0]
    door.wait(stream)
    assert target.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("step", "said", "error", "told"),
    [
        ("init", "cuInit failed: no CUDA-capable device is detected", BackendUnavailable, "no NVIDIA GPU"),
        ("init", "cuInit failed: CUDA driver version is insufficient", BackendUnavailable, "no NVIDIA driver"),
        ("mem_alloc", "cuMemAlloc failed: out of memory", BackendError, "memory ran out"),
        ("mem_alloc", "cuMemAlloc failed: unknown", BackendError, "restart the station"),
    ],
)
def test_pycuda_errors_are_translated(step: str, said: str, error: type[BackendError], told: str) -> None:
    """They end at this door, as CUDA's codes do."""
    fake = FakePyCuda()
    fake.fail[step] = said

    with pytest.raises(error, match=f"pycuda {step}: .*{told}"):
        PyCuda(fake).allocate(4)


def test_pycuda_refuses_graphs_by_name() -> None:
    """Sessions ask has_graphs first."""
    door = PyCuda(FakePyCuda())

    assert not door.has_graphs
    for call in (door.begin_capture, door.end_capture, door.free_graph):
        with pytest.raises(BackendError, match="no CUDA graphs"):
            call(None)


def test_pycuda_without_a_gpu_says_so() -> None:
    """It can be installed anywhere."""
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU"):
        PyCuda(FakePyCuda(FakeCuda(gpus=0)))
