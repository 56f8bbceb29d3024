"""An errand is done exactly once, by whoever comes to it first, and who asks gets what came of it."""

import threading

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
