"""The command `mapl-edge`, also as `python -m mapl_edge`."""

import os


def main() -> None:
    """Quieten OpenCV and FFmpeg, which read these when they load, and run the command line.

    What they mutter about a missing camera or a broken video, our one line says better.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from mapl_edge.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
