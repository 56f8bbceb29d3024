"""Cores: where the threads of one call of an engine run. Two on one core would wait for each other, or worse, spin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def cores_here() -> list[frozenset[int]]:
    """The cores that this thread may use, in order, each with its logical processors; none where nobody knows."""
    if sys.platform != "linux":
        return []
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) & allowed for cpu in allowed}
    return sorted(cores, key=min)


def _siblings(cpu: int) -> frozenset[int]:
    """The logical processors of one core, as the kernel writes them: "0-1", "0,4"."""
    found = {cpu}
    with suppress(OSError, ValueError):
        for part in (TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


@contextmanager
def staying_on(core: frozenset[int]) -> Iterator[None]:
    """Meanwhile this thread runs there; anywhere where nothing is named."""
    if sys.platform != "linux" or not core:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # it may have been taken away
        os.sched_setaffinity(0, core)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)
