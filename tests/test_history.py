"""run --store, history and replay, through the installed command itself."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from test_cli import mapl_edge, one_line

from mapl_edge.bundle import Bundle
from mapl_edge.config import StationConfig, StoreConfig, config_from_dict
from mapl_edge.errors import ConfigError
from mapl_edge.runtime.history import since_from_text
from mapl_edge.testing import ManualClock

SOURCE = "line:?size=96&parts=30&defects=0.5"


@pytest.fixture
def kept(bundle: Bundle, tmp_path: Path) -> Path:
    """A station's folder after a run: station.yaml, v.jsonl and the store with every picture."""
    (tmp_path / "station.yaml").write_text(
        f"bundle: part.mapl\ncamera: {{name: line-3, source: '{SOURCE}'}}\nout: v.jsonl\nthreads: 1\n"
        "store: {folder: store, pass_every: 1, min_free_mb: 0}\n"
    )
    told = mapl_edge("run", cwd=tmp_path).stderr
    assert "30 triggers = " in told
    assert "0 pictures dropped" in told
    return tmp_path


def lines(text: str) -> list[dict[str, object]]:
    """One JSON object a line."""
    return [json.loads(line) for line in text.splitlines()]


def test_history_tells_what_the_line_said(kept: Path) -> None:
    """The same keys and values as in the verdict lines; as JSON, as a table, as CSV."""
    said = lines((kept / "v.jsonl").read_text())

    all_of_it = lines(mapl_edge("history", kept / "store", "--json").stdout)
    fails = lines(mapl_edge("history", "--verdict", "fail", "--since", "1h", "--json", cwd=kept).stdout)
    newest = lines(mapl_edge("history", "--last", 3, "--camera", "line-3", "--json", cwd=kept).stdout)
    table = mapl_edge("history", cwd=kept)
    mapl_edge("history", "--export", "out.csv", cwd=kept)

    assert [{key: entry[key] for key in said[0]} for entry in all_of_it] == said
    assert all(Path(str(entry["stored_picture"])).is_file() for entry in all_of_it)
    assert [entry["seq"] for entry in fails] == [entry["seq"] for entry in said if entry["verdict"] == "FAIL"]
    assert [entry["seq"] for entry in newest] == [27, 28, 29]
    assert table.stdout == ""
    assert "line-3" in table.stderr
    assert "ALARM" not in table.stderr
    with (kept / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [entry["score"] for entry in said]
    again = mapl_edge("history", "--export", "out.csv", cwd=kept, code=8)
    assert "out.csv exists; choose another --export" in one_line(again)


def test_the_same_bundle_gives_the_same_scores(kept: Path) -> None:
    """To the last bit: pictures are stored without loss, at the camera's resolution. So nothing flips."""
    replayed = mapl_edge("replay", "store", "--bundle", "part.mapl", "--threads", 1, "--json", cwd=kept)

    judged = lines(replayed.stdout)
    assert len(judged) == 30
    assert [entry["score"] for entry in judged] == [entry["replayed"]["score"] for entry in judged]  # type: ignore[index]
    assert "0 of 30 stored pictures get another verdict" in replayed.stderr


def test_another_limit_flips_verdicts(kept: Path, bundle: Bundle) -> None:
    """Each is named with what it was and what it is; a picture that is gone is an ERROR."""
    calibration = yaml.safe_load(bundle.calibration_path.read_text())
    calibration["limits"] = {"fail": 1e9}
    bundle.calibration_path.write_text(yaml.safe_dump(calibration))
    fails = [entry for entry in lines((kept / "v.jsonl").read_text()) if entry["verdict"] == "FAIL"]
    assert fails
    gone = lines(mapl_edge("history", "--verdict", "pass", "--json", cwd=kept).stdout)[0]
    (kept / str(gone["stored_picture"])).unlink()

    replayed = mapl_edge("replay", cwd=kept)

    assert f"{len(fails) + 1} of 30 stored pictures get another verdict" in replayed.stderr
    assert replayed.stderr.count("ERROR") == 1


def test_bad_input_gets_one_line(kept: Path, tmp_path: Path) -> None:
    """What was found, what was expected, what to do."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = lines(mapl_edge("history", "--last", 1, "--json", cwd=kept).stdout)[0]["run"]
    cases: list[tuple[list[object], Path, int, str]] = [
        (["history", "--camera", "line-4"], kept, 4, "store: has no camera 'line-4', found line-3; name one of them"),
        (["history", "--run", "nobody"], kept, 4, f"store: has no run 'nobody', found {run}; name one of them"),
        (["replay", "--run", run, "--camera", "line-4"], kept, 4, "store: has no camera 'line-4', found line-3"),
        (["drift", "--camera", "line-4"], kept, 4, "store: has no camera 'line-4', found line-3"),
        (["history"], elsewhere, 2, "set store: in station.yaml"),
        (["history", "nowhere"], kept, 4, "mapl-edge run --store"),
        (["history", "--since", "yesterday"], kept, 2, "8h or 7d"),
        (["history", "--export", "out.xls"], kept, 2, ".csv or .parquet"),
        (["replay", "nowhere", "--bundle", "part.mapl"], kept, 4, "mapl-edge run --store"),
    ]
    if importlib.util.find_spec("pyarrow") is None:
        cases.append((["history", "--export", "out.parquet"], kept, 6, "pip install 'mapl-edge[parquet]'"))

    for arguments, folder, code, words in cases:
        assert words in one_line(mapl_edge(*arguments, cwd=folder, code=code)), arguments
    typo = mapl_edge("history", "--verdict", "fial", cwd=kept, code=2)
    assert "did you mean FAIL" in " ".join(typo.stderr.replace("│", " ").split())
    assert not (kept / "out.parquet").exists()


def test_runs_of_one_store_are_told_apart(kept: Path) -> None:
    """Numbers start anew with each run, so the table names it, and each can be shown alone."""
    first = lines(mapl_edge("history", "--last", 1, "--json", cwd=kept).stdout)[0]["run"]
    mapl_edge("run", "--max-frames", 2, cwd=kept)

    table = mapl_edge("history", "--last", 3, cwd=kept).stderr
    alone = lines(mapl_edge("history", "--run", first, "--json", cwd=kept).stdout)

    newest = lines((kept / "v.jsonl").read_text())[-1]["run"]
    assert (table.count(str(first)), table.count(str(newest))) == (1, 2)
    assert [entry["run"] for entry in alone] == [first] * 30


def test_parquet_holds_the_same_columns(kept: Path) -> None:
    """For those who have pyarrow."""
    parquet = pytest.importorskip("pyarrow.parquet")

    mapl_edge("history", "--export", "out.parquet", cwd=kept)

    table = parquet.read_table(kept / "out.parquet").to_pylist()
    assert [row["seq"] for row in table] == list(range(30))


def test_a_store_may_be_a_bare_path() -> None:
    """The short form; mistakes inside are told with their path."""
    short = config_from_dict({"store": "here"}, StationConfig)

    assert short.store == StoreConfig(folder=Path("here"))
    with pytest.raises(ConfigError, match="did you mean 'keep_days'"):
        config_from_dict({"store": {"keep_dys": 3}}, StationConfig)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", "2025-12-31T23:30:00+00:00"),
        ("8h", "2025-12-31T16:00:00+00:00"),
        ("1.5d", "2025-12-30T12:00:00+00:00"),
        ("2025-11-22", "2025-11-22T00:00:00+00:00"),
        ("2025-11-22T06:00Z", "2025-11-22T06:00:00+00:00"),
        ("2025-11-22T06:00+02:00", "2025-11-22T06:00:00+02:00"),
    ],
)
def test_since_is_a_time_or_so_long_ago(text: str, expected: str) -> None:
    """As people type it."""
    assert since_from_text(text, ManualClock().utc()).isoformat() == expected
