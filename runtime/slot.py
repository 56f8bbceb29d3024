"""A slot of one: the newest thing wins, whoever leaves frees the other side."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - a state, not a failure
    """The slot was closed; there will be nothing more."""


class NewestSlot(Generic[T]):
    """Between a producer that must not wait and a consumer that wants the present.

    Attributes:
        dropped: how many things were replaced before anyone took them.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: T) -> None:
        """Offer an item; an older one that nobody took is dropped and counted.

        Raises:
            Closed: nobody will take it.
        """
        with self._condition:
            if self._closed:
                raise Closed
            if self._item is not None:
                self.dropped += 1
            self._item = item
            self._condition.notify_all()

    def take(self, timeout_s: float) -> T | None:
        """The newest item, waiting at most `timeout_s` seconds; None when nothing came.

        Raises:
            Closed: the slot is closed and empty.
            BaseException: whatever error the producer closed the slot with.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            if self._item is not None:
                item, self._item = self._item, None
                return item
            if self._closed:
                raise self._error or Closed
            return None

    @property
    def left(self) -> int:
        """How many things nobody took, which nobody replaced either: 0 or 1."""
        return int(self._item is not None)

    @property
    def closed(self) -> bool:
        """Whether either side has left."""
        return self._closed

    @property
    def error(self) -> BaseException | None:
        """What the producer closed it with, if anything."""
        return self._error

    def close(self, error: BaseException | None = None) -> None:
        """End it for both sides; the consumer may still take the last item, then meets `error`."""
        with self._condition:
            self._closed = True
            self._error = self._error or error
            self._condition.notify_all()
