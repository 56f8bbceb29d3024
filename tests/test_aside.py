"""An errand is done exactly once, by whoever comes to it first, and who asks gets what came of it."""

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from mapl_edge.aside import Aside, Errand


def test_by_itself_it_is_done_by_who_asks() -> None:
    """Where there is no second thread nothing is done ahead, and nothing twice."""
    done: list[int] = []
    errand = Errand(lambda: done.append(threading.get_ident()))
    before = list(done)

    errand.answer()
    errand.answer()

    assert (before, done) == ([], [threading.get_ident()])


def test_a_second_thread_does_it_meanwhile() -> None:
    """Nobody has to ask for it to begin."""
    begun = threading.Event()

    def work() -> int:
        begun.set()
        return threading.get_ident()

    with Aside() as aside:
        errand = aside.do(work)
        assert begun.wait(10)

        assert errand.answer() != threading.get_ident()


def test_who_asks_does_not_wait_for_a_thread_that_has_not_begun() -> None:
    """A busy machine may wake the other thread late; the part in hand does not pay for that."""
    end = threading.Event()
    with Aside() as aside:
        busy = aside.do(lambda: end.wait(10))
        errand = aside.do(threading.get_ident)
        answer = errand.answer()
        end.set()

        assert answer == threading.get_ident()
        assert busy.answer()


def test_what_was_begun_is_waited_for() -> None:
    """It is not done a second time, though it is asked for in the middle."""
    begun, end = threading.Event(), threading.Event()
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        begun.set()
        assert end.wait(10)
        return "done"

    with Aside() as aside:
        errand = aside.do(work)
        assert begun.wait(10)
        threading.Timer(0.05, end.set).start()

        assert errand.answer() == "done"
    assert calls == [1]


@pytest.mark.parametrize("aside", [True, False])
def test_an_error_is_raised_for_who_asks(aside: bool) -> None:
    """The thread outlives it."""

    def work() -> None:
        raise ValueError("broken")

    with Aside() as other:
        errand = other.do(work) if aside else Errand(work)

        with pytest.raises(ValueError, match="broken"):
            errand.answer()
        assert other.do(lambda: 5).answer() == 5


def test_the_end_stops_the_thread() -> None:
    """What is left is done by who asks for it."""
    before = threading.active_count()
    with Aside() as aside:
        pass
    errand = aside.do(lambda: 7)

    assert threading.active_count() == before
    assert errand.answer() == 7


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """Those of this process, which are given back."""
    if sys.platform != "linux":
        pytest.skip("no cores to be chosen")
    before = os.sched_getaffinity(0)
    yield sorted(before)
    os.sched_setaffinity(0, before)


def test_the_thread_keeps_off_the_core_that_waits_for_it(cores: list[int]) -> None:
    """Wherever that is, and whoever moves there."""
    if len(cores) < 2:
        pytest.skip("one core")
    with Aside() as aside:
        thread = aside._thread.native_id
        assert thread is not None
        for core in (cores[0], cores[1], cores[1], cores[0]):
            os.sched_setaffinity(0, {core})

            assert aside.do(lambda: 7).answer() == 7
            assert os.sched_getaffinity(thread) == set(cores) - {core}


def test_where_there_is_one_core_it_is_shared(cores: list[int]) -> None:
    """As `taskset -c 0 mapl-edge run` wants it."""
    os.sched_setaffinity(0, cores[:1])
    with Aside() as aside:
        assert aside.do(lambda: 7).answer() == 7
        assert os.sched_getaffinity(aside._thread.native_id or -1) == set(cores[:1])


def test_cores_that_are_taken_away_are_no_error(cores: list[int]) -> None:
    """By a container's limits, say."""
    with Aside() as aside:
        aside._cores = {4095, 4096}

        assert aside.do(lambda: 7).answer() == 7
