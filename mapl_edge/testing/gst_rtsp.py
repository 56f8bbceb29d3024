"""JPEGs from stdin as H.264 at rtsp://HOST:PORT/line, for `RtspServer`. Run by a Python that has GStreamer's bindings.

    python3 gst_rtsp.py HOST PORT FPS < frames

A frame is four bytes of length, big-endian, and a JPEG; the end of stdin is the end.
"""

import importlib
import sys
import threading
from typing import Any

LAUNCH = (
    "( appsrc name=line is-live=true do-timestamp=true format=time max-buffers=2 leaky-type=downstream "
    "caps=image/jpeg,framerate={fps}/1 ! jpegdec ! videoconvert ! video/x-raw,format=I420 "
    "! x264enc tune=zerolatency key-int-max=8 ! rtph264pay name=pay0 )"
)


def main(host: str, port: str, fps: str) -> None:
    """Serve until stdin ends."""
    gi: Any = importlib.import_module("gi")
    for name in ("Gst", "GstRtspServer"):
        gi.require_version(name, "1.0")
    libraries: list[Any] = [
        importlib.import_module(f"gi.repository.{name}") for name in ("GLib", "Gst", "GstRtspServer")
    ]
    glib, gst, rtsp = libraries
    gst.init(None)
    missing = [name for name in ("x264enc", "jpegdec", "rtph264pay") if gst.ElementFactory.find(name) is None]
    if missing:
        sys.exit(f"GStreamer lacks {', '.join(missing)}")
    server, factory, loop = rtsp.RTSPServer(), rtsp.RTSPMediaFactory(), glib.MainLoop()
    server.set_address(host)
    server.set_service(port)
    factory.set_launch(LAUNCH.format(fps=max(1, round(float(fps)))))
    factory.set_shared(True)
    viewers: list[Any] = []  # the one source that all viewers share, while there are any

    def begin(_: object, media: Any) -> None:
        viewers[:] = [media.get_element().get_by_name("line")]
        media.connect("unprepared", lambda _: viewers.clear())

    def feed() -> None:
        while head := sys.stdin.buffer.read(4):
            data = sys.stdin.buffer.read(int.from_bytes(head, "big"))
            for source in list(viewers):
                source.emit("push-buffer", gst.Buffer.new_wrapped(data))
        loop.quit()

    factory.connect("media-configure", begin)
    server.get_mount_points().add_factory("/line", factory)
    if not server.attach(None):
        sys.exit(f"{host}:{port} is taken")
    print("listening", flush=True)
    threading.Thread(target=feed, daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
