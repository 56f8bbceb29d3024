"""Cameras: several in one process, each with its own thread, inspector and sinks. None waits for another.

They share what is given to them: an engine by way of a `Watchdog`, a file by way of `JsonLines.beside`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mapl_edge.errors import BackendUnavailable, CameraError, ConfigError, MaplEdgeError, PictureError
from mapl_edge.runtime.camera import Backoff
from mapl_edge.runtime.inspector import Inspects
from mapl_edge.runtime.loop import RunSummary, run
from mapl_edge.runtime.opening import opened
from mapl_edge.runtime.sinks import Sink
from mapl_edge.runtime.sources import Source

logger = logging.getLogger(__name__)
LOOK_S = 0.5  # how soon the end of all cameras is seen
OF_ONE_CAMERA = (CameraError, ConfigError, PictureError, BackendUnavailable)  # the others are well


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a station.

    Attributes:
        open_source: called beside the camera's thread, again and again while it raises CameraError.
        sinks: closed when the camera ends.
        retry_at_most_s: longest wait between two attempts to open it.
    """

    name: str
    open_source: Callable[[], Source]
    inspector: Inspects
    sinks: Sequence[Sink]
    retry_at_most_s: float = 2.0


def run_cameras(
    cameras: Sequence[Camera],
    stop: threading.Event,
    max_frames: int | None = None,
    tell: Callable[[str], None] = logger.warning,
    summaries: Sequence[RunSummary] | None = None,
) -> Sequence[RunSummary]:
    """Run a loop for each camera until all have ended or stop is set; see `run`.

    A camera that ends or fails does so alone, also by a mistake in its configuration. Anything else that fails, such as
    a full disk, stops all.

    Args:
        max_frames: of each camera.
        tell: gets a line when a camera does not open, and when one has failed for good.
        summaries: of each camera; they count on, and are returned. What they hold is true even where a camera fails.

    Returns:
        What each camera did, in their order.

    Raises:
        MaplEdgeError: what failed first, once all have ended; a camera's failure only where nothing worse did.
    """
    summaries = summaries or [RunSummary() for _ in cameras]
    lost: list[MaplEdgeError] = []
    failed: list[BaseException] = []

    def work(camera: Camera, summary: RunSummary) -> None:
        try:
            with ExitStack() as without_a_run:
                for sink in camera.sinks:
                    without_a_run.callback(sink.close)
                source = _opened(camera, stop, tell)
                if source is None:
                    return
                without_a_run.pop_all()
            run(source, camera.inspector, camera.sinks, stop, max_frames, summary)
        except OF_ONE_CAMERA as exc:
            lost.append(exc)
            tell(f"camera {camera.name} has ended, the others go on: {exc}")
        except BaseException as exc:  # raised where the cameras were started
            failed.append(exc)
            stop.set()

    threads = [
        threading.Thread(target=work, args=each, name=each[0].name, daemon=True)
        for each in zip(cameras, summaries, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(LOOK_S)
    for error in [*failed, *lost]:
        raise error
    return summaries


def _opened(camera: Camera, stop: threading.Event, tell: Callable[[str], None]) -> Source | None:
    """Try until it opens; None when stop was set."""
    backoff = Backoff(most_s=camera.retry_at_most_s, seed=zlib.crc32(camera.name.encode()))
    for failures in itertools.count():
        if stop.is_set():
            break
        try:
            return opened(camera.open_source, stop)
        except CameraError as exc:
            if failures & (failures + 1) == 0:  # attempts 1, 2, 4, 8, ...
                tell(f"camera {camera.name} does not open, attempt {failures + 1}: {exc}")
            stop.wait(backoff.delay_s(failures))
    return None
