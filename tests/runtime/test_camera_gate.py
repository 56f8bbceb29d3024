"""A camera's fault is an error of its own: the model has no say in it, people hear of it once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from mapl_edge.arrays import UInt8Array
from mapl_edge.aside import Aside
from mapl_edge.calibration import Limits
from mapl_edge.camera_health import CameraReference, measure, reference_from_measures
from mapl_edge.config import CameraConfig, HealthConfig, config_from_dict
from mapl_edge.contract import InputContract
from mapl_edge.errors import BackendError
from mapl_edge.frame import Frame
from mapl_edge.runtime import DeadlineInspector, Inspector, source_from_uri
from mapl_edge.runtime.camera_gate import LASTING, CameraGate, camera_gate
from mapl_edge.testing import FakeEngine, ManualClock, SyntheticLine
from mapl_edge.testing.faults import spoiled
from mapl_edge.verdict import ErrorCode, Outcome

LINE = SyntheticLine(size_hw=(128, 128))
CLOCK = ManualClock()


@pytest.fixture(scope="module")
def reference() -> CameraReference:
    """From good parts."""
    return reference_from_measures([measure(LINE.good(i).image) for i in range(20)])


def frame(image: UInt8Array, seq: int = 0) -> Frame:
    """A picture of the camera."""
    return Frame(image, seq, CLOCK.monotonic(), CLOCK.utc())


def test_a_fault_is_an_error_verdict_without_the_engine(reference: CameraReference) -> None:
    """With its code for machines, and the measure, the range and the bound for people."""
    engine = FakeEngine()
    gate = CameraGate("line-3", reference)
    inspector = Inspector(engine, InputContract(size_hw=(32, 32)), Limits(fail=0.9), CLOCK, gate=gate)

    bad = inspector.inspect(frame(spoiled(LINE.good(30).image, "blur"))).verdict
    good = inspector.inspect(frame(LINE.bad(30, "stain").image)).verdict

    assert (bad.outcome, bad.code, bad.score) == (Outcome.ERROR, ErrorCode.CAMERA_FAULT, None)
    assert str(bad.error).startswith("camera 'line-3' is blurred: sharpness across ")
    assert all(word in str(bad.error) for word in ("calibration's range", "bound", "clean or focus the lens"))
    assert json.loads(bad.json_line())["code"] == "CAMERA_FAULT"
    assert (good.outcome, good.code, engine.calls) == (Outcome.PASS, None, 1)


def test_it_holds_under_a_deadline_too(reference: CameraReference) -> None:
    """One path: the deadline's inspector asks the same gate, beside the engine; while a fault lasts, before it."""
    engine, gate = FakeEngine(), CameraGate("line-3", reference)

    def inspector_of(engine: FakeEngine) -> Inspector:
        return Inspector(engine, InputContract(size_hw=(32, 32)), Limits(fail=0.9), gate=gate)

    shots = source_from_uri("line:?parts=3&size=128&faults=dark").shots()
    with DeadlineInspector([lambda: engine], inspector_of, budget_ms=10_000) as inspector:  # type: ignore[arg-type]
        verdicts = [inspector.inspect(shot).verdict for shot in shots]

    assert {(verdict.outcome, verdict.code) for verdict in verdicts} == {(Outcome.ERROR, ErrorCode.CAMERA_FAULT)}
    assert (len(verdicts), engine.calls) == (3, 1)


@pytest.mark.parametrize("error", [None, BackendError("out of memory")], ids=["answers", "fails"])
def test_a_fault_that_is_found_beside_the_engine_stands(reference: CameraReference, error: Exception | None) -> None:
    """Whatever the engine says of such a picture; once the camera is well, its parts are judged."""

    def answer(picture: UInt8Array) -> float:
        if error is not None and picture.mean() < 60:
            raise error
        return 0.0

    one = Inspector(
        FakeEngine(answer), InputContract(size_hw=(32, 32)), Limits(fail=0.9), CLOCK, gate=CameraGate("one", reference)
    )
    images = [LINE.good(30).image, spoiled(LINE.good(31).image, "dark"), LINE.good(32).image, LINE.good(33).image]

    with Aside() as aside:
        found = [one.inspect(frame(image), aside.do).verdict for image in images]

    assert [verdict.code for verdict in found] == [None, ErrorCode.CAMERA_FAULT, None, None]
    assert [verdict.outcome for verdict in found].count(Outcome.PASS) == 3


