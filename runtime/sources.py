"""Sources of pictures, by one URI grammar.

    0                      USB camera by index (live)
    folder                 every picture in it and below, sorted
    file:/path, video.mp4  every frame of a video
    line:?parts=200&...    the synthetic line of mapl_edge.testing; with fps=… it is live

Live sources go on without us: the newest frame wins and drops are counted. The others give every frame.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias

import cv2

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.dataset import picture_paths
from mapl_edge.errors import CameraError, CameraUnreachable, PictureError
from mapl_edge.frame import Frame
from mapl_edge.picture import PICTURE_SUFFIXES, bgr_from_pixels, picture_from_file

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
GRAMMAR = "0 (a USB camera), a folder of pictures, a picture, a video file, or line:"


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
            CameraError: the source failed.
        """
        ...

    def close(self) -> None:
        """Give the device back; calling it twice is harmless."""
        ...


def source_from_uri(uri: str, clock: Clock | None = None) -> Source:
    """Open a source.

    Raises:
        CameraUnreachable: there is nothing of that name, or it does not open.
    """
    clock = clock or SystemClock()
    if not uri.strip():
        raise CameraUnreachable(f"the source is empty, expected {GRAMMAR}")
    if uri.isdecimal():
        return UsbCamera(int(uri), clock)
    if uri == "line:" or uri.startswith("line:?"):
        from mapl_edge.runtime.line_source import line_source

        return line_source(uri, clock)
    scheme, _, rest = uri.partition(":")
    path = Path(urllib.parse.unquote(rest.removeprefix("//"))) if scheme == "file" and rest else Path(uri)
    if path.is_dir():
        return PictureFiles(path, picture_paths(path, recursive=True), clock)
    if not path.exists():
        known = f"expected {GRAMMAR}"
        if "://" in uri and scheme != "file":
            raise CameraUnreachable(f"{redact(uri)}: the scheme {scheme!r} is not known, {known}")
        raise CameraUnreachable(f"{path}: no such file or folder, {known}")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureFiles(path.parent, [path], clock)
    return VideoFile(path, clock)


def redact(uri: str) -> str:
    """The URI without its password, for logs."""
    parts = urllib.parse.urlsplit(uri)
    if parts.password is None:
        return uri
    return uri.replace(f":{parts.password}@", ":***@", 1)


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


class UsbCamera:
    """A camera of the operating system, by index."""

    live = True

    def __init__(self, index: int, clock: Clock) -> None:
        self._index, self._clock = index, clock
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            found = [device.name for device in sorted(Path("/dev").glob("video*"))]
            raise CameraUnreachable(
                f"camera {index} cannot be opened; cameras found: {', '.join(found) or 'none'}; "
                "check the cable, the index, and that no other program uses it"
            )

    def shots(self) -> Iterator[Shot]:
        """See `Source`; ends only by an error."""
        seq = 0
        while True:
            ok, pixels = self._capture.read()
            t_mono, captured_at = self._clock.monotonic(), self._clock.utc()
            if not ok:
                raise CameraError(f"camera {self._index} gave no frame after {seq} frames; check the cable")
            yield Frame(bgr_from_pixels(pixels, f"camera {self._index}"), seq, t_mono, captured_at)
            seq += 1

    def close(self) -> None:
        """Give the device back."""
        self._capture.release()
