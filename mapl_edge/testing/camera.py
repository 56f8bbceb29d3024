"""HangingDevice: a camera library that hangs, or does whatever a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from mapl_edge.arrays import AnyArray


class HangingDevice:
    """A `mapl_edge.runtime.camera.Device` that gives a list of pictures and then never answers again.

    Args:
        pictures: what `read` returns, one after the other; an exception among them is raised.

    Attributes:
        hangs: set once `read` hangs.
        released: set it to let the hanging call end (it then returns the end of the stream by EOFError).
        closed: set by `close`.
    """

    def __init__(self, pictures: Iterable[AnyArray | Exception] = ()) -> None:
        self._pictures: Iterator[AnyArray | Exception] = iter(pictures)
        self.hangs, self.released, self.closed = threading.Event(), threading.Event(), threading.Event()

    def read(self) -> AnyArray:
        """The next picture, or nothing for ever."""
        picture = next(self._pictures, None)
        if picture is None:
            self.hangs.set()
            self.released.wait()
            raise EOFError("released")
        if isinstance(picture, Exception):
            raise picture
        return picture

    def close(self) -> None:
        """See `closed`."""
        self.closed.set()
