"""The synthetic line as a camera on the network (HTTP MJPEG) or as a folder that fills, for rehearsals with faults."""

from __future__ import annotations

import base64
import hmac
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import cv2

from mapl_edge.testing.faults import Faults
from mapl_edge.testing.line import SyntheticLine

ServerT = TypeVar("ServerT", bound="LineServer")
PATH = "/line"
_BOUNDARY = "frame"
_WAIT_S = 0.2  # how soon a viewer's thread sees that the server closes


@dataclass(frozen=True, slots=True)
class LineServing:
    """What is served, and how.

    Attributes:
        fps: parts per second.
        quality: of the JPEGs, 1..100.
    """

    line: SyntheticLine = field(default_factory=SyntheticLine)
    faults: Faults = field(default_factory=Faults)
    fps: float = 10.0
    quality: int = 90

    def jpeg(self, index: int) -> bytes | None:
        """Frame `index` as it leaves the camera; None when a fault loses it."""
        fate = self.faults.fate(index)
        if fate.lost or fate.unplugged:
            return None
        image = fate.seen(self.line.part(fate.shown).image)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        return data[: len(data) // 2] if fate.corrupt else data

    def due_s(self, index: int) -> float:
        """When frame `index` comes, in seconds after the start."""
        fate = self.faults.fate(index)
        return (fate.due + 1) / self.fps + fate.late_s


class LineServer(ABC):
    """A camera that shows the line at its pace from `with` to its end, and is unplugged where the faults say so."""

    def __init__(self, serving: LineServing, parts: int | None) -> None:
        self._serving, self._parts, self._ended = serving, parts, threading.Event()
        self._camera = threading.Thread(target=self._run_camera, name="line camera", daemon=True)

    def __enter__(self: ServerT) -> ServerT:
        self.plug()
        self._camera.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.unplug()
        self._camera.join(5.0)

    @abstractmethod
    def plug(self) -> None:
        """Serve, at the same port."""

    @abstractmethod
    def unplug(self) -> None:
        """Hang up on all viewers and take no calls."""

    @abstractmethod
    def show(self, index: int) -> None:
        """Give frame `index` to those who look, unless a fault loses it."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the last part; whether it has come."""
        return self._ended.wait(timeout_s)

    def _run_camera(self) -> None:
        started, away = time.monotonic(), False
        for index in itertools.count() if self._parts is None else range(self._parts):
            if self._ended.wait(max(0.0, started + self._serving.due_s(index) - time.monotonic())):
                return
            unplugged = self._serving.faults.fate(index).unplugged
            if unplugged != away:
                away = unplugged
                (self.unplug if away else self.plug)()
            self.show(index)
        self._ended.set()


class MjpegServer(LineServer):
    """A camera at http://host:port/line, from `with` to its end; all viewers see the same frames.

    Args:
        port: 0 takes any free one; see `url`.
        user: with `password`, what viewers must give (HTTP Basic); None: nothing.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        serving: LineServing,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str | None = None,
        password: str = "",
        parts: int | None = None,
    ) -> None:
        super().__init__(serving, parts)
        given = None if user is None else base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        self._authorization = None if given is None else f"Basic {given}"
        self._host = host
        self._changed = threading.Condition()
        self._newest: tuple[int, bytes] = (-1, b"")
        self._plugged = 1  # counts up at each plug; 0 or less: unplugged
        self._server: ThreadingHTTPServer | None = self._listen(port)
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        """Where it is, without user and password."""
        return f"http://{self._host}:{self.port}{PATH}"

    def unplug(self) -> None:
        """See `LineServer`."""
        with self._changed:
            self._plugged = -abs(self._plugged)
            server, self._server = self._server, None
            self._changed.notify_all()
        if server is not None:
            server.shutdown()
            server.server_close()

    def plug(self) -> None:
        """See `LineServer`."""
        with self._changed:
            if self._server is None and not self._ended.is_set():
                self._server = self._listen(self.port)
                self._plugged = 1 - self._plugged

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = _Server((self._host, port), _handler_for(self))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def show(self, index: int) -> None:
        """See `LineServer`."""
        data = self._serving.jpeg(index)
        if data is not None:
            with self._changed:
                self._newest = index, data
                self._changed.notify_all()

    def allows(self, authorization: str | None) -> bool:
        """Whether these are the user and password."""
        wanted = self._authorization
        return wanted is None or hmac.compare_digest(wanted.encode(), (authorization or "").encode())

    @property
    def plugged(self) -> int:
        """Which life of the camera this is; viewers of another one are hung up on."""
        return self._plugged

    def next_frame(self, after: int, plugged: int) -> tuple[int, bytes] | None:
        """The newest frame with an index above `after`; None when the server hangs up."""
        with self._changed:
            while self._plugged == plugged and not self._ended.is_set():
                if self._newest[0] > after:
                    return self._newest
                self._changed.wait(_WAIT_S)
        return None


class _Server(ThreadingHTTPServer):
    """Viewers' threads end with the process, and a restart gets its port back at once."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


def _handler_for(camera: MjpegServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not camera.allows(self.headers.get("Authorization")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="line"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path.partition("?")[0] != PATH:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.end_headers()
            index, plugged = -1, camera.plugged
            try:
                while (frame := camera.next_frame(index, plugged)) is not None:
                    index, data = frame
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode("ascii") + data + b"\r\n")
            except OSError:  # the viewer has left
                return

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: viewers come and go."""

    return Handler


def serve_folder(
    serving: LineServing,
    folder: Path,
    parts: int,
    stop: threading.Event | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> int:
    """Write parts as 000000.jpg, … at the line's pace, each whole at once (renamed into place); how many were written.

    Raises:
        OSError: the folder cannot be written.
    """
    stop = stop or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    started, written = time.monotonic(), 0
    for index in range(parts):
        if stop.wait(max(0.0, started + serving.due_s(index) - time.monotonic())):
            break
        data = serving.jpeg(index)
        if data is not None:
            hidden = folder / f".{index:06d}.part"
            hidden.write_bytes(data)
            hidden.rename(folder / f"{index:06d}.jpg")
            written += 1
        progress("parts", index + 1, parts)
    return written
