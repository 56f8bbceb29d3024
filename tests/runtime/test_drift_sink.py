"""The drift sink follows what passed, tells each drift once, and never stands in the way of verdicts."""

import json
import threading
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Calibration, Limits
from mapl_edge.config import DriftConfig, StoreConfig
from mapl_edge.frame import Frame
from mapl_edge.part_statistics import STATISTICS, PartStatistics
from mapl_edge.runtime import DriftSink, Inspection, RunIdentity, open_store
from mapl_edge.verdict import Outcome, Verdict

WHEN = datetime(2026, 11, 22, 6, tzinfo=timezone.utc)
STATION = {"run": "r1", "camera": "line-3", "bundle": "b" * 64, "calibration": "c" * 64}
RNG = np.random.default_rng(1)
GOOD = RNG.standard_normal((300, len(STATISTICS)))


def calibration(baseline: bool = True, place: bool = True) -> Calibration:
    """Of standard normal statistics."""
    columns = {name: GOOD[:, k].tolist() for k, name in enumerate(STATISTICS) if k}
    promise = dict.fromkeys(("max_false_reject", "confidence", "achieved"), 0.05)
    return Calibration.model_validate(
        {
            "created_at": "",
            "created_by": "",
            "model_digest": "",
            "pictures": {},
            "limits": {"fail": 9.0},
            "scores": GOOD[:, 0].tolist(),
            "baseline": columns if baseline else {},
            "place": {"columns": (1, 2), "rows": (1, 2)} if place else None,
            "promise": promise | {"n_good": 300, "n_above": 0, "n_needed": 59},
        }
    )


def inspection(seq: int, darker: float = 0.0, outcome: Outcome = Outcome.PASS) -> Inspection:
    """A part whose brightness is off by so many standard deviations."""
    row = np.random.default_rng([2, seq]).standard_normal(len(STATISTICS))
    statistics = PartStatistics(*row[1:].tolist())
    statistics = replace(statistics, brightness=statistics.brightness - darker)
    verdict = Verdict(outcome, seq, "", WHEN, float(row[0]), 9.0, statistics=statistics)
    return Inspection(verdict, Frame(np.zeros((16, 16, 3), np.uint8), seq, 0.0, WHEN, ""), None)


def sink(told: list[str], store: Path | None = None, **config: object) -> DriftSink:
    """Told lines go into the list."""
    return DriftSink(calibration(), DriftConfig.model_validate(config), STATION, store, told.append)


def test_a_darker_line_is_told_once_with_an_event(tmp_path: Path) -> None:
    """One line for people, one JSON object in the file, however long it goes on."""
    told: list[str] = []
    events = tmp_path / "new" / "drift.jsonl"
    watch = sink(told, events=events)
    for seq in range(300):
        watch.emit(inspection(seq, darker=2.0))
    watch.close()

    (event,) = (json.loads(line) for line in events.read_text().splitlines())
    assert event["event"] == "drift"
    assert event["statistic"] == "brightness"
    assert (event["seq"], event["camera"], event["captured_at"]) == (
        event["part"] - 1,
        "line-3",
        "2026-11-22T06:00:00.000Z",
    )
    assert len(told) == 1
    assert told[0].startswith("camera 'line-3': DRIFT after")
    assert "brightness" in told[0]


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.REVIEW, Outcome.LATE, Outcome.ERROR])
def test_only_parts_that_passed_are_followed(outcome: Outcome) -> None:
    """A run of defects is a matter for the gate."""
    told: list[str] = []
    watch = sink(told)
    for seq in range(200):
        watch.emit(inspection(seq, darker=3.0, outcome=outcome))
    watch.close()

    assert watch.drift.parts == 0
    assert not told


