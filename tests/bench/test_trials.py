"""Trials: what is measured, what is kept, and what a failed trial leaves."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ablation
import accuracy
import contenders
import trials
from mapl_edge.config import TrainConfig
from mapl_edge.testing import SyntheticLine
from settings import ABLATION, BASELINE, CONFIGS, OURS, Settings

ROOT = Path(__file__).parents[2]
NAMES = ("patchcore", "ours", "paper")


def folder_of_sets(folder: Path, *names: str) -> Path:
    """Empty sets in MVTec layout."""
    for name in names:
        (folder / name / "train" / "good").mkdir(parents=True)
        (folder / name / "test" / "good").mkdir(parents=True)
    return folder


def written(out: Path, name: str, contender: str, settings: Settings, disturbed: bool = False) -> Path:
    """A result as far as resuming looks at it."""
    out.mkdir(exist_ok=True)
    path = out / f"{name}.{contender}.json"
    content = {"digest": settings.digest(contender), "interference": {} if disturbed else None}
    path.write_text(json.dumps(content))
    return path


def test_sets_are_found_by_their_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Textures and files beside the sets are none; the line comes last, without a folder."""
    data = folder_of_sets(tmp_path / "data", "tile", "bottle")
    (data / "dtd" / "banded").mkdir(parents=True)
    (data / "README.md").write_text("not a set")
    monkeypatch.setenv("MAPL_EDGE_DATA", str(data))

    plan = trials.plan_from_arguments("", NAMES, ["--out", str(tmp_path / "out")])

    assert plan.sets == {"bottle": data / "bottle", "tile": data / "tile", trials.LINE: None}
    assert list(plan.sets) == ["bottle", "tile", trials.LINE]
    assert plan.real == ["bottle", "tile"]


def test_without_data_there_is_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no pictures from anywhere."""
    monkeypatch.delenv("MAPL_EDGE_DATA", raising=False)

    plan = trials.plan_from_arguments("", NAMES, ["--out", str(tmp_path)])

    assert plan.sets == {trials.LINE: None}


def test_contenders_are_measured_in_one_order(tmp_path: Path) -> None:
    """The baseline first, however the flags are written."""
    flags = ["--contenders", "paper", "patchcore", "--sets", trials.LINE]

    plan = trials.plan_from_arguments("", NAMES, ["--out", str(tmp_path), *flags])

    assert plan.contenders == ["patchcore", "paper"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out", "fresh", "--sets", "cup"], "no set cup; there are bottle, line_any"),
        (["--out", "used"], "--resume"),
        (["--report", "missing"], "no such folder"),
        (["--out", "fresh", "--report", "used"], "not allowed with"),
        ([], "required"),
        (["--out", "fresh", "--data", "missing"], "no such folder"),
    ],
)
def test_mistakes_on_the_command_line_are_told(
    flags: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before hours of training, not after."""
    monkeypatch.chdir(tmp_path)
    folder_of_sets(tmp_path / "data", "bottle")
    written(tmp_path / "used", "bottle", "ours", Settings())

    with pytest.raises(SystemExit):
        trials.plan_from_arguments("", NAMES, ["--data", "data", *flags])

    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made_with", "kept"),
    [
        (Settings(steps=2), True),
        (Settings(steps=2, interference=True), True),
        (Settings(), False),
        (Settings(steps=2, size=64), False),
        (Settings(steps=2, seed=1), False),
    ],
)
def test_results_of_other_settings_are_not_kept(tmp_path: Path, made_with: Settings, kept: bool) -> None:
    """Two steps of a smoke test must not pass for a training; what was measured beyond need does no harm."""
    path = written(tmp_path, "a", "ours", made_with, disturbed=made_with.interference)

    assert (trials.finished(path, "ours", Settings(steps=2)) is not None) == kept


def test_what_was_not_disturbed_is_measured_again(tmp_path: Path) -> None:
    """A table with holes would have no mean."""
    path = written(tmp_path, "a", "ours", Settings())

    assert trials.finished(path, "ours", Settings(interference=True)) is None
    assert trials.finished(tmp_path / "b.ours.json", "ours", Settings()) is None


def test_changed_defaults_are_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same flags mean another training once a default has changed."""
    path = written(tmp_path, "a", "ours", Settings())
    baseline = Settings().digest(BASELINE)
    for name in (OURS, BASELINE):
        monkeypatch.setitem(CONFIGS, name, TrainConfig(learning_rate=0.001))

    assert trials.finished(path, "ours", Settings()) is None
    assert Settings().digest(BASELINE) == baseline, "the baseline has no learning rate"


def test_digests_tell_contenders_apart() -> None:
    """A row of the ablation that equalled another, or the full model, would measure nothing."""
    digests = {name: Settings().digest(name) for name in CONFIGS}

    assert len(set(digests.values())) == len(CONFIGS) == 3 + len(ABLATION)


def test_the_paper_is_measured_as_it_is_written() -> None:
    """Its own size and shape of input, half the steps at most."""
    config = Settings(size=64, seed=3).config("paper")

    assert config == TrainConfig.paper_settings(contract={"size_hw": (64, 64)}, seed=3)


def test_both_processes_know_the_same_names() -> None:
    """The parent names contenders that the child must find."""
    assert {*accuracy.CONTENDERS, *ablation.CONTENDERS} == CONFIGS.keys()
    assert set(ablation.NAMES) == set(ablation.CONTENDERS)


def test_trials_are_started_and_told_of_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set by set; what is there is kept, what fails is named and the rest goes on."""
    data = folder_of_sets(tmp_path / "data", "a", "b")
    started: list[tuple[str, Path]] = []
    kept: list[Path | None] = []

    def result(digest: str) -> dict[str, Any]:
        clean = {"image_auroc": 0.9, "pixel_ap": None}
        return {"digest": digest, "interference": None, "clean": clean, "fit_seconds": 1.2, "ms_per_frame": 3.4}

    def measure(contender: str, folder: Path, out: Path, settings: Settings, model: Path | None) -> int:
        started.append((contender, folder))
        kept.append(model)
        if contender == "ours" and folder.name == "a":
            return 1
        out.write_text(json.dumps(result(settings.digest(contender))))
        return 0

    out = tmp_path / "out"
    out.mkdir()
    (out / "b.patchcore.json").write_text(json.dumps(result(Settings().digest("patchcore"))))
    monkeypatch.setattr(trials, "measure", measure)
    flags = [
        "--out",
        str(out),
        "--data",
        str(data),
        "--resume",
        "--sets",
        "a",
        "b",
        "--contenders",
        "ours",
        "patchcore",
        "--keep-models",
    ]
    results, failed = trials.results_of(trials.plan_from_arguments("", NAMES, flags))

    assert [(name, folder.name) for name, folder in started] == [("patchcore", "a"), ("ours", "a"), ("ours", "b")]
    assert list(results) == [("a", "patchcore"), ("b", "patchcore"), ("b", "ours")]
    assert failed == ["ours on a"]
    assert kept == [out / "models" / name for name in ("a.patchcore", "a.ours", "b.ours")]
    assert "b: ours: image AUROC 0.9000, pixel AP -, 1 s, 3.4 ms/frame" in capsys.readouterr().err


