"""The newest thing wins, and whoever leaves frees the other side."""

import threading

import pytest

from mapl_edge.runtime.slot import Closed, NewestSlot


def test_newest_wins_and_drops_are_counted() -> None:
    """A slow consumer sees the present, not a backlog."""
    slot: NewestSlot[int] = NewestSlot()
    for item in range(5):
        slot.put(item)

    assert slot.take(timeout_s=0) == 4
    assert slot.dropped == 4
    assert slot.take(timeout_s=0) is None


def test_a_consumer_that_leaves_frees_the_producer() -> None:
    """A producer that waits for nobody would never let the program end."""
    slot: NewestSlot[int] = NewestSlot()
    slot.close()

    with pytest.raises(Closed):
        slot.put(1)


def test_a_producer_that_fails_frees_the_consumer_with_its_error() -> None:
    """The last frame is still delivered; then the reason arrives, even to one who already waits."""
    slot: NewestSlot[int] = NewestSlot()
    slot.put(7)
    slot.close(OSError("unplugged"))

    assert slot.take(timeout_s=0) == 7
    with pytest.raises(OSError, match="unplugged"):
        slot.take(timeout_s=60)


def test_closing_wakes_a_waiting_consumer() -> None:
    """No wait outlives its reason."""
    slot: NewestSlot[int] = NewestSlot()
    ended = threading.Event()

    def consume() -> None:
        with pytest.raises(Closed):
            slot.take(timeout_s=60)
        ended.set()

    thread = threading.Thread(target=consume)
    thread.start()
    slot.close()
    thread.join(timeout=10)

    assert ended.is_set()
