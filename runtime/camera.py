"""A live camera that comes back: whatever its library does, the run goes on and says what happened, with numbers.

The library is only ever called from a thread of its own, which is left behind when it hangs. `LiveCamera.shots` gives
good frames and nothing else: while the camera is away it waits, tries again and tells; it ends by `close` alone, or by
a camera that came back as another one (`CameraError`).
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Protocol

from mapl_edge.arrays import AnyArray
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.config import CameraConfig
from mapl_edge.errors import CameraError, CameraStalled, CameraUnreachable, MaplEdgeError, PictureError
from mapl_edge.frame import Frame
from mapl_edge.picture import bgr_from_pixels
from mapl_edge.redact import redact, redact_text
from mapl_edge.runtime.slot import Closed, NewestSlot

logger = logging.getLogger(__name__)

MAX_HUNG = 8  # threads left behind in a library that hangs; beyond this we wait for one to come back
HUNG: dict[str, list[_Connection]] = {}  # of each camera; they outlive the `LiveCamera` that began them
CLOSE_S = 1.0  # how long a reading thread may take to give its device back

Tell = Callable[[str], None]


class CameraState(str, Enum):
    """Where a camera is in its life."""

    IDLE = "idle"
    OPENING = "opening"
    RUNNING = "running"
    STALLED = "stalled"
    CLOSED = "closed"


MOVES: Mapping[CameraState, frozenset[CameraState]] = MappingProxyType(
    {
        CameraState.IDLE: frozenset({CameraState.OPENING, CameraState.CLOSED}),
        CameraState.OPENING: frozenset({CameraState.RUNNING, CameraState.STALLED, CameraState.CLOSED}),
        CameraState.RUNNING: frozenset({CameraState.STALLED, CameraState.CLOSED}),
        CameraState.STALLED: frozenset({CameraState.OPENING, CameraState.CLOSED}),
        CameraState.CLOSED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class CameraChange:
    """One move of a camera from state to state.

    Attributes:
        reason: why, without secrets; "" where the move says it all.
        failures: attempts in a row that failed.
        down_s: seconds since the last good frame (since the first attempt, before there was one).
    """

    before: CameraState
    state: CameraState
    t_mono: float
    reason: str
    failures: int
    down_s: float


@dataclass
class CameraCounts:
    """What happened to a camera so far.

    Attributes:
        frames: good frames handed on.
        reconnects: how often it came back.
        lost: why it went, or did not come: "stalled" (no frame in time), "ended" (the library said so), "unreachable".
        dropped: frames not handed on: "newer" (replaced before anybody took it), "stale", "corrupt".
    """

    frames: int = 0
    reconnects: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        told = Counter({why: n for why, n in self.dropped.items() if why != "newer"})  # the run tells those
        lost, dropped = (
            ", ".join(f"{n} {why}" for why, n in sorted(counter.items())) or "none" for counter in (self.lost, told)
        )
        return f"{self.frames} frames, {self.reconnects} reconnects (lost: {lost}), dropped: {dropped}"


class Device(Protocol):
    """A camera as its library shows it; made, used and closed in one thread."""

    def read(self) -> AnyArray:
        """The next picture: uint8 or uint16, (H, W) or (H, W, C), BGR order; may block.

        Raises:
            PictureError: this one is damaged, the next may be good.
            CameraError: there will be no more; open anew.
        """
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt: doubling from `first_s` to `most_s`, each shortened by up to a half.

    The jitter follows from the seed and the number of failures alone, so cameras that went together (one switch) do
    not come back in step, and a test knows every delay.
    """

    first_s: float = 0.2
    most_s: float = 2.0
    seed: int = 0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after `failures` attempts in a row that failed."""
        full = min(self.most_s, self.first_s * 2.0 ** min(failures, 32))
        return full * random.Random(f"{self.seed}/{failures}").uniform(0.5, 1.0)


class LiveCamera:
    """A `Source` around a device that may hang, end, vanish and come back.

    Opened when made: `open_device` is called in a thread, and the first picture is waited for.

    Args:
        uri: what the user calls it; shown without its secrets.
        open_device: opens the device anew; raises CameraError (CameraUnreachable) when it cannot.
        limits: `open_timeout_s` bounds opening and first picture, `stale_after_s` every later one.
        tell: gets one line for each change worth telling: attempts 1, 2, 4, 8, ... of an outage, new reasons, its end.
        on_change: gets every change.
        wait: waits so many seconds and says whether the camera was closed meanwhile; tests bring their own.

    Raises:
        CameraUnreachable: the first attempt failed.
        CameraStalled: the first attempt gave no picture in time.
    """

    live = True

    def __init__(
        self,
        uri: str,
        open_device: Callable[[], Device],
        limits: CameraConfig | None = None,
        clock: Clock | None = None,
        *,
        tell: Tell = logger.warning,
        on_change: Callable[[CameraChange], None] | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._uri, self._open_device = uri, open_device
        self._limits, self._clock = limits or CameraConfig(), clock or SystemClock()
        self._tell, self._on_change = tell, on_change
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._backoff = Backoff(most_s=self._limits.retry_at_most_s, seed=zlib.crc32(redact(uri).encode()))
        self._lock = threading.RLock()  # a change may be told to someone who closes us
        self._state = CameraState.IDLE
        self._counts = CameraCounts()
        self._numbers = itertools.count()
        self._attempt: _Connection | None = None
        self._hung = HUNG.setdefault(uri, [])
        self._format: str | None = None
        self._told = ""
        self._last_good = self._clock.monotonic()
        try:
            self._connection = self._connect(failures=0)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"LiveCamera({redact(self._uri)!r}, {self._state.value})"

    @property
    def state(self) -> CameraState:
        """Where it is now."""
        return self._state

    @property
    def replaced(self) -> int:
        """Frames that newer ones replaced before the run took them."""
        return self.counts.dropped["newer"]

    @property
    def counts(self) -> CameraCounts:
        """What happened so far; a copy."""
        now = self._counts
        newer = self._connection.slot.dropped if hasattr(self, "_connection") else 0
        dropped = now.dropped + Counter({"newer": newer})
        return CameraCounts(now.frames, now.reconnects, Counter(now.lost), dropped)

    def shots(self) -> Iterator[Frame]:
        """Good frames for ever; seq counts what the camera gave, so gaps are dropped frames.

        Raises:
            CameraError: the camera came back with another size, depth or number of channels.
        """
        while not self._closing.is_set():
            try:
                grab = self._connection.take(self._limits.stale_after_s)
            except Closed:
                return
            except CameraError as exc:
                if not self._recover(exc):
                    return
                continue
            now = self._clock.monotonic()
            if now - grab.t_mono > self._limits.stale_after_s:  # whoever takes our frames was away for long
                self._counts.dropped["stale"] += 1
                continue
            self._check_format(grab.pixels)
            self._last_good = now
            self._counts.frames += 1
            image = bgr_from_pixels(grab.pixels, self._limits.name)
            yield Frame(image, grab.seq, grab.t_mono, grab.captured_at)

    def close(self) -> None:
        """Wake and end `shots`, give the device back; from any thread, twice is harmless."""
        self._closing.set()
        with self._lock:
            if self._state is CameraState.CLOSED:
                return
            counts = self.counts
            self._move(CameraState.CLOSED)
        if self._attempt is not None:  # the newest connection: opening, running, or already left behind
            self._attempt.leave()
            if not self._attempt.join(CLOSE_S):
                logger.warning("camera %s does not give its device back in %.1f s", redact(self._uri), CLOSE_S)
        if counts.lost or counts.dropped - Counter({"newer": counts.dropped["newer"]}):
            self._tell(f"camera {redact(self._uri)} closed: {counts}")

    def _connect(self, failures: int) -> _Connection:
        """One attempt; the connection has its first picture waiting.

        Raises:
            Closed: the camera was closed meanwhile.
            CameraError: it failed, within the limits.
        """
        if not self._move(CameraState.OPENING, failures=failures):
            raise Closed
        self._hung[:] = [connection for connection in self._hung if not connection.join(0)]
        if len(self._hung) >= MAX_HUNG:
            raise CameraStalled(
                f"{redact(self._uri)}: {MAX_HUNG} attempts hang inside the camera's library; waiting for one to end, "
                "restart the station if none does"
            )
        connection = _Connection(self._uri, self._open_device, self._clock, self._numbers, self._counts)
        self._attempt = connection
        try:
            if self._closing.is_set():
                raise Closed
            connection.wait_for_first(self._limits.open_timeout_s)
        except BaseException:
            self._abandon(connection)
            raise
        if not self._move(CameraState.RUNNING, failures=failures):
            self._abandon(connection)
            raise Closed
        return connection

    def _recover(self, why: CameraError) -> bool:
        """Try until the camera is back; False when it was closed."""
        self._counts.dropped["newer"] += self._connection.slot.dropped
        self._connection.slot.dropped = 0
        self._abandon(self._connection)
        for failures in itertools.count():
            self._counts.lost[_cause(why)] += 1
            if not self._move(CameraState.STALLED, str(why), failures):
                return False
            if self._wait(self._backoff.delay_s(failures)) or self._closing.is_set():
                return False
            try:
                connection = self._connect(failures + 1)
            except Closed:
                return False
            except CameraError as exc:
                why = exc
                continue
            self._connection = connection
            self._counts.reconnects += 1
            return True
        raise AssertionError("itertools.count ended")

    def _abandon(self, connection: _Connection) -> None:
        connection.leave()
        if not connection.join(0):
            self._hung.append(connection)

    def _check_format(self, pixels: AnyArray) -> None:
        found = _format_of(pixels)
        self._format = self._format or found
        if found != self._format:
            raise CameraError(
                f"camera {redact(self._uri)} gives {found} after a reconnect, before it gave {self._format}; "
                "set the camera back, or start the run anew to accept this"
            )

    def _move(self, state: CameraState, reason: str = "", failures: int = 0) -> bool:
        """Change the state and report it; False when the camera is closed already.

        Raises:
            ValueError: no such move; a fault of ours.
        """
        with self._lock:
            before = self._state
            if before is CameraState.CLOSED:
                return False
            if state not in MOVES[before]:
                raise ValueError(f"a camera cannot go from {before.value} to {state.value}")
            self._state = state
        now = self._clock.monotonic()
        change = CameraChange(before, state, now, reason, failures, now - self._last_good)
        if self._on_change is not None:
            self._on_change(change)
        self._tell_if_worth(change)
        return True

    def _tell_if_worth(self, change: CameraChange) -> None:
        shown = redact(self._uri)
        if change.state is CameraState.STALLED:
            again = change.failures & (change.failures - 1) == 0  # 0, 1, 2, 4, 8, ...
            if again or change.reason != self._told:
                self._told = change.reason
                self._tell(
                    f"camera {shown} is away for {change.down_s:.1f} s, {change.failures} attempts: {change.reason}"
                )
        elif change.state is CameraState.RUNNING and change.failures:
            self._told = ""
            self._tell(f"camera {shown} is back after {change.down_s:.1f} s, attempt {change.failures}")


@dataclass(frozen=True, slots=True, eq=False)
class _Grab:
    """A picture as the library gave it."""

    pixels: AnyArray
    seq: int
    t_mono: float
    captured_at: datetime


class _Connection:
    """One life of a device: a thread opens it, reads until nobody takes its pictures, and closes it."""

    def __init__(
        self,
        uri: str,
        open_device: Callable[[], Device],
        clock: Clock,
        numbers: Iterator[int],
        counts: CameraCounts,
    ) -> None:
        self._uri, self._open_device, self._clock = uri, open_device, clock
        self._numbers, self._counts = numbers, counts
        self._opened = self._given = False
        self._first = threading.Event()  # set at the first picture, and at the end
        self.slot: NewestSlot[_Grab] = NewestSlot()
        self._thread = threading.Thread(target=self._live, name="camera", daemon=True)  # daemon: it may hang for ever
        self._thread.start()

    def wait_for_first(self, timeout_s: float) -> None:
        """Return when a picture waits or the device failed (then `take` tells why).

        Raises:
            CameraStalled: neither happened in time.
            CameraError: the device failed before its first picture.
            Closed: `leave` was called.
        """
        if not self._first.wait(timeout_s):
            did = "opened, but gave no picture" if self._opened else "did not open"
            raise CameraStalled(
                f"{redact(self._uri)} {did} within {timeout_s:.1f} s (camera.open_timeout_s); "
                "check the camera and its cable, or raise the limit"
            )
        if self._given:
            return
        if self.slot.error is not None:
            raise self.slot.error
        if self.slot.closed:
            raise Closed

    def take(self, timeout_s: float) -> _Grab:
        """The newest picture.

        Raises:
            CameraStalled: none came in time.
            CameraError: the device failed.
            Closed: `leave` was called.
        """
        grab = self.slot.take(timeout_s)
        if grab is None:
            raise CameraStalled(
                f"camera {redact(self._uri)} gave no frame for {timeout_s:.1f} s (camera.stale_after_s); "
                "check the cable or raise the limit"
            )
        return grab

    def leave(self) -> None:
        """Let the thread end as soon as its library lets go of it."""
        self.slot.close()
        self._first.set()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _live(self) -> None:
        try:
            device = self._open_device()
            self._opened = True
            try:
                while True:
                    self._read(device)
            finally:
                device.close()
        except Closed:
            self.slot.close()
        except MaplEdgeError as exc:
            self.slot.close(exc)
        except Exception as exc:  # a camera's library may raise anything, and the run must outlive it
            said = redact_text(" ".join(str(exc).split()), self._uri)
            self.slot.close(CameraError(f"camera {redact(self._uri)} failed: {type(exc).__name__}: {said}"))
        finally:
            self._first.set()

    def _read(self, device: Device) -> None:
        try:
            pixels = device.read()
        except PictureError:
            next(self._numbers)
            self._counts.dropped["corrupt"] += 1
            if self.slot.closed:
                raise Closed from None
            return
        self.slot.put(_Grab(pixels, next(self._numbers), self._clock.monotonic(), self._clock.utc()))
        self._given = True
        self._first.set()


def _cause(why: CameraError) -> str:
    if isinstance(why, CameraStalled):
        return "stalled"
    return "unreachable" if isinstance(why, CameraUnreachable) else "ended"


def _format_of(pixels: AnyArray) -> str:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f"{pixels.shape[1]}x{pixels.shape[0]} px, {channels} channels, {pixels.dtype}"
