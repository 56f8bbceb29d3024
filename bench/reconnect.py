"""How long a station is blind after its camera is back: python bench/reconnect.py [--outages 10]."""

from __future__ import annotations

import argparse
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mapl_edge.runtime import Source, source_from_uri
from mapl_edge.testing import LineServing, MjpegServer, SyntheticLine

RTSP_SERVER = Path(__file__).parents[1] / "tests" / "rtsp_server.py"
OUTAGES_S = (0.3, 1.0, 3.0, 8.0)  # in turns
Switch = Callable[[bool], None]


def reconnect_seconds(uri: str, switch: Switch, outages: int) -> list[float]:
    """Seconds from `switch(True)`, which returns once the server listens, to the first good frame, per outage."""
    source = source_from_uri(uri, tell=lambda line: None)
    came = threading.Event()
    thread = threading.Thread(target=_watch, args=(source, came), daemon=True)
    thread.start()
    found = []
    try:
        for i in range(outages):
            came.clear()
            came.wait(30)
            switch(False)
            time.sleep(OUTAGES_S[i % len(OUTAGES_S)])
            switch(True)
            came.clear()
            started = time.monotonic()
            if not came.wait(60):
                raise SystemExit(f"{uri}: no frame for 60 s after outage {i}")
            found.append(time.monotonic() - started)
    finally:
        source.close()
        thread.join(10)
    return found


def _watch(source: Source, came: threading.Event) -> None:
    for _ in source.shots():
        came.set()


@contextmanager
def mjpeg() -> Iterator[tuple[str, Switch]]:
    """The synthetic line over HTTP."""
    with MjpegServer(LineServing(SyntheticLine(), fps=20)) as server:
        yield server.url, lambda on: server.plug() if on else server.unplug()


@contextmanager
def rtsp() -> Iterator[tuple[str, Switch]]:
    """GStreamer's server, killed and started anew."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running: list[subprocess.Popen[bytes]] = []

    def switch(on: bool) -> None:
        if not on:
            process = running.pop()
            process.kill()
            process.wait()
            return
        command = ["/usr/bin/python3", str(RTSP_SERVER), str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        running.append(process)
        if process.stdout is None or process.stdout.readline() != b"listening\n":
            raise SystemExit("no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly")

    switch(True)
    try:
        yield f"rtsp://127.0.0.1:{port}/line", switch
    finally:
        switch(False)


def main() -> None:
    """Print one line per kind of camera."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=8)
    outages = parser.parse_args().outages
    for kind, serve in (("http mjpeg", mjpeg), ("rtsp h264", rtsp)):
        with serve() as (uri, switch):
            seconds = sorted(reconnect_seconds(uri, switch, outages))
        print(f"{kind}: {len(seconds)} outages, median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s")


if __name__ == "__main__":
    main()
