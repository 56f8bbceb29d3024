"""Cameras with real parts: an HTTP server that is killed and comes back, an RTSP server, a GenICam simulator."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.config import CameraConfig
from mapl_edge.errors import BackendUnavailable, CameraUnreachable, ConfigError, MaplEdgeError
from mapl_edge.frame import Frame
from mapl_edge.runtime.mjpeg import MjpegDevice
from mapl_edge.runtime.sources import Source, source_from_uri
from mapl_edge.testing import Faults, LineServing, MjpegServer, RtspServer, SyntheticLine

LIMITS = CameraConfig(open_timeout_s=10, stale_after_s=1.0)
RTSP_SERVER = Path(__file__).parents[1] / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
LINE = SyntheticLine(size_hw=(96, 96))


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_until_listening(port: int) -> None:
    """Return as soon as something takes calls."""
    for _ in range(200):
        with socket.socket() as call:
            if call.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens at {port}")


class Watcher:
    """Takes every frame of a source in a thread, as the loop does."""

    def __init__(self, source: Source) -> None:
        self.source, self.frames = source, list[Frame]()
        self.error: BaseException | None = None
        self.more = threading.Condition()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        try:
            for shot in self.source.shots():
                assert isinstance(shot, Frame)
                with self.more:
                    self.frames.append(shot)
                    self.more.notify_all()
        except BaseException as exc:
            self.error = exc

    def wait_for(self, count: int, timeout_s: float = 20.0) -> float:
        """Seconds until so many more frames have come."""
        started = time.monotonic()
        with self.more:
            wanted = len(self.frames) + count
            assert self.more.wait_for(lambda: len(self.frames) >= wanted, timeout_s), f"{len(self.frames)} frames"
        return time.monotonic() - started


@contextmanager
def watched(uri: str, told: list[str]) -> Iterator[Watcher]:
    """A watcher, closed and joined afterwards."""
    source = source_from_uri(uri, limits=LIMITS, tell=told.append)
    watcher = Watcher(source)
    try:
        yield watcher
    finally:
        source.close()
        watcher.thread.join(10)
        assert not watcher.thread.is_alive()


def test_an_http_camera_that_is_killed_comes_back() -> None:
    """No exception, the same format, gaps in seq only upwards, two lines with numbers."""
    serving = LineServing(LINE, fps=25)
    told: list[str] = []
    with MjpegServer(serving, user="me", password="hu:sh") as server:
        uri = server.url.replace("://", "://me:hu%3Ash@")
        with watched(uri, told) as watcher:
            watcher.wait_for(5)
            server.unplug()
            time.sleep(1.5)  # an outage has a length; this is what is simulated
            server.plug()
            back_s = watcher.wait_for(5)

    assert watcher.error is None
    assert back_s < 3.0
    assert {frame.image.shape for frame in watcher.frames} == {(96, 96, 3)}
    assert all(np.diff([frame.seq for frame in watcher.frames]) > 0)
    assert "is away for" in told[0]
    assert "is back after" in told[-2]
    assert "1 reconnects" in told[-1]
    assert "hu" not in " ".join(told).replace("hung", "")


def test_pictures_cut_short_are_dropped_by_cause() -> None:
    """Half a JPEG is never judged."""
    told: list[str] = []
    serving = LineServing(LINE, Faults.from_text("corrupt:0.5"), fps=50)
    with MjpegServer(serving) as server, watched(server.url, told) as watcher:
        watcher.wait_for(10)

    assert watcher.error is None
    assert "corrupt" in told[-1]


def test_frames_of_the_wire_are_the_lines_own() -> None:
    """Colours in the right order, the newest frame, nothing but JPEG's loss."""
    with MjpegServer(LineServing(LINE, fps=20, quality=100)) as server, watched(server.url, []) as watcher:
        watcher.wait_for(3)
        seen = watcher.frames[-1].image.astype(int)

    parts = [LINE.part(i).image.astype(int) for i in range(40)]
    assert min(np.abs(seen - part).mean() for part in parts) < 2.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("me:right@", "me:wrong@"), "wrong user or password"),
        (("me:right@", ""), "wants a user and a password"),
        (("/line", "/lime"), "no stream at '/lime'"),
        ((":PORT", ":CLOSED"), "nothing listens at 127.0.0.1"),
        (("127.0.0.1:PORT", "no-such-host.invalid"), "no host of the name 'no-such-host.invalid'"),
        (("http:", "rtsp:"), "does not speak RTSP"),
    ],
    ids=["password", "no password", "path", "port", "host", "protocol"],
)
def test_an_http_camera_says_what_is_wrong(change: tuple[str, str], says: str) -> None:
    """Each of these costs an afternoon when it is told as 'cannot open'."""
    with MjpegServer(LineServing(LINE), user="me", password="right") as server:
        uri = "http://me:right@127.0.0.1:PORT/line".replace(*change)
        uri = uri.replace("PORT", str(server.port)).replace("CLOSED", str(free_port()))
        with pytest.raises(CameraUnreachable, match=says) as caught:
            source_from_uri(uri, limits=LIMITS)

    assert "wrong@" not in str(caught.value)
    assert "right" not in str(caught.value)


