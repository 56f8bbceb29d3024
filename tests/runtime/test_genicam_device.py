"""GenICam cameras that stop, vanish and come back: by harvesters' double, and the GenTL simulator where it is."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.config import CameraConfig
from mapl_edge.errors import CameraUnreachable
from mapl_edge.frame import Frame
from mapl_edge.runtime.camera import LiveCamera
from mapl_edge.runtime.genicam_device import GenicamDevice
from mapl_edge.testing import FakeGenicam
from mapl_edge.testing.genicam import FakeAcquirer, FakeBuffer, FakeHarvester

LIMITS = CameraConfig(open_timeout_s=10, stale_after_s=0.3, retry_at_most_s=0.3)


class Watched:
    """A camera whose frames are taken in a thread, as the loop does."""

    def __init__(self, uri: str, limits: CameraConfig = LIMITS) -> None:
        self.devices: list[GenicamDevice] = []
        self.told: list[str] = []
        self.frames: list[Frame] = []
        self.error: BaseException | None = None
        self._more = threading.Condition()
        self.camera = LiveCamera(uri, lambda: self._open(uri, limits), limits, tell=self.told.append)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _open(self, uri: str, limits: CameraConfig) -> GenicamDevice:
        self.devices.append(GenicamDevice(uri, limits.stale_after_s))
        return self.devices[-1]

    def _watch(self) -> None:
        try:
            for shot in self.camera.shots():
                with self._more:
                    self.frames.append(shot)
                    self._more.notify_all()
        except BaseException as exc:
            self.error = exc

    def wait_for(self, count: int) -> float:
        """Seconds until so many more frames have come."""
        started = time.monotonic()
        with self._more:
            wanted = len(self.frames) + count
            assert self._more.wait_for(lambda: len(self.frames) >= wanted, 20), self.told
        return time.monotonic() - started

    def wait_until_told(self, words: str) -> None:
        """A line with these words."""
        until = time.monotonic() + 20
        while not any(words in line for line in self.told):
            assert time.monotonic() < until, self.told
            time.sleep(0.005)

    def close(self) -> None:
        """And it must end."""
        self.camera.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.error is None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeGenicam:
    """harvesters with one camera."""
    world = FakeGenicam("40012345")
    monkeypatch.setitem(sys.modules, "harvesters.core", world)
    return world


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Watches a camera behind a producer's file, and closes it."""
    opened: list[Watched] = []

    def start(serial: str = "40012345") -> Watched:
        (tmp_path / "maker.cti").touch()
        opened.append(Watched(f"genicam:{serial}?cti={tmp_path}/maker.cti"))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("fault", ["stops", "vanishes", "producer goes"])
def test_a_genicam_camera_that_goes_comes_back(
    world: FakeGenicam, watch: Callable[..., Watched], tmp_path: Path, fault: str
) -> None:
    """Whether it is silent, unplugged, or its driver is exchanged: each opening is given back, buffers too."""
    watched = watch()
    watched.wait_for(5)
    if fault == "stops":
        world.stop()
        watched.wait_until_told("gave no frame")
    else:
        world.vanish()
        watched.wait_until_told("Device no longer available")
    if fault == "producer goes":
        (tmp_path / "maker.cti").unlink()
        watched.wait_until_told("there is no such GenTL producer")
        (tmp_path / "maker.cti").touch()
    elif fault == "vanishes":
        watched.wait_until_told("'40012345' is not there; serials found by maker.cti: none")
    world.come_back()
    watched.wait_for(5)
    watched.wait_until_told("is back after")
    watched.close()

    assert watched.camera.counts.reconnects == 1
    assert {frame.image.shape for frame in watched.frames} == {(32, 32, 3)}
    assert all(np.diff([frame.seq for frame in watched.frames]) > 0)
    assert max(int(frame.image.max()) for frame in watched.frames) < 255, (
        "a picture was read after its buffer went back"
    )
    assert world.opened == world.destroyed == 2
    assert world.fetched == world.queued


def test_a_serial_that_is_not_there_is_told_at_the_start(world: FakeGenicam, watch: Callable[..., Watched]) -> None:
    """With those that are."""
    with pytest.raises(CameraUnreachable, match=r"'7' is not there; serials found by maker\.cti: 40012345"):
        watch("7")

    assert world.opened == 0


@pytest.fixture
def viky() -> Path:
    """The GenTL simulator that comes with genicam, or skip."""
    spec = find_spec("genicam")
    if spec is None or not spec.submodule_search_locations or find_spec("harvesters") is None:
        pytest.skip("no GenICam simulator: pip install 'mapl-edge[genicam]'")
    return Path(spec.submodule_search_locations[0]) / "viky.cti"


def test_the_simulator_that_stops_and_vanishes_comes_back(viky: Path, tmp_path: Path) -> None:
    """Its stream is stopped under the station, and its producer is gone until somebody brings it back."""
    producer = tmp_path / "viky.cti"
    producer.symlink_to(viky)
    watched = Watched(f"genicam:1?cti={producer}", CameraConfig(open_timeout_s=10, stale_after_s=1.0))
    try:
        watched.wait_for(3)
        producer.unlink()
        camera = watched.devices[-1]._camera
        assert camera is not None
        camera.remote_device.node_map.AcquisitionStop.execute()
        watched.wait_until_told("gave no frame for")
        watched.wait_until_told("there is no such GenTL producer")
        producer.symlink_to(viky)
        back_s = watched.wait_for(3)
        watched.wait_until_told("is back after")
    finally:
        watched.close()

    assert back_s < 5
    assert watched.camera.counts.reconnects == 1
    assert {frame.image.shape for frame in watched.frames} == {(400, 400, 3)}


@pytest.mark.parametrize(
    ("double", "name", "methods"),
    [
        (FakeHarvester, "Harvester", ("add_file", "update", "create", "reset")),
        (FakeAcquirer, "ImageAcquirer", ("start", "try_fetch", "destroy")),
        (FakeBuffer, "Buffer", ("queue",)),
    ],
)
def test_the_double_takes_the_calls_that_harvesters_takes(double: type, name: str, methods: tuple[str, ...]) -> None:
    """A double that drifts from the real thing proves nothing: its parameters are some of the real ones, in order."""
    core = pytest.importorskip("harvesters.core", reason="pip install 'mapl-edge[genicam]'")
    real = getattr(core, name)
    for method in methods:
        given, wanted = (list(inspect.signature(getattr(each, method)).parameters) for each in (double, real))
        assert [parameter for parameter in wanted if parameter in given] == given, method

    assert isinstance(core.Harvester.device_info_list, property)
    assert isinstance(core.ImageAcquirer.remote_device, property)
    assert isinstance(core.Buffer.payload, property)
