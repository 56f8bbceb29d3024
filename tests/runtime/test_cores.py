"""Cores: each thread of an engine's call has one of its own, and who calls is put beside them only meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.bundle import Bundle
from mapl_edge.runtime import cores
from mapl_edge.runtime.cores import cores_here, staying_on
from mapl_edge.runtime.onnx_session import OnnxSession

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no cores to be chosen")


@pytest.fixture
def allowed() -> Iterator[frozenset[int]]:
    """The processors of this process, which are given back."""
    before = os.sched_getaffinity(0)
    yield frozenset(before)
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("siblings", "found"),
    [
        (["0,4", "1,5", "2", "3", "0,4"], [{0, 4}, {1}]),  # 5 is not ours
        (["0-1", "0-1", "2-3", "2-3"], [{0, 1}, {4}]),  # 2 and 3 are not ours, of 4 nothing is known
        ([], [{0}, {1}, {4}]),
        (["mended"] * 2, [{0}, {1}, {4}]),
    ],
    ids=["far-apart", "side-by-side", "unknown", "unreadable"],
)
def test_a_core_is_the_processors_that_share_it(
    siblings: list[str], found: list[set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads on the halves of one core would take turns as well."""
    for cpu, line in enumerate(siblings):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(f"{line}\n")
    monkeypatch.setattr(cores, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 4})

    assert cores_here() == found


def test_the_caller_gets_a_large_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session does in one thread alone is done there."""
    for cpu, capacity in enumerate((460, 460, 1024, 1024)):
        (tmp_path / f"cpu{cpu}").mkdir()
        (tmp_path / f"cpu{cpu}/cpu_capacity").write_text(f"{capacity}\n")
    monkeypatch.setattr(cores, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 2, 3})

    assert cores_here() == [{2}, {3}, {0}, {1}]


@pytest.mark.parametrize(
    ("ours", "name", "limit"),
    [
        ("0::/", "cpu.max", "150000 100000"),
        ("0::/system.slice/station.service", "system.slice/station.service/cpu.max", "50000 100000"),
        ("0::/system.slice/station.service", "system.slice/cpu.max", "50000 100000"),
        ("12:memory:/\n4:cpu,cpuacct:/docker/1", "cpu/docker/1/cpu.cfs_quota_us", "150000"),
        ("", "cpu/cpu.cfs_quota_us", "150000"),
    ],
    ids=["container", "unit", "slice", "version-1", "unknown"],
)
def test_who_has_a_share_of_the_time_has_no_cores_to_itself(
    ours: str, name: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all cores it sees it may use but a share."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "ours").write_text(f"{ours}\n")
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "OURS", tmp_path / "ours")
    found = {}
    for content in (limit, "max 100000" if path.name == "cpu.max" else "-1"):
        path.write_text(f"{content}\n")
        found[content] = cores_here()

    limited, unlimited = found.values()
    assert limited == []
    assert unlimited


def test_a_thread_stays_there_and_is_free_again(allowed: frozenset[int]) -> None:
    """Whatever happens meanwhile, and also where the core is no more."""
    last = frozenset({max(allowed)})
    seen = []

    def fail() -> None:
        with staying_on(last):
            seen.append(os.sched_getaffinity(0))
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert seen == [last]
    assert os.sched_getaffinity(0) == allowed

    for nothing in (frozenset[int](), frozenset({4095})):
        with staying_on(nothing):
            assert os.sched_getaffinity(0) == allowed


def test_all_cores_have_one_thread_of_a_session_each(bundle: Bundle, allowed: frozenset[int]) -> None:
    """The first is the caller's, who is let go afterwards."""
    if not cores_here():
        pytest.skip("no cores of its own in this container")
    before = set(os.listdir("/proc/self/task"))
    session = OnnxSession(bundle.path / "model.onnx")
    mine = set(os.listdir("/proc/self/task")) - before
    picture = np.zeros((1, *bundle.contract.size_hw, 3), np.uint8)
    session.run({"image": picture})

    first, *others = cores_here()
    assert sorted(os.sched_getaffinity(int(thread)) for thread in mine) == sorted(map(set, others))
    assert session._core == (first if others else set())
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_were_counted_run_anywhere(bundle: Bundle, threads: int, allowed: frozenset[int]) -> None:
    """Several engines that take a few each must not meet on the same cores."""
    before = set(os.listdir("/proc/self/task"))
    session = OnnxSession(bundle.path / "model.onnx", threads)
    mine = set(os.listdir("/proc/self/task")) - before

    assert [os.sched_getaffinity(int(thread)) for thread in mine] == [allowed] * (threads - 1)
    assert session._core == set()
