"""Cores: where the threads of one call of an engine run. Two on one core would wait for each other, or worse, spin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
QUOTAS = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")  # of a container, by age
UNLIMITED = ("", "max", "-1")


def cores_here() -> list[frozenset[int]]:
    """The cores that this thread may use, in order, each with its logical processors.

    None where nobody knows, or where a container has a share of their time: threads that spin would use it up.
    """
    if sys.platform != "linux" or any(_quota(path) not in UNLIMITED for path in QUOTAS):
        return []
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) & allowed for cpu in allowed}
    return sorted(cores, key=min)


def _quota(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().split(" ")[0].strip()
    return ""


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
