"""OpenCV's door to live video: USB cameras by V4L2, network cameras by RTSP over TCP."""

from __future__ import annotations

import os
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import cv2
from pydantic import Field

from mapl_edge.arrays import AnyArray
from mapl_edge.config import Section, config_from_dict
from mapl_edge.errors import CameraError, CameraUnreachable
from mapl_edge.redact import redact
from mapl_edge.runtime.reach import address_from_url, check_listening, check_rtsp


class V4l2Uri(Section):
    """What may follow `v4l2:/dev/video0?`."""

    width: int | None = Field(default=None, ge=16, le=65536)
    height: int | None = Field(default=None, ge=16, le=65536)
    fps: float | None = Field(default=None, gt=0, le=10000)


class CaptureDevice:
    """A `Device` that OpenCV reads.

    Raises:
        CameraUnreachable: OpenCV cannot open it; the message is `problem`.
    """

    def __init__(self, target: int | str, backend: int, options: Sequence[int], shown: str, problem: str) -> None:
        self._shown = shown
        self._frames = 0
        self._capture = cv2.VideoCapture(target, backend, list(options))
        if not self._capture.isOpened():
            raise CameraUnreachable(problem)

    def read(self) -> AnyArray:
        """See `Device`."""
        ok, pixels = self._capture.read()
        if not ok or pixels is None:
            raise CameraError(f"{self._shown} gave no frame after {self._frames} frames; check the cable")
        self._frames += 1
        return pixels

    def close(self) -> None:
        """See `Device`."""
        self._capture.release()

    def expect(self, wanted: dict[str, tuple[int, float | None]]) -> None:
        """Close and raise CameraUnreachable unless the camera took what was asked for."""
        for name, (number, value) in wanted.items():
            got = self._capture.get(number)
            if value is not None and abs(got - value) > 0.01 * value:
                self.close()
                raise CameraUnreachable(
                    f"{self._shown} gives {name}={got:g}, not {value:g}; v4l2-ctl --list-formats-ext shows what it can"
                )


def v4l2_device(uri: str) -> CaptureDevice:
    """Open `0` or `v4l2:/dev/video0?width=1280&height=720&fps=30`.

    Raises:
        CameraUnreachable: there is no such camera, it is taken, or it does not give that format.
        ConfigError: an unknown key or a wrong value.
    """
    path, _, query = uri.removeprefix("v4l2:").partition("?")
    given = config_from_dict(dict(urllib.parse.parse_qsl(query, keep_blank_values=True)), V4l2Uri, where=redact(uri))
    name = path.removeprefix("/dev/video")
    found = ", ".join(sorted(device.name for device in Path("/dev").glob("video*"))) or "none"
    problem = (
        f"camera {path} cannot be opened; cameras found: {found}; "
        "check the cable, the index, and that no other program uses it"
    )
    on_linux = sys.platform == "linux"
    if on_linux and not Path(f"/dev/video{path}" if path.isdecimal() else path).exists():
        raise CameraUnreachable(problem)  # asked first, since OpenCV would print about it
    wanted: dict[str, tuple[int, float | None]] = {
        "width": (cv2.CAP_PROP_FRAME_WIDTH, given.width),
        "height": (cv2.CAP_PROP_FRAME_HEIGHT, given.height),
        "fps": (cv2.CAP_PROP_FPS, given.fps),
    }
    options = [int(part) for number, value in wanted.values() if value is not None for part in (number, round(value))]
    backend = cv2.CAP_V4L2 if on_linux else cv2.CAP_ANY
    device = CaptureDevice(int(name) if name.isdecimal() else path, backend, options, f"camera {path}", problem)
    device.expect(wanted)
    return device


def rtsp_device(url: str, open_timeout_s: float, read_timeout_s: float) -> CaptureDevice:
    """Open rtsp://user:password@host:554/path by FFmpeg, over TCP.

    FFmpeg has one answer to all mistakes, so we ask the server ourselves when it fails; not before, since small cameras
    and GStreamer's server need a moment between two viewers.

    Raises:
        CameraUnreachable: no such host, port, path or password, or FFmpeg cannot play what is there.
    """
    address = address_from_url(url)
    check_listening(address, open_timeout_s)
    quiet_ffmpeg()
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout_s * 1000)]
    options += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1000)]
    problem = (
        f"{address.shown}: the camera describes a stream, but FFmpeg cannot play it; set it to H.264 or MJPEG, "
        "and see how many viewers it allows"
    )
    try:
        return CaptureDevice(url, cv2.CAP_FFMPEG, options, address.shown, problem)
    except CameraUnreachable:
        check_rtsp(address, open_timeout_s)
        raise


def quiet_ffmpeg() -> None:
    """Keep OpenCV and FFmpeg from printing (they may quote addresses), and RTSP on TCP without a growing buffer.

    OpenCV reads the last two from the environment only; what the user set there stays.
    """
    cv2.setLogLevel(2)  # errors
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;nobuffer")