def test_a_report_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what lies there, sets of another machine too, and no other benchmark's results."""
    monkeypatch.setattr(trials, "measure", None)
    for name, contender in (("a.1", "ours"), ("line_any", "patchcore"), ("a.1", "no_sa")):
        written(tmp_path, name, contender, Settings(steps=7))
    (tmp_path / "results.json").write_text("{}")
    monkeypatch.delenv("MAPL_EDGE_DATA", raising=False)

    plan = trials.plan_from_arguments("", NAMES, ["--report", str(tmp_path)])
    results, failed = trials.results_of(plan)

    assert list(plan.sets) == ["a.1", trials.LINE]
    assert (list(results), failed) == ([("a.1", "ours"), (trials.LINE, "patchcore")], [])


def test_mixed_settings_are_noticed() -> None:
    """A mean over two kinds of training says nothing."""
    results = {("a", "ours"): {"digest": "1"}, ("b", "ours"): {"digest": "2"}, ("a", "paper"): {"digest": "3"}}

    assert trials.mixed(results) == {"ours": 2}


def test_a_contender_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Its words reach the reader, and the exit code is not zero."""
    data, out = folder_of_sets(tmp_path / "data", "broken"), tmp_path / "out"
    command = [sys.executable, str(ROOT / "bench" / "accuracy.py"), "--data", str(data), "--out", str(out)]

    run = subprocess.run(
        [*command, "--sets", "broken", "--contenders", "patchcore"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert run.returncode == 1
    assert "found no picture" in run.stderr
    assert "Traceback" not in run.stderr
    assert "failed: patchcore on broken" in run.stderr
    assert not (out / "broken.patchcore.json").exists()


def test_a_small_run_writes_resumes_and_reports(tmp_path: Path) -> None:
    """Ten parts of 64 px, through the processes; what is done is not done again."""
    SyntheticLine(size_hw=(64, 64)).write_mvtec(tmp_path / "data" / "tiny", 10, 3, 1)
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "bench" / "accuracy.py"), "--data", str(tmp_path / "data"), "--json"]
    flags = ["--out", str(out), "--sets", "tiny", "--contenders", "patchcore", "--size", "64", "--interference"]

    run = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    made = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = subprocess.run([*command, *flags, "--resume"], capture_output=True, text=True, check=False, timeout=60)
    told = subprocess.run(
        [*command, "--report", str(out), "--sets", "tiny"], capture_output=True, text=True, check=False, timeout=60
    )

    assert set(made) == {"tiny.patchcore.json", "results.json"}
    assert summary == json.loads((out / "results.json").read_text())
    (row,) = summary["rows"]
    assert 0 <= row["image_auroc"] <= 1
    assert row["fall"] == pytest.approx(row["image_auroc"] - row["disturbed_image_auroc"])
    assert row["size_hw"] == [64, 64]
    assert row["latency_ratio"] > 1
    assert row["size_bytes"] > 1e6
    assert 100 < row["peak_rss_mb"] < 8000
    assert {bar["passed"] for bar in summary["bars"]} == {None}
    assert again.returncode == 0, again.stderr
    assert (out / "tiny.patchcore.json").stat().st_mtime_ns == made["tiny.patchcore.json"]
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rows"] == summary["rows"]


def test_documented_command_lines_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader types them as they stand in docs/results.md."""
    monkeypatch.chdir(tmp_path)
    folder_of_sets(tmp_path / "data", "bottle")
    folder_of_sets(tmp_path / "turned", "bottle", "kolektorsdd", "magnetic_tile")
    (tmp_path / "results").mkdir()
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    names = {"accuracy": accuracy.CONTENDERS, "ablation": ablation.CONTENDERS}
    lines = re.findall(r"^python bench/(accuracy|ablation)\.py (.*)$", text, re.MULTILINE)

    plans = [trials.plan_from_arguments("", names[script], shlex.split(flags)) for script, flags in lines]

    assert len(plans) >= 3


def test_the_child_knows_all_that_the_parent_passes() -> None:
    """Its parser is its own."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "contenders.py"), "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    for flag in ("--steps", "--size", "--seed", "--interference", "--out"):
        assert flag in run.stdout
    assert contenders.CONFIGS is CONFIGS