def test_a_page_is_no_camera() -> None:
    """A login page answers with success."""
    page = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"
    with one_answer(page.encode()) as port, pytest.raises(CameraUnreachable, match="answers with text/html"):
        source_from_uri(f"http://127.0.0.1:{port}/", limits=LIMITS)


JPEG = cv2.imencode(".jpg", LINE.part(0).image)[1].tobytes()


def part(delimiter: str, data: bytes = JPEG, length: bool = True) -> bytes:
    """One part of a stream."""
    head = f"{delimiter}\r\nContent-Type: image/jpeg\r\n" + (f"Content-Length: {len(data)}\r\n" if length else "")
    return head.encode() + b"\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("boundary", "delimiter"),
    [
        ("x", "--x"),
        ("--x", "--x"),
        ("--x", "----x"),
        ("----x", "------x"),
        ("----x", "----x"),
        ('"x y"', "--x y"),
        ('"--x"', "----x"),
        ("'x'", "--x"),
        ("x", '--"x"'),
        ("x", "x"),
        ("x--", "--x--"),
        ("--", "----"),
        ("x", "--x  "),
    ],
)
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "without"])
def test_a_boundary_may_be_written_in_many_ways(boundary: str, delimiter: str, length: bool) -> None:
    """Some cameras count the two dashes in, some quote; an empty part is no end of the stream, and no picture."""
    head = f"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary={boundary}\r\n\r\n"
    parts = [part(delimiter, data, length) for data in (b"", JPEG, b"--x-ray\r\n" + JPEG, b"", JPEG)]
    with one_answer(head.encode() + b"".join(parts) + delimiter.encode() + b"--\r\n") as port:
        device, found = MjpegDevice(f"http://127.0.0.1:{port}/", 5), list[str]()
        for _ in range(6):
            try:
                found.append(str(device.read().shape))
            except MaplEdgeError as exc:
                found.append(str(exc).partition(": ")[2])
        device.close()

    picture = "(96, 96, 3)"
    assert [found[n] for n in (1, 4)] == [picture] * 2
    assert all("the file is empty" in found[n] for n in (0, 3))
    assert found[5] == "the camera ended the stream"


def test_a_server_that_takes_calls_and_says_nothing() -> None:
    """A hung camera still completes TCP."""
    limits = CameraConfig(open_timeout_s=0.3)
    with one_answer(b"") as port:
        for scheme in ("http", "rtsp"):
            with pytest.raises(MaplEdgeError, match=r"no answer from 127.0.0.1|within 0.3 s"):
                source_from_uri(f"{scheme}://127.0.0.1:{port}/", limits=limits)


@contextmanager
def one_answer(answer: bytes) -> Iterator[int]:
    """A server that says this to everybody, whatever they ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    call, _ = server.accept()
                except OSError:
                    return
                calls.append(call)
                if answer:
                    call.recv(4096)
                    call.sendall(answer)
                    call.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for call in calls:
            call.close()


@pytest.fixture(scope="module")
def gstreamer() -> None:
    """GStreamer's RTSP server in the system's Python, or skip."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True).returncode:
        pytest.skip("no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,ugly}")


