"""Sources of pictures, by one URI grammar.

    0, v4l2:/dev/video0?…          USB camera (live)
    rtsp://user:pass@host/…        network camera, RTSP over TCP (live)
    http://…, https://…            network camera, MJPEG over HTTP (live)
    genicam:<serial>?cti=…         GigE Vision or USB3 Vision camera (live)
    folder                         every picture in it and below, sorted
    file:/path, video.mp4          every frame of a video
    line:?parts=200&...            the synthetic line of mapl_edge.testing; with fps=… it is live

Live sources go on without us: the newest frame wins and drops are counted. The others give every frame. Live cameras
come back by themselves; see `mapl_edge.runtime.camera`.
"""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import cv2

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.config import CameraConfig
from mapl_edge.dataset import picture_paths
from mapl_edge.errors import CameraError, CameraUnreachable, PictureError
from mapl_edge.frame import Frame
from mapl_edge.picture import PICTURE_SUFFIXES, bgr_from_pixels, picture_from_file
from mapl_edge.redact import redact
from mapl_edge.runtime.camera import Device, LiveCamera

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
GRAMMAR = (
    "0 or v4l2:/dev/video0 (USB cameras), rtsp://…, http(s)://…, genicam:<serial>, a folder of pictures, a picture, "
    "a video file, or line:"
)


@dataclass(frozen=True, slots=True)
class Blank:
    """A trigger without a usable picture; it gets an ERROR verdict. Fields as in `Frame`."""

    seq: int
    t_mono: float
    captured_at: datetime
    name: str
    problem: str


Shot: TypeAlias = "Frame | Blank"


class Source(Protocol):
    """Something that gives shots; opened when it is made, closed once.

    Attributes:
        live: it goes on whether or not anybody takes its frames.
    """

    live: bool

    def shots(self) -> Iterator[Shot]:
        """Shots in order, seq counting up from 0, until the source ends.

        Raises:
            CameraError: the source failed. A live camera that goes away raises nothing: no shots come until it is back.
        """
        ...

    def close(self) -> None:
        """Give the device back; calling it twice is harmless. A live source's `shots` in another thread ends then."""
        ...


def source_from_uri(
    uri: str,
    clock: Clock | None = None,
    limits: CameraConfig | None = None,
    tell: Callable[[str], None] = logger.warning,
) -> Source:
    """Open a source.

    Args:
        uri: see the top of this file.
        limits: how long a live camera may take (its `source` is not read).
        tell: gets a line when a live camera goes away or comes back.

    Raises:
        CameraUnreachable: there is nothing of that name, or it does not open.
        CameraStalled: a live camera opened, but gave no frame in time.
        ConfigError: what follows the `?` is wrong.
        BackendUnavailable: a `genicam:` camera without harvesters.
    """
    clock = clock or SystemClock()
    if not uri.strip():
        raise CameraUnreachable(f"the source is empty, expected {GRAMMAR}")
    if uri == "line:" or uri.startswith("line:?"):
        from mapl_edge.runtime.line_source import line_source

        return line_source(uri, clock)
    open_device = _live_device(uri, limits or CameraConfig())
    if open_device is not None:
        return LiveCamera(uri, open_device, limits, clock, tell=tell)
    scheme, _, rest = uri.partition(":")
    path = Path(urllib.parse.unquote(rest.removeprefix("//"))) if scheme == "file" and rest else Path(uri)
    if path.is_dir():
        return PictureFiles(path, picture_paths(path, recursive=True), clock)
    if not path.exists():
        known = f"expected {GRAMMAR}"
        if "://" in uri and scheme != "file":
            raise CameraUnreachable(f"{redact(uri)}: the scheme {scheme!r} is not known, {known}")
        raise CameraUnreachable(f"{redact(str(path))}: no such file or folder, {known}")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureFiles(path.parent, [path], clock)
    return VideoFile(path, clock)


def is_camera(uri: str) -> bool:
    """Whether it names a camera, which may come and go, and no file, folder or `line:`."""
    return _live_device(uri, CameraConfig()) is not None


def _live_device(uri: str, limits: CameraConfig) -> Callable[[], Device] | None:
    """What opens the live camera of that name; None where it is none. Each library comes in only when it is wanted."""
    if uri.isdecimal() or uri.startswith("v4l2:"):
        from mapl_edge.runtime.capture import v4l2_device

        return partial(v4l2_device, uri)
    if uri.startswith("rtsp://"):
        from mapl_edge.runtime.capture import rtsp_device

        return partial(rtsp_device, uri, limits.open_timeout_s, limits.stale_after_s)
    if uri.startswith(("http://", "https://")):
        from mapl_edge.runtime.mjpeg import MjpegDevice

        return partial(MjpegDevice, uri, limits.open_timeout_s)
    if uri.startswith("genicam:"):
        from mapl_edge.runtime.genicam_device import GenicamDevice

        return partial(GenicamDevice, uri, limits.stale_after_s)
    return None


class PictureFiles:
    """Pictures on disk, sorted; one that cannot be read is a `Blank`."""

    live = False

    def __init__(self, root: Path, paths: list[Path], clock: Clock) -> None:
        if not paths:
            raise CameraUnreachable(f"{root}: no picture in this folder; expected {' '.join(sorted(PICTURE_SUFFIXES))}")
        self._root, self._paths, self._clock = root, paths, clock

    def shots(self) -> Iterator[Shot]:
        """See `Source`; `name` is the path inside the folder."""
        for seq, path in enumerate(self._paths):
            name = path.relative_to(self._root).as_posix()
            t_mono, captured_at = self._clock.monotonic(), self._clock.utc()
            try:
                yield Frame(picture_from_file(path), seq, t_mono, captured_at, name)
            except PictureError as exc:
                yield Blank(seq, t_mono, captured_at, name, str(exc))

    def close(self) -> None:
        """Nothing to close."""


class VideoFile:
    """Every frame of a video file."""

    live = False

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise CameraUnreachable(
                f"{path}: not a video that FFmpeg can open; expected one of {' '.join(sorted(VIDEO_SUFFIXES))}"
            )

    def shots(self) -> Iterator[Shot]:
        """See `Source`; ends with the video."""
        seq = 0
        while True:
            t_mono, captured_at = self._clock.monotonic(), self._clock.utc()
            ok, pixels = self._capture.read()
            if not ok:
                break
            yield Frame(bgr_from_pixels(pixels, str(self._path)), seq, t_mono, captured_at, f"{self._path.name}#{seq}")
            seq += 1
        if seq == 0:
            raise CameraError(f"{self._path}: the video opened but gave no frame; it may be truncated")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
