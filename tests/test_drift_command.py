"""run with drift, and the drift command, through the installed command itself."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import pytest
from test_cli import mapl_edge, one_line

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibration import write_calibration
from mapl_edge.config import DriftConfig, StationConfig, config_from_dict
from mapl_edge.dataset import good_samples
from mapl_edge.part_statistics import STATISTICS, PartStatistics
from mapl_edge.picture import picture_from_file
from mapl_edge.place import profiles_of, reference_from_picture
from mapl_edge.prepare import prepare

DARK = "line:?size=96&parts=150&defects=0&seed=1&start=5000&lamp=0.99"  # half the light after 150 parts


@pytest.fixture(scope="module")
def dark(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A station's folder after a run in which the lamp dies, and no camera check stops the dark pictures."""
    folder = tmp_path_factory.mktemp("dark")
    camera = f"{{name: line-3, source: '{DARK}', health: off}}"
    (folder / "station.yaml").write_text(
        f"bundle: {calibrated}\ncamera: {camera}\nout: v.jsonl\nthreads: 1\nstore: store\n"
    )
    (folder / "told").write_text(mapl_edge("run", cwd=folder).stderr)
    return folder


def test_calibration_holds_a_baseline(bundle: Bundle) -> None:
    """One value a statistic and good part."""
    baseline = bundle.calibration.baseline

    assert tuple(baseline) == PartStatistics.__slots__
    assert {len(column) for column in baseline.values()} == {20}


def test_the_place_is_that_of_the_part_with_the_median_score(bundle: Bundle, calibration_data: Path) -> None:
    """The most ordinary one; what the others have moved is measured from it."""
    calibration, paths = bundle.calibration, {one.name: one.path for one in good_samples(calibration_data)}
    pictures = [prepare(picture_from_file(paths[name]), bundle.contract) for name in calibration.pictures]
    places = [reference_from_picture(picture) for picture in pictures]
    median = sorted(range(20), key=calibration.scores.__getitem__)[10]

    assert [part for part in range(20) if places[part] == calibration.place] == [median]
    for part, picture in enumerate(pictures):
        profiles = profiles_of(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        moved = calibration.baseline["shift_x"][part], calibration.baseline["shift_y"][part]
        assert moved == pytest.approx(places[median].shift(profiles), abs=1e-4)
    assert max(map(abs, calibration.baseline["shift_x"])) > 0.1


def test_run_tells_of_a_dying_lamp_and_its_verdicts_hold_the_numbers(dark: Path) -> None:
    """One event in the store's folder for each statistic that moved; every verdict with a score has statistics."""
    events = [json.loads(line) for line in (dark / "store" / "drift.jsonl").read_text().splitlines()]
    verdicts = [json.loads(line) for line in (dark / "v.jsonl").read_text().splitlines()]

    assert "brightness" in {event["statistic"] for event in events}
    assert len(events) == (dark / "told").read_text().count("camera 'line-3': DRIFT after")
    assert all(verdict["statistics"]["shift_x"] is not None for verdict in verdicts)
    assert len(verdicts) == 150
    assert all(tuple(verdict["statistics"]) == PartStatistics.__slots__ for verdict in verdicts)


def test_the_command_tells_the_same_from_store_and_verdicts(dark: Path, calibrated: Path) -> None:
    """As the station told it; with every chart as CSV, and a plot."""
    told = [json.loads(line) for line in (dark / "store" / "drift.jsonl").read_text().splitlines()]
    wanted = ["drift", "store", "--bundle", calibrated, "--json", "--csv", "d.csv", "--plot", "d.png"]
    from_store = json.loads(mapl_edge(*wanted, cwd=dark).stdout)
    from_file = json.loads(mapl_edge("drift", "v.jsonl", "--bundle", calibrated, "--json", cwd=dark).stdout)

    assert from_store == from_file
    assert from_store["baseline_parts"] >= 18
    assert [(a["statistic"], a["chart"], a["seq"]) for a in from_store["alarms"]] == [
        (event["statistic"], event["chart"], event["seq"]) for event in told
    ]
    with (dark / "d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == from_store["passed_parts"]
    assert float(rows[0]["brightness"]) > float(rows[-1]["brightness"])
    assert all(f"{name}_ewma" in rows[0] for name in STATISTICS)
    assert (dark / "d.png").read_bytes()[:4] == b"\x89PNG"


def test_the_baseline_is_found_where_the_station_is(dark: Path, calibrated: Path, tmp_path: Path) -> None:
    """Without --bundle: the station file's bundle, or one in the folder, if it judged these parts."""
    named = json.loads(mapl_edge("drift", "store", "--bundle", calibrated, "--json", cwd=dark).stdout)
    found = mapl_edge("drift", "store", "--json", cwd=dark)
    (tmp_path / "part.mapl").symlink_to(calibrated)
    beside = mapl_edge("drift", dark / "store", cwd=tmp_path)

    calibration = open_bundle(calibrated).calibration
    of_file = {"calibration": open_bundle(calibrated).calibration_digest, "file": str(calibrated / "calibration.yaml")}
    made = {"version": calibration.version, "created_at": calibration.created_at, "parts": named["baseline_parts"]}
    assert json.loads(found.stdout) == named
    assert named["baselines"] == [of_file | made]
    assert f"baseline: the calibration of {calibrated}" in found.stderr.replace("\n", "")
    assert f"baseline: the calibration of part.mapl, version 1 of {calibration.created_at}, digest " in beside.stderr


def test_no_baseline_is_told_with_what_to_do(dark: Path, tmp_path: Path) -> None:
    """Not a word about it looked like a station that never drifts."""
    done = mapl_edge("drift", dark / "store", "--json", cwd=tmp_path)
    told, (baseline,) = done.stderr.replace("\n", " "), json.loads(done.stdout)["baselines"]

    assert f"no baseline: the parts were judged by calibration {baseline['calibration'][:12]}" in told
    assert "name the bundle with --bundle" in told
    assert (baseline["file"], baseline["version"], baseline["created_at"], baseline["parts"]) == (None, None, None, 0)


def test_calibration_without_statistics_is_told(dark: Path, calibrated: Path, tmp_path: Path) -> None:
    """As where teaching kept the limits: it is the right calibration, but nothing to measure drift from."""
    copy = tmp_path / "part.mapl"
    shutil.copytree(calibrated, copy)
    bare = open_bundle(copy).calibration.model_copy(update={"baseline": {}})
    write_calibration(bare, copy / "calibration.yaml")
    judged_by = open_bundle(copy).calibration_digest
    verdicts = [json.loads(line) | {"calibration": judged_by} for line in (dark / "v.jsonl").read_text().splitlines()]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(one) + "\n" for one in verdicts))

    done = mapl_edge("drift", "v.jsonl", "--json", cwd=tmp_path)

    assert "0 parts: it holds no statistics of them, charts start from the first parts" in done.stderr
    assert json.loads(done.stdout)["baselines"][0]["file"] == "part.mapl/calibration.yaml"


