"""How the command line imports: with nothing else done meanwhile, and an interrupt that ends it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_import() -> Iterator[None]:
    """Collect no garbage meanwhile, since what imports make stays; at SIGINT, end at once with one line.

    An interrupt's exception would come out of half an import as another one.
    """
    collects, before = gc.isenabled(), signal.getsignal(signal.SIGINT)
    # A shell's background job ignores interrupts, and only the main thread may say what is done at one.
    ends = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    gc.disable()
    if ends:
        signal.signal(signal.SIGINT, end_interrupted)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, before)
        if collects:
            gc.enable()


def end_interrupted(*signal_and_frame: object) -> None:
    """End the process at once, as shells expect it of an interrupt."""
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(130)
