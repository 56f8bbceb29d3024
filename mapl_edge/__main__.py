"""The command `mapl-edge`, also as `python -m mapl_edge`."""

import os

from mapl_edge.openblas import name_kernels
from mapl_edge.quick_import import end_interrupted, quick_import


def main() -> None:
    """Quieten OpenCV and FFmpeg and help OpenBLAS, which read these when they load, and run the command line.

    What they mutter about a missing camera or a broken video, our one line says better.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    name_kernels()
    with quick_import():
        from mapl_edge.cli import main as command_line
    try:
        command_line()
    except KeyboardInterrupt:
        end_interrupted()


if __name__ == "__main__":
    main()
