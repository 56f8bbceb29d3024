"""mapl-edge: from pictures of good parts to PASS/FAIL on a factory camera.

The core: values that cross rooms, the bundle, `prepare`, `judge` and the command line.
The rooms are `mapl_edge.export`, `mapl_edge.runtime` and `mapl_edge.calibrate`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mapl-edge")
except PackageNotFoundError:  # a bare checkout that was never installed
    __version__ = "0+unknown"