@contextmanager
def rtsp_server(port: int, *login: str) -> Iterator[None]:
    """Killed at the end, as a power cut does."""
    process = subprocess.Popen(
        [SYSTEM_PYTHON, str(RTSP_SERVER), str(port), *login], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        wait_until_listening(port)
        yield
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.usefixtures("gstreamer")
def test_an_rtsp_camera_that_is_killed_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    """H.264 over TCP; the first frame after the outage is like all others, and nothing is printed."""
    port, told = free_port(), list[str]()
    uri = f"rtsp://me:hush@127.0.0.1:{port}/line"
    with rtsp_server(port, "me", "hush"):
        watching = watched(uri, told)
        watcher = watching.__enter__()
        watcher.wait_for(5)
    with rtsp_server(port, "me", "hush"):
        back_s = watcher.wait_for(5)
        watching.__exit__(None, None, None)

    assert watcher.error is None
    assert back_s < 3.0
    assert {frame.image.shape for frame in watcher.frames} == {(120, 160, 3)}
    assert "is back after" in told[-2]
    printed = capfd.readouterr()
    assert "hush" not in printed.out + printed.err + " ".join(told)


@pytest.mark.usefixtures("gstreamer")
@pytest.mark.parametrize("kind", [[], ["basic"]], ids=["digest", "basic"])
def test_an_rtsp_camera_says_what_is_wrong(kind: list[str]) -> None:
    """Asked by DESCRIBE before FFmpeg, which says 'cannot open' to all of it."""
    port = free_port()
    with rtsp_server(port, "me", "right", *kind):
        for user, path, says in (
            ("me:wrong@", "line", "wrong user or password"),
            ("", "line", "wants a user and a password"),
            ("me:right@", "lime", "no stream at '/lime'"),
        ):
            with pytest.raises(CameraUnreachable, match=says) as caught:
                source_from_uri(f"rtsp://{user}127.0.0.1:{port}/{path}", limits=LIMITS)
            assert "right" not in str(caught.value)
        with watched(f"rtsp://me:right@127.0.0.1:{port}/line", []) as watcher:
            watcher.wait_for(2)


@pytest.fixture
def viky() -> Path:
    """The GenTL simulator that comes with genicam, or skip."""
    spec = find_spec("genicam")
    if spec is None or not spec.submodule_search_locations or find_spec("harvesters") is None:
        pytest.skip("no GenICam simulator: pip install 'mapl-edge[genicam]'")
    return Path(spec.submodule_search_locations[0]) / "viky.cti"


def test_the_line_is_served_by_rtsp_and_comes_back_after_its_server_was_killed() -> None:
    """`line --serve rtsp`: the line's own pictures in the right colours; unplugging ends the server's process."""
    told: list[str] = []
    serving = LineServing(LINE, Faults.from_text("drop:0.05,corrupt:0.05"), fps=25)
    try:
        server = RtspServer(serving, port=free_port()).__enter__()
    except BackendUnavailable as exc:
        pytest.skip(str(exc))
    try:
        with watched(server.url, told) as watcher:
            watcher.wait_for(5)
            server.unplug()
            time.sleep(1.2)  # an outage has a length
            server.plug()
            back_s = watcher.wait_for(5)
    finally:
        server.__exit__(None, None, None)

    assert watcher.error is None
    assert back_s < 8.0
    parts = [LINE.part(i).image.astype(int) for i in range(60)]
    assert min(np.abs(watcher.frames[2].image.astype(int) - part).mean() for part in parts) < 6.0
    assert "is back after" in told[-2]


def test_rtsp_without_gstreamer_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """This Python has no bindings; the message is one line."""
    monkeypatch.setattr("mapl_edge.testing.rtsp_server.SYSTEM_PYTHON", sys.executable)

    with pytest.raises(BackendUnavailable, match="No module named 'gi'; for GStreamer: apt-get install python3-gi"):
        RtspServer(LineServing(LINE), port=free_port()).__enter__()


def test_a_genicam_camera_by_serial(viky: Path) -> None:
    """Twice in a row, as after a reconnect."""
    for _ in range(2):
        with watched(f"genicam:1?cti={viky}", []) as watcher:
            watcher.wait_for(3)

        assert watcher.error is None
        assert {frame.image.shape for frame in watcher.frames} == {(400, 400, 3)}


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("genicam:77?cti=VIKY", CameraUnreachable, "'77' is not there; serials found by viky.cti: 0, 1, 2"),
        ("genicam:1?cti=/no/such.cti", CameraUnreachable, "no such GenTL producer"),
        ("genicam:1?cti=VIKY&exposure_us=10", CameraUnreachable, "no setting ExposureTime"),
        ("genicam:1?cti=VIKY&pixel_format=Nope", CameraUnreachable, "refuses PixelFormat=Nope"),
        ("genicam:1?ctl=VIKY", ConfigError, "did you mean 'cti'"),
    ],
    ids=["serial", "producer", "setting", "value", "key"],
)
def test_a_genicam_camera_says_what_is_wrong(viky: Path, uri: str, error: type[MaplEdgeError], says: str) -> None:
    """By its serial, its producer, or its setting."""
    with pytest.raises(error, match=says):
        source_from_uri(uri.replace("VIKY", str(viky)), limits=LIMITS)


def test_without_harvesters_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As everywhere."""
    monkeypatch.setitem(sys.modules, "harvesters.core", None)
    (tmp_path / "maker.cti").touch()

    with pytest.raises(BackendUnavailable, match=r"pip install 'mapl-edge\[genicam\]'"):
        source_from_uri(f"genicam:1?cti={tmp_path}/maker.cti")
