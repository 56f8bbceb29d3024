"""FakeGenicam: harvesters without a camera, for tests of what happens when one stops, vanishes and comes back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from mapl_edge.arrays import UInt8Array


class FakeGenicam:
    """Stands in for the module `harvesters.core`; all producers know one camera, which gives Mono8 pictures at once.

        monkeypatch.setitem(sys.modules, "harvesters.core", FakeGenicam("40012345"))

    Args:
        serial: of the camera.
        size_hw: of its pictures.

    Attributes:
        opened, destroyed: how many times a station has taken the camera, and given it back.
        fetched, queued: buffers it has taken, and given back.
    """

    def __init__(self, serial: str = "1", size_hw: tuple[int, int] = (32, 32)) -> None:
        self.serial, self.size_hw = serial, size_hw
        self.there, self.streams = threading.Event(), threading.Event()
        self.come_back()
        self.opened = self.destroyed = self.fetched = self.queued = 0

    def stop(self) -> None:
        """The camera is there and gives no picture, as after a missed trigger or with its stream stopped."""
        self.streams.clear()

    def vanish(self) -> None:
        """It is unplugged: calls on it fail, and no producer finds it."""
        self.there.clear()
        self.streams.clear()

    def come_back(self) -> None:
        """It is found again, and streams to whoever opens it anew; an older opening stays dead after `vanish`."""
        self.there.set()
        self.streams.set()

    def Harvester(self) -> FakeHarvester:  # noqa: N802 - a class of the real module
        """See harvesters."""
        return FakeHarvester(self)


@dataclass
class FakeHarvester:
    """See harvesters.core.Harvester; what `mapl_edge.runtime.genicam_device` calls of it."""

    world: FakeGenicam
    files: list[str] = field(default_factory=list)
    device_info_list: list[Any] = field(default_factory=list)

    def add_file(self, file_path: str) -> None:
        """Any producer will do."""
        self.files.append(file_path)

    def update(self) -> None:
        """Look who is there."""
        self.device_info_list = [SimpleNamespace(serial_number=self.world.serial)] if self.world.there.is_set() else []

    def create(self, search_key: dict[str, str]) -> FakeAcquirer:
        """Take the camera.

        Raises:
            ValueError: it is not there.
        """
        if not self.world.there.is_set() or search_key["serial_number"] != self.world.serial:
            raise ValueError("no camera with this key")
        self.world.opened += 1
        return FakeAcquirer(self.world)

    def reset(self) -> None:
        """Let go of the producers."""
        self.files.clear()


class FakeAcquirer:
    """See harvesters.core.ImageAcquirer."""

    def __init__(self, world: FakeGenicam) -> None:
        self._world, self._started, self._lost = world, False, False
        self.remote_device = SimpleNamespace(node_map=SimpleNamespace(has_node=lambda name: False))

    def start(self) -> None:
        """Let it stream."""
        self._started = True

    def try_fetch(self, *, timeout: float) -> FakeBuffer | None:
        """The next picture; None where there is none in time.

        Raises:
            RuntimeError: the camera has been unplugged since it was opened.
        """
        self._lost = self._lost or not self._world.there.is_set()
        if self._lost:
            raise RuntimeError("GenTL exception: Device no longer available. (ID: -1010)")
        if not self._started or not self._world.streams.wait(timeout):
            return None
        self._world.fetched += 1
        return FakeBuffer(self._world)

    def destroy(self) -> None:
        """Give it back."""
        self._world.destroyed += 1


class FakeBuffer:
    """See harvesters.core.Buffer; its pictures are grey, brighter by one each."""

    def __init__(self, world: FakeGenicam) -> None:
        self._world = world
        (h, w), level = world.size_hw, world.fetched % 200
        data: UInt8Array = np.full(h * w, level, np.uint8)
        part = SimpleNamespace(data=data, width=w, height=h, data_format="Mono8")
        self.payload = SimpleNamespace(components=[part])

    def queue(self) -> None:
        """Give it back; it must not be read after that."""
        self._world.queued += 1
        self.payload.components[0].data[:] = 255