def test_drift_can_be_turned_off(dark: Path, tmp_path: Path) -> None:
    """`drift: false`."""
    station = (dark / "station.yaml").read_text().replace("out: v.jsonl", "out: w.jsonl").replace("store: store", "")
    (tmp_path / "station.yaml").write_text(station + "drift: false\n")

    assert "DRIFT" not in mapl_edge("run", cwd=tmp_path).stderr
    assert config_from_dict({"drift": False}, StationConfig).drift == DriftConfig(follow=False)


def test_what_is_no_record_is_refused_by_line(tmp_path: Path) -> None:
    """And a past in which nothing passed."""
    (tmp_path / "bad.jsonl").write_text('{"verdict": "PASS", "score": "high"}\n')
    (tmp_path / "empty.jsonl").write_text('{"verdict": "FAIL", "score": 1}\n')

    assert "bad.jsonl line 1: is no verdict" in one_line(mapl_edge("drift", tmp_path / "bad.jsonl", code=4))
    assert "no part that passed" in one_line(mapl_edge("drift", tmp_path / "empty.jsonl", code=4))


def test_cameras_are_not_mixed(tmp_path: Path) -> None:
    """Two cameras have two lights."""
    line = {"verdict": "PASS", "score": 1.0, "seq": 0, "captured_at": "2026-11-22T06:00:00.000Z"}
    text = "".join(json.dumps(line | {"camera": camera}) + "\n" for camera in ("left", "right", "left"))
    (tmp_path / "v.jsonl").write_text(text)

    assert "--camera" in one_line(mapl_edge("drift", tmp_path / "v.jsonl", code=4))
    assert "in 2 passed parts" in mapl_edge("drift", tmp_path / "v.jsonl", "--camera", "left").stderr
    unknown = one_line(mapl_edge("drift", tmp_path / "v.jsonl", "--camera", "lfet", code=4))
    assert "no part of camera 'lfet' passed, only of 'left', 'right'; name one of them" in unknown
