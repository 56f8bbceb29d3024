"""Cores: where the threads of one call of an engine run. Two on one core would wait for each other, or worse, spin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
CONTROL_GROUPS, OURS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNLIMITED = ("", "max", "-1")
LARGEST = 1024  # capacity of a core; of the small ones of big.LITTLE less


def cores_here() -> list[frozenset[int]]:
    """The cores that this thread may use, the largest first, each with its logical processors.

    None where nobody knows, or where a container or unit has a share of their time: threads that spin would use it up.
    """
    if sys.platform != "linux" or any(_read(path).split(" ")[0] not in UNLIMITED for path in _quotas()):
        return []
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) & allowed for cpu in allowed}
    return sorted(cores, key=lambda core: (-_capacity(min(core)), min(core)))


def _quotas() -> Iterator[Path]:
    """What says how much time we may take: of our control groups and all above them, of either version (cgroups(7))."""
    for line in ["0::/", "1:cpu:/", *_read(OURS).splitlines()]:
        _, kinds, group = (*line.split(":", 2), "", "")[:3]
        if kinds and "cpu" not in kinds.split(","):
            continue
        root, name = (CONTROL_GROUPS / "cpu", "cpu.cfs_quota_us") if kinds else (CONTROL_GROUPS, "cpu.max")
        own = root / group.lstrip("/")
        yield from (place / name for place in (own, *own.parents) if place.is_relative_to(root))


def _capacity(cpu: int) -> int:
    with suppress(ValueError):
        return int(_read(TOPOLOGY / f"cpu{cpu}/cpu_capacity"))
    return LARGEST


def _read(path: Path) -> str:
    """What a file of the kernel says; nothing where there is none."""
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _siblings(cpu: int) -> frozenset[int]:
    """The logical processors of one core, as the kernel writes them: "0-1", "0,4"."""
    found = {cpu}
    with suppress(ValueError):
        for part in _read(TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").split(","):
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
