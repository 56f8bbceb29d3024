"""One camera of a station, with all that is its own; what `run` makes of a camera's configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import typer

from mapl_edge.cli.app import people
from mapl_edge.cli.common import area_of
from mapl_edge.config import CameraConfig
from mapl_edge.masks import InspectedArea

if TYPE_CHECKING:  # as in station
    from mapl_edge.runtime import Sink, Source, Triggers
    from mapl_edge.runtime.camera_gate import CameraGate
    from mapl_edge.runtime.loaded import Loaded


@dataclass(frozen=True, slots=True, eq=False)
class StationCamera:
    """What one camera is inspected by at the start, and where its verdicts go.

    Attributes:
        fields: what its verdicts share.
        triggers: its queue; None: it is not triggered.
        open_source: opens it, triggered or not.
        source: what was opened at the start; None: opened in its own thread, again and again until it is there.
    """

    camera: CameraConfig
    loaded: Loaded
    budget_ms: float | None
    fields: dict[str, str]
    area: InspectedArea | None
    triggers: Triggers | None
    open_source: Callable[[], Source]
    source: Source | None
    sinks: Sequence[Sink] = ()

    @property
    def fps(self) -> float | None:
        """Frames per second, as far as anybody says."""
        return self.camera.fps or getattr(self.source, "fps", None)

    @property
    def live(self) -> bool:
        """Whether frames come by themselves, triggered or not."""
        return self.source is None or bool(getattr(self.source, "camera_is_live", self.source.live))

    def opened(self) -> Source:
        """The source of the start, or another attempt."""
        return self.open_source() if self.source is None else self.source

    def gate_of(self, loaded: Loaded) -> CameraGate | None:
        """What stops pictures of a camera that is not well."""
        from mapl_edge.runtime.camera_gate import camera_gate

        tell = partial(people.print, markup=False)
        gate = camera_gate(self.camera, loaded.calibration.camera, loaded.bundle.contract.roi_xywh, tell)
        if gate is not None:
            gate.begin(self.camera.source, self.live)
        return gate


def station_camera(
    camera: CameraConfig,
    loaded: Loaded,
    budget_ms: float | None,
    run_name: str,
    stop: threading.Event,
    at_end: ExitStack,
    *,
    alone: bool,
) -> StationCamera:
    """A camera with its trigger served and its source opened, unless it may come later; without its sinks.

    A stop while it opens is the end of the command.

    Raises:
        ContractMismatch: the limits were made with other masks.
        CameraError, OutputError, PictureError: source, trigger socket or background picture.
    """
    from mapl_edge.runtime import is_camera, source_from_uri
    from mapl_edge.runtime.opening import opened

    area = area_of(loaded.bundle, loaded.calibration, camera)
    fields = {"run": run_name, "camera": camera.name, **loaded.digests}
    tell = partial(people.print, markup=False)
    open_source: Callable[[], Source] = partial(source_from_uri, camera.source, limits=camera, tell=tell)
    triggers = _triggers(camera, fields, at_end)
    if triggers is not None:
        wait_s = (budget_ms or 1e3 * camera.stale_after_s) / 1e3
        open_source = partial(_triggered, open_source, camera, triggers, wait_s, stop, loaded)
    source: Source | None = None
    if alone or not is_camera(camera.source):  # a mistake in a name is told before anything runs
        source = opened(open_source, stop)
        if source is None:
            raise typer.Exit
        at_end.callback(source.close)
    return StationCamera(camera, loaded, budget_ms, fields, area, triggers, open_source, source)


def _triggers(camera: CameraConfig, fields: dict[str, str], at_end: ExitStack) -> Triggers | None:
    """The queue of a camera that is triggered, served on its socket if it has one."""
    from mapl_edge.runtime import Triggers, TriggerSocket

    if camera.trigger is None:
        return None
    triggers = Triggers(camera.trigger.queue)
    if camera.trigger.socket is not None:
        at_end.enter_context(TriggerSocket(camera.trigger.socket, triggers, fields))
    return triggers


def _triggered(
    open_source: Callable[[], Source],
    camera: CameraConfig,
    triggers: Triggers,
    wait_s: float,
    stop: threading.Event,
    loaded: Loaded,
) -> Source:
    from mapl_edge.runtime import TriggeredSource
    from mapl_edge.runtime.presence import Presence

    presence: Presence | None = None
    if camera.trigger is not None and camera.trigger.presence is not None:
        tell = partial(people.print, markup=False)
        presence = Presence(camera.trigger.presence, loaded.bundle.contract.roi_xywh, tell)
    return TriggeredSource(open_source(), triggers, wait_s, stop=stop, presence=presence)
