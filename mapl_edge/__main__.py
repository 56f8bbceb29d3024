"""The command `mapl-edge`, also as `python -m mapl_edge`."""

import os
import signal
import sys


def main() -> None:
    """Quieten OpenCV and FFmpeg, which read these when they load, and run the command line.

    What they mutter about a missing camera or a broken video, our one line says better.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, _end)
    from mapl_edge.cli import main as command_line

    signal.signal(signal.SIGINT, before)
    try:
        command_line()
    except KeyboardInterrupt:
        _end()


def _end(*signal_and_frame: object) -> None:
    """End at once: an exception would come out of half an import as another one."""
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(130)


if __name__ == "__main__":
    main()