def test_the_same_picture_five_times_is_a_frozen_live_camera(reference: CameraReference) -> None:
    """Four may be chance; a new picture ends it."""
    gate = CameraGate("line-3", reference)
    gate.begin("line:?fps=10", live=True)
    image = LINE.good(40).image

    faults = [gate.fault(frame(image.copy())) for _ in range(6)]

    assert faults[:4] == [None] * 4
    assert str(faults[4]).startswith("camera 'line-3' is frozen: 5 pictures in a row are the same")
    assert "6 pictures" in str(faults[5])
    assert gate.fault(frame(LINE.good(41).image)) is None


@pytest.mark.parametrize(
    ("uri", "live", "config", "faults"),
    [
        pytest.param("parts", False, HealthConfig(), 0, id="a folder may repeat a picture"),
        pytest.param("rtsp://camera/1", True, HealthConfig(), 0, id="a video encoder repeats a still scene"),
        pytest.param("rtsp://camera/1", True, HealthConfig(frozen_after=3), 18, id="as it is set"),
        pytest.param("0", True, HealthConfig(frozen=False), 0, id="switched off"),
    ],
)
def test_who_freezes_depends_on_the_source(
    reference: CameraReference, uri: str, live: bool, config: HealthConfig, faults: int
) -> None:
    """Twenty times the same picture."""
    gate = CameraGate("line-3", reference, config)
    gate.begin(uri, live)

    assert sum(gate.fault(frame(LINE.good(40).image.copy())) is not None for _ in range(20)) == faults


def test_triggers_that_share_a_frame_make_no_frozen_camera(reference: CameraReference) -> None:
    """They are answered from one picture; one that came from the camera again is another array."""
    gate = CameraGate("line-3", reference)
    gate.begin("line:?fps=10", live=True)
    image = LINE.good(40).image
    one = frame(image)

    assert [gate.fault(replace(one, seq=n)) for n in range(9)] == [None] * 9
    assert [gate.fault(frame(image.copy())) for _ in range(3)] == [None] * 3
    assert "5 pictures in a row" in str(gate.fault(again := frame(image.copy())))
    assert "5 pictures in a row" in str(gate.fault(replace(again, seq=1)))


def test_a_lasting_fault_is_told_once_and_once_when_it_is_over(reference: CameraReference) -> None:
    """Not for each part, and not at all for a short one."""
    told: list[str] = []
    gate = CameraGate("line-3", reference, tell=told.append)
    good, dark = LINE.good(40).image, spoiled(LINE.good(41).image, "dark")

    for image in [dark] * (LASTING - 1) + [good] + [dark] * (LASTING + 5):
        gate.fault(frame(image))
    assert len(told) == 1
    gate.fault(frame(good))
    gate.fault(frame(good))

    assert told[0].startswith("CAMERA_FAULT, 20 pictures in a row: camera 'line-3' is too dark")
    assert told[1:] == ["camera 'line-3' is well again after 25 pictures with a fault"]


def test_a_station_says_once_what_it_looks_at(reference: CameraReference) -> None:
    """And what its source cannot tell."""
    told: list[str] = []
    gate = camera_gate(CameraConfig(name="line-3"), reference, None, told.append)
    assert gate is not None
    gate.begin("parts", live=False)

    assert len(told) == 1
    assert told[0].startswith("camera health: size, light, sharpness, ")
    assert "no frozen: the source is not live" in told[0]


@pytest.mark.parametrize(
    ("health", "has_reference", "words"),
    [
        pytest.param("off", True, "camera health: off (camera.health)", id="switched off"),
        pytest.param("{}", False, "the calibration has no reference of the camera; calibrate again", id="none taken"),
    ],
)
def test_without_checks_or_reference_it_is_off_and_says_so(
    reference: CameraReference, health: str, has_reference: bool, words: str
) -> None:
    """Older calibrations have none, and run as they did."""
    told: list[str] = []
    config = config_from_dict({"health": yaml.safe_load(health)}, CameraConfig)

    assert camera_gate(config, reference if has_reference else None, None, told.append) is None
    assert len(told) == 1
    assert words in told[0]


def test_one_check_is_switched_off_by_name(reference: CameraReference) -> None:
    """`camera.health: {light: off, sharpness: off}` in station.yaml."""
    config = config_from_dict({"health": {"light": False, "sharpness": False}}, CameraConfig)
    gate = CameraGate("line-3", reference, config.health)

    assert gate.fault(frame(spoiled(LINE.good(40).image, "dark"))) is None
    assert gate.fault(frame(np.ascontiguousarray(LINE.good(40).image[:100]))) is not None
