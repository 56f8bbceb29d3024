"""The accuracy benchmark: its table and sums, and one small run through fresh processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import accuracy
import contenders
from mapl_edge.bundle import open_bundle
from mapl_edge.dataset import good_samples
from mapl_edge.model.checkpoint import Checkpoint
from mapl_edge.model.train import split_of
from mapl_edge.runtime import OnnxRuntimeEngine
from mapl_edge.runtime.inspector import look
from mapl_edge.testing import SyntheticLine

ROOT = Path(__file__).parents[2]


def result(auroc: float, disturbed: float | None = None) -> dict[str, Any]:
    """What a contender writes, with every figure alike; pixel AP not measured."""

    def figures(value: float) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(accuracy.FIGURES, value) | {"pixel_ap": None}
        intervals = {name: v and [v - 0.1, v + 0.1] for name, v in values.items()}
        return {**values, "intervals": intervals, "pictures": ["many"]}

    return {
        "clean": figures(auroc),
        "interference": None if disturbed is None else figures(disturbed),
        "fit_seconds": 12.3,
        "ms_p50": 4.56,
        "size_bytes": 7_800_000,
        "peak_rss_mb": 910,
    }


def test_means_are_over_the_real_sets_and_compared_with_the_baseline() -> None:
    """The synthetic line has its rows but does not count; a contender without all real sets has no mean."""
    results = {
        ("a", "ours"): result(0.9, 0.8), ("a", "paper"): result(0.1), ("a", "patchcore"): result(0.7, 0.7),
        ("b", "ours"): result(0.8, 0.6), ("b", "patchcore"): result(0.5, 0.5),
        (accuracy.LINE, "ours"): result(0.1, 0.1), (accuracy.LINE, "patchcore"): result(1.0, 1.0),
    }  # fmt: skip

    summary = accuracy.summarised(results, ["a", "b"])
    means = {(mean["contender"], mean["condition"]): mean for mean in summary["means"]}

    assert len(summary["rows"]) == 7 + 6
    assert not any("pictures" in row for row in summary["rows"])
    assert set(means) == {(c, d) for c in ("ours", "patchcore") for d in ("clean", "interference")}
    assert means["ours", "clean"]["image_auroc"] == pytest.approx(0.85)
    assert means["ours", "clean"]["difference"]["image_auroc"] == pytest.approx(0.25)
    assert means["ours", "interference"]["difference"]["aupro"] == pytest.approx(0.1)
    assert means["ours", "clean"]["difference"]["pixel_ap"] is None
    assert "difference" not in means["patchcore", "clean"]


def test_the_table_shows_it_all() -> None:
    """Figures with the interval of the first, then time, size and memory, means and differences."""
    summary = accuracy.summarised({("a", "ours"): result(0.9), ("a", "patchcore"): result(0.7)}, ["a"])
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the test

    console.print(accuracy.table_of(summary))
    text = console.export_text()

    assert "0.9000 (0.800 - 1.000)" in text
    for shown in ("12", "4.6", "7.8", "910", "mean of 1 real", "mean minus patchcore's", "+0.2000"):
        assert shown in text, shown


def test_names_agree_between_the_processes() -> None:
    """The parent does not import the contenders, so it holds a list of its own."""
    assert tuple(contenders.CONTENDERS) == accuracy.CONTENDERS


def test_the_baseline_never_sees_what_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may use what our training uses, no more: both are calibrated on the same rest."""
    SyntheticLine(size_hw=(64, 64)).write_mvtec(tmp_path, 10, 0, 0)
    given: list[Any] = []

    class Spy:
        size_bytes = 0

        @staticmethod
        def fit(encode: object, pictures: Any, seed: int) -> "Spy":
            given.extend(pictures)
            return Spy()

    monkeypatch.setattr(contenders, "PatchCore", Spy)
    monkeypatch.setattr(contenders, "frozen", lambda encoder, size_hw: None)
    monkeypatch.setattr(contenders.torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(contenders.faiss, "omp_set_num_threads", lambda n: None)
    contenders.CONTENDERS["patchcore"](contenders.Settings(size=64)).fit(good_samples(tmp_path))

    held_out = {SyntheticLine(size_hw=(64, 64)).good(int(i)).image.tobytes() for i in split_of(10, 0).calibration}
    assert len(given) == 8
    assert held_out.isdisjoint(picture.tobytes() for picture in given)


def test_ours_is_what_the_bundle_says(
    calibrated: Path, line_data: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contender is the exported model, read as `run` reads it, and as large as its graph."""

    def copied(given: Checkpoint, out: Path, open_engine: object) -> None:
        assert given is checkpoint
        shutil.copytree(calibrated, out)

    monkeypatch.setattr(contenders, "train", lambda samples, config: checkpoint)
    monkeypatch.setattr(contenders, "bundle_from_checkpoint", copied)
    ours = contenders.Mapl(checkpoint.record.config)
    ours.fit(good_samples(line_data))
    image = SyntheticLine(size_hw=(96, 96)).good(0).image
    bundle = open_bundle(calibrated)
    with OnnxRuntimeEngine(bundle.model_path, threads=1) as engine:
        expected = look(engine, bundle.contract, image)

    assert ours.look(image).score == expected.score
    assert ours.size_bytes == bundle.model_path.stat().st_size


def test_a_small_run_writes_resumes_and_prints(tmp_path: Path) -> None:
    """Ten parts of 64 px, through the processes; what is done is not done again."""
    SyntheticLine(size_hw=(64, 64)).write_mvtec(tmp_path / "data" / "tiny", 10, 3, 1)
    (tmp_path / "data" / "no_set").mkdir()
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "bench" / "accuracy.py"), "--data", str(tmp_path / "data"), "--out", str(out)]
    command += ["--sets", "tiny", "--contenders", "patchcore", "--size", "64", "--interference"]

    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    written = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=60)
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert set(written) == {"tiny.patchcore.json", "results.json"}
    assert summary == json.loads((out / "results.json").read_text())
    assert [row["condition"] for row in summary["rows"]] == ["clean", "interference"]
    for row in summary["rows"]:
        assert 0 <= row["image_auroc"] <= 1
        assert row["ms_p50"] > 0
        assert row["size_bytes"] > 1e6
        assert 100 < row["peak_rss_mb"] < 8000
    assert again.returncode == 0, again.stderr
    assert (out / "tiny.patchcore.json").stat().st_mtime_ns == written["tiny.patchcore.json"]
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


def test_results_of_other_settings_are_not_kept(tmp_path: Path) -> None:
    """Two steps of a smoke test must not pass for a training."""
    settings = {"steps": 2, "size": None, "seed": 0, "interference": False}
    path = tmp_path / "a.ours.json"
    path.write_text(json.dumps({"settings": settings}))

    assert accuracy.finished(path, settings) is not None
    assert accuracy.finished(path, settings | {"steps": None}) is None
    assert accuracy.finished(tmp_path / "b.ours.json", settings) is None


def test_a_contender_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Its words reach the reader, and the exit code is not zero."""
    (tmp_path / "data" / "broken" / "train" / "good").mkdir(parents=True)
    (tmp_path / "data" / "broken" / "test" / "good").mkdir(parents=True)
    command = [sys.executable, str(ROOT / "bench" / "accuracy.py"), "--data", str(tmp_path / "data")]
    command += ["--out", str(tmp_path / "out"), "--sets", "broken", "--contenders", "patchcore"]

    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert run.returncode == 1
    assert "found no picture" in run.stderr
    assert "Traceback" not in run.stderr
    assert "failed: patchcore on broken" in run.stderr
    assert not (tmp_path / "out" / "broken.patchcore.json").exists()
