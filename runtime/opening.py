"""Opening: a source is opened in a thread of its own, since a library may hang and a stop must be seen meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from mapl_edge.runtime.sources import Source

LOOK_S = 0.1  # how soon a stop is seen


def opened(open_source: Callable[[], Source], stop: threading.Event) -> Source | None:
    """Open a source; None when `stop` was set before it was there. One that comes later is closed.

    Raises whatever `open_source` does.
    """
    opening: Future[Source] = Future()

    def work() -> None:
        try:
            opening.set_result(open_source())
        except BaseException as exc:  # raised where the source is waited for
            opening.set_exception(exc)

    threading.Thread(target=work, name="opening", daemon=True).start()
    while not stop.is_set():
        if wait([opening], LOOK_S).done:
            return opening.result()
    opening.add_done_callback(_close)
    return None


def _close(opening: Future[Source]) -> None:
    if opening.exception() is None:
        opening.result().close()
