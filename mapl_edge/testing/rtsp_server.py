"""The synthetic line as a network camera that speaks RTSP (H.264), by GStreamer in a process of its own."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from mapl_edge.errors import BackendUnavailable
from mapl_edge.testing import gst_rtsp
from mapl_edge.testing.line_server import LineServer, LineServing

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's GStreamer bindings are there, not in a virtual environment
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
START_S = 10.0


class RtspServer(LineServer):
    """A camera at rtsp://host:port/line, from `with` to its end.

    `unplug` ends the process and everybody's connection. A corrupt frame does not come: H.264 has no half pictures.

    Raises:
        BackendUnavailable: GStreamer is not there, or the port is taken; says which packages it needs.
    """

    def __init__(
        self, serving: LineServing, host: str = "127.0.0.1", port: int = 8554, parts: int | None = None
    ) -> None:
        super().__init__(serving, parts)
        self._host, self.port, self._lock = host, port, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"rtsp://{self._host}:{self.port}/line"

    def plug(self) -> None:
        """See `LineServer`; returns once it listens."""
        with self._lock:
            if self._process is not None:
                return
            command = [SYSTEM_PYTHON, "-I", gst_rtsp.__file__, self._host, str(self.port), f"{self._serving.fps}"]
            if not Path(SYSTEM_PYTHON).exists():
                raise BackendUnavailable(f"no {SYSTEM_PYTHON}, which runs GStreamer; apt-get install {PACKAGES}")
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={})
            timer = threading.Timer(START_S, process.kill)
            timer.start()
            assert process.stdout is not None
            listens = process.stdout.readline() == b"listening\n"
            timer.cancel()
            if not listens:
                said = process.communicate()[1].decode(errors="replace").strip().splitlines()
                why = said[-1] if said else f"it did not start within {START_S:g} s"
                raise BackendUnavailable(
                    f"no RTSP at {self._host}:{self.port}: {why}; for GStreamer: apt-get install {PACKAGES}"
                )
            self._process = process

    def unplug(self) -> None:
        """See `LineServer`; ends the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()

    def show(self, index: int) -> None:
        """See `LineServer`."""
        data = None if self._serving.faults.fate(index).corrupt else self._serving.jpeg(index)
        process = self._process
        if data is not None and process is not None and process.stdin is not None:
            with suppress(OSError, ValueError):  # it has ended meanwhile
                process.stdin.write(len(data).to_bytes(4, "big") + data)
                process.stdin.flush()
