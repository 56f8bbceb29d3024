"""A live camera comes back, whatever its library does, and says what happened; no test here waits for a clock."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapl_edge.arrays import AnyArray
from mapl_edge.calibration import Limits
from mapl_edge.config import CameraConfig
from mapl_edge.contract import InputContract
from mapl_edge.errors import CameraError, CameraStalled, CameraUnreachable, PictureError
from mapl_edge.runtime import Inspector, run
from mapl_edge.runtime.camera import MOVES, Backoff, CameraChange, CameraState, Device, LiveCamera
from mapl_edge.testing import FakeEngine, HangingDevice, ManualClock

FAST = CameraConfig(open_timeout_s=5, stale_after_s=0.05)
NAME = "rtsp://user:hush@camera/1"


def picture(value: int = 7, size: int = 32) -> AnyArray:
    """A flat one."""
    return np.full((size, size, 3), value, np.uint8)


class Shelf:
    """Opens one device after the other; an exception is raised instead."""

    def __init__(self, *devices: Device | Exception) -> None:
        self.devices = iter(devices)
        self.opened = 0

    def __call__(self) -> Device:
        """The next device; after the last, hangs."""
        self.opened += 1
        device = next(self.devices, None)
        if device is None:
            threading.Event().wait()
        if isinstance(device, Exception):
            raise device
        assert device is not None
        return device


@pytest.fixture
def camera() -> Iterator[Callable[..., LiveCamera]]:
    """Make cameras whose back-off moves a manual clock; closed afterwards."""
    made: list[LiveCamera] = []

    def make(*devices: Device | Exception, **options: object) -> LiveCamera:
        clock = ManualClock()
        waited: list[float] = []

        def wait(seconds: float) -> bool:
            waited.append(seconds)
            clock.advance(seconds)
            return False

        options = {"limits": FAST, "clock": clock, "wait": wait, **options}
        camera = LiveCamera(NAME, Shelf(*devices), **options)  # type: ignore[arg-type]
        camera.waited = waited  # type: ignore[attr-defined]
        made.append(camera)
        return camera

    yield make
    for each in made:
        each.close()


@given(st.lists(st.sampled_from(CameraState), max_size=12))
def test_only_the_moves_in_the_table_are_possible(steps: list[CameraState]) -> None:
    """From any history; closed is the end, and a move after it is ignored."""
    camera = LiveCamera.__new__(LiveCamera)
    camera._uri, camera._state, camera._lock = "x", CameraState.IDLE, threading.RLock()
    camera._clock, camera._last_good, camera._on_change = ManualClock(), 0.0, None
    camera._told, camera._tell = "", lambda line: None
    for step in steps:
        before = camera.state
        if before is CameraState.CLOSED:
            assert not camera._move(step)
        elif step in MOVES[before]:
            assert camera._move(step)
        else:
            with pytest.raises(ValueError, match=f"from {before.value} to {step.value}"):
                camera._move(step)
            step = before
        assert camera.state is (CameraState.CLOSED if before is CameraState.CLOSED else step)


def test_every_state_can_be_closed_and_reached() -> None:
    """A table with an island would be a camera that cannot be given back."""
    assert all(CameraState.CLOSED in MOVES[state] for state in CameraState if state is not CameraState.CLOSED)
    assert set().union(*MOVES.values()) | {CameraState.IDLE} == set(CameraState)


@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_backoff_doubles_up_to_its_limit(failures: int, seed: int) -> None:
    """Within half and whole of the doubled delay, and the same every time."""
    backoff = Backoff(first_s=0.2, most_s=2.0, seed=seed)
    full = min(2.0, 0.2 * 2 ** min(failures, 10))

    assert full / 2 <= backoff.delay_s(failures) <= full
    assert backoff.delay_s(failures) == Backoff(0.2, 2.0, seed).delay_s(failures)


def test_cameras_do_not_come_back_in_step() -> None:
    """One switch takes many cameras down at once."""
    assert len({Backoff(seed=seed).delay_s(3) for seed in range(20)}) == 20


def test_a_hanging_read_is_left_behind(camera: Callable[..., LiveCamera]) -> None:
    """And the next connection goes on, numbered on."""
    hanging, good = HangingDevice([picture(1)]), HangingDevice([picture(2)])
    changes: list[CameraChange] = []
    live = camera(hanging, good, on_change=changes.append)

    shots = live.shots()
    first, second = next(shots), next(shots)

    assert (int(first.image[0, 0, 0]), int(second.image[0, 0, 0])) == (1, 2)
    assert second.seq > first.seq
    assert hanging.hangs.is_set()
    assert not hanging.closed.is_set()
    assert [change.state.value for change in changes] == ["opening", "running", "stalled", "opening", "running"]
    assert "gave no frame for 0.1 s" in changes[2].reason
    assert live.counts.lost == {"stalled": 1}
    assert live.counts.reconnects == 1
    hanging.released.set()
    assert hanging.closed.wait(5), "a library that wakes up later still gets its device closed"


def test_a_hanging_open_is_left_behind() -> None:
    """A first open that hangs is an error in time, not a station that never starts."""
    with pytest.raises(CameraStalled, match=r"rtsp://user:\*\*\*@camera/1 did not open within 0.1 s"):
        LiveCamera(NAME, Shelf(), CameraConfig(open_timeout_s=0.05))


def test_opened_but_silent_is_no_success() -> None:
    """Some cameras accept every viewer and send nothing."""
    device = HangingDevice()
    with pytest.raises(CameraStalled, match=r"opened, but gave no picture within 0.1 s"):
        LiveCamera(NAME, Shelf(device), CameraConfig(open_timeout_s=0.1))
    device.released.set()


def test_it_tries_for_ever_and_tells_with_numbers(camera: Callable[..., LiveCamera]) -> None:
    """Attempts 0, 1, 2, 4, ... of the same outage; then that it is back and how long it was away."""
    away = [CameraUnreachable("nothing listens")] * 40
    told: list[str] = []
    live = camera(HangingDevice([picture(), EOFError("gone")]), *away, HangingDevice([picture(9)]), tell=told.append)
    shots = live.shots()
    frames = [next(shots)]
    while int(frames[-1].image[0, 0, 0]) != 9:
        frames.append(next(shots))

    waited = live.waited  # type: ignore[attr-defined]
    assert len(waited) == 41
    assert max(waited) <= FAST.retry_at_most_s
    assert sum(waited) > 41 * 0.5
    assert live.counts.lost == {"ended": 1, "unreachable": 40}
    assert [line.split(" attempts")[0].rpartition(" ")[2] for line in told[:-1]] == [
        "0",
        "1",
        "2",
        "4",
        "8",
        "16",
        "32",
    ]
    assert told[-1].startswith("camera rtsp://user:***@camera/1 is back after ")
    assert f"{sum(waited):.1f} s, attempt 41" in told[-1]


def test_every_frame_of_a_camera_is_a_verdict_or_a_drop_of_the_run() -> None:
    """One number, wherever it was replaced: on its way out of the library, or on its way to the inspector."""
    read, stop = threading.Event(), threading.Event()

    class Counting(HangingDevice):
        def __init__(self) -> None:
            super().__init__(picture(n) for n in range(200))

        def close(self) -> None:
            read.set()
            super().close()

    device = Counting()
    source = LiveCamera("0", lambda: device, CameraConfig(stale_after_s=30))
    inspector = Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.9))

    def ends() -> None:
        assert device.hangs.wait(10)
        time.sleep(0.2)  # the last frames find their way
        device.released.set()
        stop.set()

    threading.Thread(target=ends, daemon=True).start()
    summary = run(source, inspector, [], stop)

    assert summary.frames + summary.dropped == 200
    assert "newer" not in str(source.counts)


def test_damaged_pictures_are_dropped_and_counted(camera: Callable[..., LiveCamera]) -> None:
    """The next one may be good."""
    live = camera(HangingDevice([PictureError("x", "is cut"), PictureError("x", "is cut"), picture()]))

    shot = next(live.shots())

    assert shot.seq == 2
    assert live.counts.dropped == {"corrupt": 2}


@pytest.mark.parametrize(
    "other",
    [picture(size=48), picture()[:, :, 0], picture().astype(np.uint16), np.zeros((32, 32, 4), np.uint8)],
    ids=["size", "grey", "depth", "alpha"],
)
def test_another_format_after_a_reconnect_is_an_error(camera: Callable[..., LiveCamera], other: AnyArray) -> None:
    """Limits were set for one format; a camera that fell back to another would be judged by wrong ones."""
    shots = camera(HangingDevice([picture()]), HangingDevice([other])).shots()
    next(shots)

    with pytest.raises(CameraError, match="after a reconnect, before it gave 32x32 px, 3 channels, uint8"):
        next(shots)


def test_close_wakes_whoever_waits_for_a_camera() -> None:
    """Also while it is away; a stop must not take as long as an outage."""
    stalled = threading.Event()
    live = LiveCamera(
        NAME,
        Shelf(HangingDevice([picture()]), CameraUnreachable("away")),
        CameraConfig(open_timeout_s=600, stale_after_s=0.05, retry_at_most_s=600),
        on_change=lambda change: stalled.set() if change.failures else None,
        tell=lambda line: None,
    )
    ended = threading.Thread(target=lambda: list(live.shots()), daemon=True)
    ended.start()
    assert stalled.wait(5)  # the second attempt; the third hangs in open

    live.close()
    live.close()

    ended.join(5)
    assert not ended.is_alive()
    assert live.state is CameraState.CLOSED


def test_what_a_library_raises_never_shows_the_password(camera: Callable[..., LiveCamera]) -> None:
    """Libraries quote the address they were given."""
    told: list[str] = []
    live = camera(
        HangingDevice([picture(), RuntimeError(f"cannot play {NAME} with hush")]),
        HangingDevice([picture(9)]),
        tell=told.append,
    )
    shots = live.shots()
    while int(next(shots).image[0, 0, 0]) != 9:
        pass

    assert "RuntimeError: cannot play rtsp://user:***@camera/1 with ***" in told[0]
    assert "hush" not in " ".join([*told, repr(live)])


def test_too_many_hanging_attempts_wait_for_one_to_end() -> None:
    """Each holds a thread; for days of outage that would be thousands."""
    devices = [HangingDevice([picture()]) for _ in range(9)]
    shelf = Shelf(*devices)
    told: list[str] = []
    attempts = 0

    def wait(seconds: float) -> bool:
        nonlocal attempts
        attempts += 1
        return attempts > 20

    live = LiveCamera("rtsp://hangs/1", shelf, FAST, ManualClock(), tell=told.append, wait=wait)
    for _ in live.shots():
        pass

    assert shelf.opened == 8
    assert any("8 attempts hang inside the camera's library" in line for line in told)
    for device in devices:
        device.released.set()
    live.close()