def test_a_disk_that_refuses_does_not_stop_the_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The people's line is told all the same."""
    (tmp_path / "file").write_text("")
    told: list[str] = []
    watch = sink(told, events=tmp_path / "file" / "drift.jsonl")
    for seq in range(100):
        watch.emit(inspection(seq, darker=3.0))
    watch.close()

    assert len(told) == 1
    assert "cannot write" in caplog.text or "file" in caplog.text


def test_a_start_goes_on_where_the_store_ends(tmp_path: Path) -> None:
    """Half of the evidence before a restart and half after it are an alarm; of another calibration they are not."""
    identity = RunIdentity("r0", "line-3", STATION["bundle"], STATION["calibration"], "fake", Limits(fail=9.0))
    for calibration_digest, folder in ((STATION["calibration"], "same"), ("d" * 64, "other")):
        with open_store(
            tmp_path / folder, replace(identity, calibration=calibration_digest), StoreConfig(keep_pictures_mb=0)
        ) as store:
            for seq in range(20):
                store.emit(inspection(seq, darker=0.9))
            store.flush()
    resumed, fresh = (sink([], tmp_path / folder) for folder in ("same", "other"))

    assert (resumed.drift.parts, fresh.drift.parts) == (20, 0)
    assert resumed.events == tmp_path / "same" / "drift.jsonl"
    assert resumed.drift.add({"brightness": 0.0}).values != fresh.drift.add({"brightness": 0.0}).values


def test_a_part_that_cannot_be_followed_holds_no_start_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One stored number that is none is told once, and the charts go on with the others."""
    identity = RunIdentity("r0", "line-3", STATION["bundle"], STATION["calibration"], "fake", Limits(fail=9.0))
    with open_store(tmp_path, identity, StoreConfig(keep_pictures_mb=0)) as store:
        for seq in range(5):
            store.emit(inspection(seq, darker=float("inf") if seq in (1, 2) else 0.0))
        store.flush()

    assert sink([], tmp_path).drift.parts == 3
    assert caplog.text.count("part 1 of run r0 is not followed") == 1
    assert "part 2" not in caplog.text


def test_a_calibration_without_a_baseline_is_told() -> None:
    """Of an earlier version: the charts start from the station's own parts."""
    told: list[str] = []
    DriftSink(calibration(baseline=False), DriftConfig(), STATION, None, told.append)

    assert "calibrate again" in told[0]


def test_an_alarm_that_cannot_be_told_holds_no_verdict(tmp_path: Path) -> None:
    """A terminal or a disk that hangs costs the line nothing; the alarm is told when it answers."""
    told: list[str] = []
    go_on, waits = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        waits.set()
        assert go_on.wait(30)
        told.append(line)

    watch = DriftSink(calibration(), DriftConfig(events=tmp_path / "drift.jsonl"), STATION, None, tell)
    for seq in range(300):
        watch.emit(inspection(seq, darker=2.0))
    assert waits.wait(10)
    before = list(told)
    go_on.set()
    watch.close()

    assert before == []
    assert len(told) == len((tmp_path / "drift.jsonl").read_text().splitlines()) == 1


def test_charts_are_not_waited_for() -> None:
    """They come after the verdict; the next part must not pay for them. A change holds for the parts after it."""
    go_on = threading.Event()

    def tell(line: str) -> None:
        assert go_on.wait(30)

    watch = DriftSink(calibration(), DriftConfig(), STATION, None, tell)
    before, after = watch.drift, sink([])
    for seq in range(300):
        watch.emit(inspection(seq, darker=2.0))
    followed = before.parts
    watch.change(after)
    watch.emit(inspection(300))
    go_on.set()
    watch.close()

    assert followed < 300
    assert (before.parts, after.drift.parts) == (300, 1)


def test_a_calibration_without_a_place_is_told() -> None:
    """Of an earlier version: the rest is followed."""
    told: list[str] = []
    watch = DriftSink(calibration(place=False), DriftConfig(), STATION, None, told.append)

    assert len(told) == 1
    assert "shift_x" in told[0]
    assert watch.drift.n_baseline == 300
