"""Aside: what a second core does for the part in hand, while the engine's thread prepares it or computes.

cv2, numpy and the engines let other threads of Python go on while they work, so this costs the part no time where a
core is free. Where none is, whoever needs an answer does the work: nobody waits for a thread to be woken.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Errand(Generic[T]):
    """A piece of work and its answer. By itself it is done when the answer is asked for, by who asks."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._taken, self._done = work, threading.Lock(), threading.Lock()
        self._error: BaseException | None = None
        self._done.acquire()

    def do(self) -> None:
        """Do it, unless somebody has begun to."""
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._answer = self._work()
        except BaseException as exc:  # raised for who asks
            self._error = exc
        del self._work  # it may hold a picture
        self._done.release()

    def answer(self) -> T:
        """What came of it, done here and now if nobody has begun to; raises what the work raised."""
        self.do()
        with self._done:  # the other thread is in the middle of it, and it ends as it would here
            if self._error is not None:
                raise self._error
            return self._answer


class DoesAside(Protocol):
    """Takes work and gives an errand: `Aside.do`, or `Errand` where there is no second thread."""

    def __call__(self, work: Callable[[], T], /) -> Errand[T]:
        """Its answer is asked for later."""
        ...


class Aside:
    """A thread that does errands, one after the other. A context manager; what is left at its end is not done.

    It keeps off the core of who gives it work: in a virtual machine Linux takes cores that sleep for taken by others
    and wakes it there, where the two take turns.
    """

    def __init__(self) -> None:
        self._errands: SimpleQueue[Errand[object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="aside", daemon=True)
        self._cores = _cores()
        self._kept_off = -1

    def do(self, work: Callable[[], T], /) -> Errand[T]:
        """See `DoesAside`."""
        errand = Errand(work)
        self._keep_off()
        self._errands.put(errand)  # type: ignore[arg-type]
        return errand

    def __enter__(self) -> Aside:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._errands.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand.do()
            del errand  # not kept until there is another

    def _keep_off(self) -> None:
        thread = self._thread.native_id
        if thread is None or len(self._cores) < 2 or (core := _core()) == self._kept_off:
            return
        with suppress(OSError):  # cores may be taken away while we run
            os.sched_setaffinity(thread, self._cores - {core})
        self._kept_off = core


if sys.platform == "linux":
    _core: Callable[[], int] = ctypes.CDLL(None).sched_getcpu

    def _cores() -> set[int]:
        """Those that this process may use."""
        return os.sched_getaffinity(0)
else:

    def _core() -> int:
        return 0

    def _cores() -> set[int]:
        """Unknown, as is where a thread runs."""
        return set()
