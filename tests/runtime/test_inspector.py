"""prepare, infer, judge: one shot in, one verdict out, whatever happens."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest

from mapl_edge.arrays import UInt8Array
from mapl_edge.aside import Aside, Errand
from mapl_edge.calibration import Limits
from mapl_edge.camera_health import measure, reference_from_measures
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine
from mapl_edge.errors import BackendError
from mapl_edge.frame import Frame
from mapl_edge.runtime.camera_gate import CameraGate
from mapl_edge.runtime.inspector import Inspector
from mapl_edge.runtime.sources import Blank
from mapl_edge.testing import FakeEngine, ManualClock
from mapl_edge.verdict import ErrorCode, Outcome

T = TypeVar("T")
CONTRACT = InputContract(size_hw=(32, 64))


def frame(clock: ManualClock, grey: int = 100) -> Frame:
    """A plain picture of another size than the contract's."""
    return Frame(np.full((50, 80, 3), grey, np.uint8), 5, clock.monotonic(), clock.utc(), "part")


def inspector(engine: Engine, clock: ManualClock) -> Inspector:
    """Fails above a mean grey of 127.5."""
    return Inspector(engine, CONTRACT, Limits(fail=0.5), clock)


@pytest.mark.parametrize(("grey", "outcome"), [(100, Outcome.PASS), (200, Outcome.FAIL)])
def test_score_and_limit_make_the_verdict(grey: int, outcome: Outcome) -> None:
    """The picture reaches the engine prepared, the score reaches the verdict raw."""
    clock = ManualClock()

    verdict = inspector(FakeEngine(), clock).inspect(frame(clock, grey)).verdict

    assert verdict.outcome is outcome
    assert verdict.score == pytest.approx(grey / 255)
    assert (verdict.threshold, verdict.seq, verdict.name) == (0.5, 5, "part")


def test_stage_times_are_the_clocks() -> None:
    """Queue from capture to start, compute around the engine's call."""
    clock = ManualClock()
    shot = frame(clock)
    clock.advance(0.010)

    def slow(picture: UInt8Array) -> float:
        clock.advance(0.025)
        return 0.0

    times = inspector(FakeEngine(slow), clock).inspect(shot).verdict.stage_ms

    assert (times.queue, times.compute) == pytest.approx((10.0, 25.0))
    assert (times.prepare, times.judge) == (0.0, 0.0)
    assert times.total == pytest.approx(35.0)


def test_a_blank_is_an_error_verdict() -> None:
    """A trigger without a picture is still answered."""
    clock = ManualClock()
    engine = FakeEngine()
    shot = Blank(3, clock.monotonic(), clock.utc(), "x.png", "the PNG is truncated")

    verdict = inspector(engine, clock).inspect(shot).verdict

    assert verdict.outcome is Outcome.ERROR
    assert verdict.error == "the PNG is truncated"
    assert verdict.score is None
    assert engine.calls == 0


def test_an_engine_that_fails_or_gives_nan_is_an_error_verdict() -> None:
    """Never an exception on the frame path, and never PASS."""
    clock = ManualClock()

    def broken(picture: UInt8Array) -> float:
        raise BackendError("out of memory")

    failed = inspector(FakeEngine(broken), clock).inspect(frame(clock)).verdict
    nan = inspector(FakeEngine(lambda picture: float("nan")), clock).inspect(frame(clock)).verdict

    assert failed.outcome is nan.outcome is Outcome.ERROR
    assert failed.error == "out of memory"
    assert nan.score is None
    assert "nan" in str(nan.error)


def test_a_picture_too_small_for_the_roi_is_an_error_verdict() -> None:
    """The camera was changed, the model was not."""
    clock = ManualClock()
    contract = InputContract(size_hw=(32, 32), roi_xywh=(0, 0, 100, 100))

    verdict = Inspector(FakeEngine(), contract, Limits(fail=0.5), clock).inspect(frame(clock)).verdict

    assert verdict.outcome is Outcome.ERROR
    assert "region of interest" in str(verdict.error)


def test_the_fake_engine_has_the_real_ones_interface() -> None:
    """A double that drifts from the real thing proves nothing."""
    from mapl_edge.runtime import FusedEngine

    public = {name for name in dir(FakeEngine) if not name.startswith("_")}

    assert {"infer", "close", "name"} <= public
    for method in ("infer", "close"):
        assert getattr(FakeEngine, method).__annotations__ == getattr(FusedEngine, method).__annotations__


def gate() -> CameraGate:
    """Knows pictures of 80x50 px with some texture."""
    image = np.random.default_rng(0).integers(60, 190, (50, 80, 3), np.uint8)
    return CameraGate("one", reference_from_measures([measure(image)]))


def test_a_second_thread_changes_no_verdict() -> None:
    """Health, picture and statistics are the same, whoever looks at them."""
    clock, rng = ManualClock(), np.random.default_rng(1)
    images = [rng.integers(low, low + 130, (50, 80, 3), np.uint8) for low in (0, 60, 125)]
    shots = [Frame(image, 5, clock.monotonic(), clock.utc()) for image in images]
    alone, beside = (Inspector(FakeEngine(), CONTRACT, Limits(fail=0.5), clock, gate=gate()) for _ in range(2))

    with Aside() as aside:
        found = [beside.inspect(shot, aside.do).verdict for shot in shots]

    assert found == [alone.inspect(shot).verdict for shot in shots]
    assert {verdict.code for verdict in found} == {None, ErrorCode.CAMERA_FAULT}


def test_what_does_not_wait_for_the_engine_is_given_aside_before_its_call() -> None:
    """So that it costs the part no time: statistics and the camera's health."""
    clock = ManualClock()
    given: list[Errand[object]] = []
    at_call: list[int] = []

    def aside(work: Callable[[], T], /) -> Errand[T]:
        errand = Errand(work)
        given.append(errand)  # type: ignore[arg-type]
        return errand

    engine = FakeEngine(lambda picture: at_call.append(len(given)) or 0.0)
    image = np.random.default_rng(1).integers(60, 190, (50, 80, 3), np.uint8)
    one = Inspector(engine, CONTRACT, Limits(fail=0.5), clock, gate=gate())
    verdict = one.inspect(Frame(image, 5, 0.0, clock.utc()), aside).verdict

    assert at_call == [2]
    assert len(given) == 2
    assert verdict.statistics is not None
    assert given[0].answer() == tuple(list(verdict.statistics.as_json().values())[1:6])


def test_a_camera_s_fault_explains_a_picture_that_does_not_fit() -> None:
    """A camera that was set to another size is the reason; that its region of interest is gone comes of it."""
    clock = ManualClock()
    contract = InputContract(size_hw=(32, 32), roi_xywh=(0, 0, 80, 50))
    one = Inspector(FakeEngine(), contract, Limits(fail=0.5), clock, gate=gate())

    verdict = one.inspect(Frame(np.full((40, 70, 3), 9, np.uint8), 0, 0.0, clock.utc())).verdict

    assert verdict.code is ErrorCode.CAMERA_FAULT
