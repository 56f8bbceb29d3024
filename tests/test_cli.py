"""The machine contract and what bad input gets, through the installed command itself."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.cli import station as station_module
from mapl_edge.cli.app import app
from mapl_edge.errors import OutputError
from mapl_edge.testing import Faults, LineServing, MjpegServer, SyntheticLine

COMMAND = str(Path(sys.executable).parent / "mapl-edge")


PROGRESS = re.compile(r"[a-z ]+: \d+ of \d+")


def mapl_edge(*arguments: object, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; fail with its words unless it exits with `code`."""
    result = subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == code, f"exit code {result.returncode}, stderr: {result.stderr}"
    return result


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What the user reads: one line on stderr, nothing on stdout, no traceback; on a slow machine behind progress."""
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip() and not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_the_whole_way_by_the_machine_contract(line_data: Path, calibration_data: Path, tmp_path: Path) -> None:
    """train → export → calibrate → evaluate → run → inspect, each as documented for machines."""
    model, part, out = tmp_path / "model", tmp_path / "part.mapl", tmp_path / "verdicts.jsonl"

    trained = json.loads(
        mapl_edge("train", line_data, "--out", model, "--seed", 3, "--steps", 4, "--size", "64x64", "--json").stdout
    )
    exported = json.loads(mapl_edge("export", model, "--out", part, "--json").stdout)
    limit = json.loads(mapl_edge("calibrate", part, "--good", calibration_data, "--json").stdout)
    figures = json.loads(mapl_edge("evaluate", part, line_data, "--json").stdout)
    reference = json.loads(mapl_edge("evaluate", model, line_data, "--json").stdout)
    ran = mapl_edge("run", "--source", line_data / "test", "--out", out, cwd=tmp_path)
    shown = json.loads(mapl_edge("inspect", part, "--json").stdout)

    assert trained["pictures"] == {"train": 28, "validation": 4, "held_out": 8, "defective": 0, "skipped": 0}
    assert {path.name for path in model.iterdir()} == {
        "model.json", "weights.safetensors", "pictures.npz", "training.png", "simulations.jpg",
    }  # fmt: skip
    assert not list(tmp_path.glob(".model*")), "the state goes once the model is there"
    assert exported["score_error"] <= 1e-4
    assert (limit["n_good"], limit["n_left_out"]) == (20, 0)
    assert (figures["n_good"], figures["n_bad"]) == (6, 10)
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"):
        assert 0 <= figures[name] <= 1
        assert figures[name] == pytest.approx(reference[name], abs=1e-3)
    assert ran.stdout == ""
    assert shown["digest"] == exported["digest"]
    verdicts = {v["picture"]: v for v in map(json.loads, out.read_text().splitlines())}
    assert len(verdicts) == 16
    for picture in figures["pictures"]:  # the same preparation and the same judge, to the last bit
        verdict = verdicts[picture["picture"]]
        assert verdict["score"] == picture["score"]
        assert verdict["verdict"] == picture["verdict"]
        assert verdict["threshold"] == limit["limit"]
        assert verdict["bundle"] == exported["digest"]


SMALL = """
contract: {size_hw: [96, 64]}
fit_aspect: false
steps: 6
validate_every: 2
batch_size: 4
crop: 64
encoder: vaegan
memory: patch
memory_samples: 5
memory_patches: 100
position_weight: 0
"""


def test_train_takes_real_defects_and_settings_from_a_file(line_data: Path, tmp_path: Path) -> None:
    """Defects lie in train/<defect>; flags overrule the file."""
    data, settings = tmp_path / "data", tmp_path / "train.yaml"
    shutil.copytree(line_data / "train", data / "train")
    shutil.copytree(line_data / "test" / "dent", data / "train" / "dent")
    shutil.copytree(line_data / "ground_truth" / "dent", data / "ground_truth" / "train" / "dent")
    settings.write_text(SMALL)

    trained = mapl_edge("train", data, "--out", tmp_path / "m", "--config", settings, "--memory", "image", "--json")

    summary, model = json.loads(trained.stdout), json.loads((tmp_path / "m" / "model.json").read_text())
    assert summary["pictures"]["defective"] == 2
    assert (summary["memory"], summary["steps"]) == ("image", 6)
    assert sum(name.startswith("train/dent/") for name in model["trained_on"]) == 2
    assert model["config"]["encoder"] == "vaegan"


def test_a_killed_training_goes_on(line_data: Path, tmp_path: Path) -> None:
    """The same command again, and the model is the one that an undisturbed run gives; the state is gone then."""
    settings, state = tmp_path / "train.yaml", tmp_path / ".killed.state"
    settings.write_text(SMALL.replace("steps: 6", "steps: 40"))
    arguments = ["train", str(line_data), "--config", str(settings), "--out"]
    process = subprocess.Popen([COMMAND, *arguments, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    try:
        while not state.exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait(timeout=60)
    assert not (tmp_path / "killed").exists()

    again = mapl_edge(*arguments, tmp_path / "killed")
    mapl_edge(*arguments, tmp_path / "whole")

    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert "left by a run that was stopped" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "train.yaml", "whole"]


def test_evaluate_tells_intervals_and_measures_under_interference(bundle: Bundle, line_data: Path) -> None:
    """The table shows each metric with its interval; disturbed pictures get other scores, and the settings are told."""
    clean = mapl_edge("evaluate", bundle.path, line_data, "--json")
    disturbed = mapl_edge("evaluate", bundle.path, line_data, "--interference", "--json")

    figures, others = (json.loads(result.stdout) for result in (clean, disturbed))
    assert figures["interference"] is None
    assert others["interference"] == {"noise_sigma": 10.0, "contrast": [0.8, 1.2], "seed": 0}
    assert [p["score"] for p in figures["pictures"]] != [p["score"] for p in others["pictures"]]
    low, high = figures["intervals"]["image_auroc"]
    assert f"{figures['image_auroc']:.4f} ({low:.3f} - {high:.3f})" in clean.stderr
    assert "under interference" in " ".join(disturbed.stderr.split())
    assert "Promised: at most" in clean.stderr
    assert "Promised" not in disturbed.stderr  # of disturbed parts nothing is promised
    assert "promises" not in others


def test_inspect_shows_what_is_looked_at_and_what_the_limit_promises(bundle: Bundle) -> None:
    """In words, where no region of interest was set."""
    shown = mapl_edge("inspect", bundle.path).stderr

    calibration = bundle.calibration
    assert "96x64, whole picture" in shown
    assert f"{calibration.limits.fail:.6g}: with 20 good parts and" in shown
    assert "of good parts are rejected (95% confidence)" in " ".join(shown.replace("│", " ").split())


def test_verdicts_go_to_stdout_without_out(bundle: Bundle) -> None:
    """Words for people stay on stderr, so a pipe gets JSON alone."""
    result = mapl_edge("run", bundle.path, "--source", "line:?size=96", "--max-frames", 3)

    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [v["seq"] for v in verdicts] == [0, 1, 2]
    assert set(verdicts[0]) == {
        "seq", "picture", "captured_at", "verdict", "action", "score", "p_value", "threshold", "latency_ms", "stage_ms",
        "error", "code", "statistics", "regions",
        "run", "camera", "bundle", "calibration",
    }  # fmt: skip
    assert set(verdicts[0]["stage_ms"]) == {"queue", "prepare", "compute", "judge"}
    assert "3 parts" in result.stderr


def test_a_budget_that_cannot_be_met_gives_late_verdicts_and_a_warning(bundle: Bundle, tmp_path: Path) -> None:
    """Told before the first part, with both numbers; each part still has its verdict, and the gate its policy."""
    station = tmp_path / "station.yaml"
    station.write_text("on_late: review\nbudget_ms: 60000\ncamera: {source: 'line:?parts=4&size=96', fps: 10}\n")

    ample = mapl_edge("run", bundle.path, "--config", station)
    station.write_text(station.read_text() + "engine_stuck_s: 0.00001\n")
    tight = mapl_edge("run", bundle.path, "--config", station, "--budget-ms", 0.001)

    on_time, late = ([json.loads(line) for line in ran.stdout.splitlines()] for ran in (ample, tight))
    assert {v["verdict"] for v in on_time} <= {"PASS", "REVIEW", "FAIL"}
    assert [v["seq"] for v in on_time] == [v["seq"] for v in late] == [0, 1, 2, 3]
    assert {(v["verdict"], v["action"], v["score"]) for v in late} == {("LATE", "review", None)}
    assert "warning" not in ample.stderr
    assert re.search(
        r"warning: budget 0.001 ms .* took \d+\.\d ms a frame when it was proved here, 20\d\d-", tight.stderr
    )
    assert re.search(r"warning: engine_stuck_s of 1e-05 s is less than two calls of \w+", tight.stderr)
    assert re.search(
        r"at 10 frames/s a camera, this engine carries \d+ cameras by its speed when it was proved", ample.stderr
    )


def test_several_cameras_share_one_engine_and_one_file(bundle: Bundle, tmp_path: Path) -> None:
    """Each ends alone, with its own name, budget and account; `run` says how many cameras the engine carries."""
    (tmp_path / "station.yaml").write_text(
        "budget_ms: 60000\nstore: store\ncameras:\n"
        "- {name: left, source: 'line:?parts=4&size=96&fps=50'}\n"
        "- {name: right, source: 'line:?parts=9&size=96', budget_ms: 0.001, bundle: part.mapl}\n"
    )
    ran = mapl_edge("run", bundle.path, "--out", "v.jsonl", cwd=tmp_path)

    verdicts = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    left, right = ([v for v in verdicts if v["camera"] == name] for name in ("left", "right"))
    assert [v["seq"] for v in right] == list(range(9))
    assert {v["verdict"] for v in right} == {"LATE"}
    assert 1 <= len(left) <= 4
    assert {v["verdict"] for v in left} <= {"PASS", "FAIL"}
    assert len({v["run"] for v in verdicts}) == 1
    assert re.search(r"at 50 frames/s a camera, this engine carries \d+ cameras", ran.stderr)
    assert re.search(r"camera right: 9 triggers = .* 9 LATE", ran.stderr)
    assert "right: 9 parts: 9 LATE" in ran.stderr


def test_all_cameras_are_summed_up_where_one_fails(bundle: Bundle, tmp_path: Path) -> None:
    """What the others did stands; the failure is the last line, and the exit code."""
    (tmp_path / "station.yaml").write_text(
        "store: store\ncameras:\n"
        "- {name: well, source: 'line:?parts=4&size=96'}\n"
        "- {name: wrong, source: 'v4l2:/dev/video0?widht=3'}\n"
    )
    told = mapl_edge("run", bundle.path, cwd=tmp_path, code=3).stderr

    assert "well: 4 parts: " in told
    assert "wrong: 0 parts: none" in told
    assert "camera well: 4 triggers = " in told
    assert told.splitlines()[-1].startswith("ConfigError: v4l2:/dev/video0?widht=3")


def test_a_start_that_fails_ends_its_runs_in_the_store(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is open there counts as one that lives or was killed."""

    def fails(*_: object) -> None:
        raise OutputError("the last thing before the run")

    monkeypatch.setattr(station_module, "reload_on_hangup", fails)
    arguments = ["run", str(bundle.path), "--source", "line:?size=96", "--store", str(tmp_path / "store")]
    with pytest.raises(OutputError, match="the last thing before"):
        app(arguments, standalone_mode=False)

    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.sqlite"]


def test_a_triggered_station_answers_on_its_socket(bundle: Bundle, tmp_path: Path) -> None:
    """One verdict for each TRIGGER, as documented with five lines of Python; nothing without one."""
    page = (Path(__file__).parents[1] / "docs" / "triggers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    arguments = ["--source", "line:?fps=50&size=96", "--trigger", "unix:cam0.sock", "--max-frames", "2"]
    process = subprocess.Popen(
        [COMMAND, "run", str(bundle.path), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while not (tmp_path / "cam0.sock").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    said = [
        subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    out, words = process.communicate(timeout=60)

    assert process.returncode == 0, words
    assert [json.loads(line) for line in out.splitlines()] == [json.loads(answer) for answer in said]
    assert json.loads(said[0])["picture"] == "part-17"


def test_each_part_that_enters_the_picture_has_its_verdict(bundle: Bundle, tmp_path: Path) -> None:
    """A belt, a camera that runs free, and nobody who triggers; the store's account counts parts, not frames."""
    parts = "line:?parts=5&size=96&seed=3&start=1000&conveyor=0.1&flicker=0.05"
    result = mapl_edge("run", bundle.path, "--source", parts, "--trigger", "presence", "--store", tmp_path / "store")

    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(v["seq"], v["picture"][:6]) for v in verdicts] == [(n, f"00{1000 + n}") for n in range(5)]
    assert "presence: the empty belt is learned from 30 frames" in result.stderr
    assert "5 triggers = " in result.stderr


def test_a_trigger_on_the_command_line_is_for_one_camera() -> None:
    """Told before anything is opened, with what to do for several."""
    told = mapl_edge("run", "--source", "a", "--source", "b", "--trigger", "presence", code=2).stderr

    words = " ".join(told.replace("│", " ").split())
    assert "--trigger on the command line works with one camera, found 2; for several set trigger: of each" in words


def test_cameras_on_the_command_line_fit_the_station(tmp_path: Path) -> None:
    """A camera opens once, and a station's trigger is not left out in silence."""
    (tmp_path / "station.yaml").write_text("camera: {trigger: {socket: cam0.sock}}\n")
    twice = mapl_edge("run", "--camera", 0, "--camera", 1, "--camera", 0, code=2).stderr
    triggered = mapl_edge("run", "--source", "a", "--source", "b", cwd=tmp_path, code=2).stderr

    twice, triggered = (" ".join(told.replace("│", " ").split()) for told in (twice, triggered))
    assert "--camera 0 is there twice; name each camera once" in twice
    assert (
        "camera.trigger of the station file is for one camera, found 2; for several set trigger: of each" in triggered
    )


def test_a_station_tells_systemd(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready once it inspects, alive with the verdicts, stopping at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        mapl_edge("run", bundle.path, "--source", "line:?parts=2&size=96")

        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_station_yaml_names_bundle_source_and_out(bundle: Bundle, tmp_path: Path) -> None:
    """On a station `mapl-edge run` is all there is to type."""
    (tmp_path / "station.yaml").write_text(
        "bundle: part.mapl\ncamera: {name: line-3, source: 'line:?parts=2&size=96'}\nout: v.jsonl\nthreads: 1\n"
    )

    mapl_edge("run", cwd=tmp_path)

    verdicts = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [v["camera"] for v in verdicts] == ["line-3", "line-3"]


def test_engines_are_added_measured_signed_and_chosen(bundle: Bundle, tmp_path: Path) -> None:
    """export --engine, --sign, bench and run --engine auto --require-signature, as documented."""
    part, key, public = bundle.path, tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)

    added = json.loads(
        mapl_edge("export", part, "--engine", "onnxruntime", "--graph", "split", "--sign", key, "--json").stdout
    )
    measured = json.loads(mapl_edge("bench", part, "--frames", 5, "--threads", 1, "--json").stdout)
    ran = mapl_edge(
        "run", part, "--source", "line:?size=96", "--max-frames", 2, "--threads", 1, "--require-signature", public
    )
    one = json.loads(ran.stdout.splitlines()[0])

    assert added["digest"] == bundle.digest
    assert added["engine"]["name"] == "onnxruntime-fp32-split"
    assert {row["engine"] for row in measured["engines"]} == {"onnxruntime-fp32-fused", "onnxruntime-fp32-split"}
    assert all(row["proven"] and row["p50_ms"] > 0 and row["rss_mb"] > 0 for row in measured["engines"])
    assert [entry["entries"] for entry in measured["search"]] == [30, 300, 3000]
    assert all(entry["recall"] >= 0.99 for entry in measured["search"])
    assert one["bundle"] == bundle.digest
    assert "onnxruntime" in ran.stderr
    strange = tmp_path / "strange.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", strange], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", strange, "-pubout", "-out", public], check=True, capture_output=True)
    refused = mapl_edge("run", part, "--source", "line:?size=96", "--require-signature", public, code=5)
    assert "do not use it" in one_line(refused)


def test_export_says_what_it_takes(bundle: Bundle, model_folder: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    typo = mapl_edge("export", bundle.path, "--engine", "openvno", code=2)
    no_out = mapl_edge("export", model_folder, code=2)
    nothing = mapl_edge("export", bundle.path, code=2)
    triton = json.loads(
        mapl_edge("export", bundle.path, "--format", "triton", "--out", tmp_path / "models", "--json").stdout
    )

    assert "did you mean openvino" in " ".join(typo.stderr.replace("│", " ").split())
    assert "needs --out" in " ".join(no_out.stderr.replace("│", " ").split())
    assert "name an --engine" in " ".join(nothing.stderr.replace("│", " ").split())
    assert (tmp_path / "models" / triton["model"] / "config.pbtxt").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(bundle: Bundle, tmp_path: Path, number: signal.Signals) -> None:
    """The verdict in hand is finished, the exit code is 0, every line is whole."""
    out = tmp_path / "v.jsonl"
    process = subprocess.Popen(
        [COMMAND, "run", str(bundle.path), "--source", "line:?size=96"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    first = process.stdout.readline()  # it runs: the handlers are in place
    process.send_signal(number)
    rest, words = process.communicate(timeout=60)
    out.write_bytes(first + rest)

    assert process.returncode == 0, words
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [v["seq"] for v in verdicts] == list(range(len(verdicts)))
    assert f"{len(verdicts)} part{'s' * (len(verdicts) != 1)}:" in words.decode()


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another"])
def test_a_signal_is_seen_while_a_camera_opens(bundle: Bundle, tmp_path: Path, others: int) -> None:
    """Within a second or so, not after the camera's time to open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/"
        cameras = [{"name": "silent", "source": uri, "open_timeout_s": 600}]
        cameras += [{"name": "well", "source": "line:?size=96&fps=20"}] * others
        station = {"cameras": cameras} if others else {"camera": cameras[0]}
        (tmp_path / "station.yaml").write_text(json.dumps(station))
        process = subprocess.Popen(
            [COMMAND, "run", str(bundle.path)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        server.settimeout(60)
        caller, _ = server.accept()  # and no answer
        with caller:
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            _, words = process.communicate(timeout=60)
            took_s = time.monotonic() - told

    assert process.returncode == 0, words
    assert took_s < 5, "with room for the end of the process"
    assert b"Traceback" not in words


def test_a_hangup_takes_new_limits_over_without_a_restart(bundle: Bundle, tmp_path: Path) -> None:
    """Lines and store say of each verdict what judged it, and none is lost."""
    (tmp_path / "station.yaml").write_text("reload: false\n")  # only when it is asked to
    arguments = ["--source", "line:?size=96&fps=50", "--store", "store"]
    process = subprocess.Popen(
        [COMMAND, "run", str(bundle.path), *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # as a service has no terminal
    )
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline())]
    mapl_edge("calibrate", bundle.path, "--set", "fail=-1000000")
    process.send_signal(signal.SIGHUP)
    while len(lines) < 3000 and lines[-1]["calibration"] == lines[0]["calibration"]:
        lines.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    rest, words = process.communicate(timeout=60)
    lines += [json.loads(line) for line in rest.splitlines()]

    assert process.returncode == 0, words
    assert b"limits fail" in words
    first, new = lines[0]["calibration"], open_bundle(bundle.path).calibration_digest
    digests = [line["calibration"] for line in lines]
    assert digests == sorted(digests, key=[first, new].index)
    assert {line["verdict"] for line in lines if line["calibration"] == new} == {"FAIL"}
    assert {line["threshold"] for line in lines if line["calibration"] == new} == {-1000000}
    kept = mapl_edge("history", "store", "--json", "--last", "100000", cwd=tmp_path).stdout.splitlines()
    keys = ("seq", "verdict", "threshold", "bundle", "calibration")
    assert [[json.loads(k)[key] for key in keys] for k in kept] == [[line[key] for key in keys] for line in lines]
    assert f"{len(lines)} triggers = " in words.decode()


def test_a_killed_station_starts_again_and_accounts_for_every_part(bundle: Bundle, tmp_path: Path) -> None:
    """SIGKILL at any moment: whole lines, one verdict a part, and the part in flight is an ERROR once."""
    (tmp_path / "station.yaml").write_text(
        "bundle: part.mapl\ncamera: {source: 'line:?size=96'}\nout: v.jsonl\nstore: store\nbudget_ms: 5000\n"
    )
    for kill in range(4):
        before = (tmp_path / "v.jsonl").stat().st_size if kill else 0
        with subprocess.Popen([COMMAND, "run"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            while not (tmp_path / "v.jsonl").exists() or (tmp_path / "v.jsonl").stat().st_size <= before:
                time.sleep(0.01)
            time.sleep(0.3 + 0.13 * kill)  # the store commits every 0.1 s
            process.kill()
    last = mapl_edge("run", "--max-frames", 1, cwd=tmp_path)

    told = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    shown = mapl_edge("history", "store", "--last", 100_000, "--json", cwd=tmp_path)
    kept = [json.loads(line) for line in shown.stdout.splitlines()]
    assert "ALARM" not in last.stderr
    assert len({line["run"] for line in told}) == 5
    assert len({(line["run"], line["seq"]) for line in told}) == len(told)
    numbers = {run: [line["seq"] for line in kept if line["run"] == run] for run in {line["run"] for line in kept}}
    assert len(numbers) == 5
    assert all(seqs == list(range(len(seqs))) for seqs in numbers.values())
    stopped = [line for line in kept if line["verdict"] == "ERROR"]
    assert len({line["run"] for line in stopped}) == len(stopped) <= 4, "one part at most was in flight at a kill"


def test_a_live_line_counts_its_drops(bundle: Bundle) -> None:
    """At 1000 parts a second the newest wins; seq shows the gaps."""
    result = mapl_edge("run", bundle.path, "--source", "line:?fps=1000&parts=150&size=96")

    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    (dropped,) = map(int, re.findall(r"(\d+) frames dropped", result.stderr))
    assert len(verdicts) + dropped == 150
    assert verdicts[-1]["seq"] == 149


def test_a_live_line_with_every_timing_fault_accounts_for_each_frame(bundle: Bundle, tmp_path: Path) -> None:
    """Bursts, jitter, slow and lost frames: a verdict, a drop that is counted, or a frame that never came."""
    source = "line:?fps=100&parts=200&size=96&faults=burst:0.1,jitter:0.01,slow:0.002,drop:0.1,corrupt:0.05"
    result = mapl_edge("run", bundle.path, "--source", source, "--store", tmp_path / "s", "--budget-ms", 5000)

    seqs = [json.loads(line)["seq"] for line in result.stdout.splitlines()]
    (dropped,) = map(int, re.findall(r"(\d+) frames dropped", result.stderr))
    lost = sum(Faults.from_text("drop:0.1").fate(index).lost for index in range(200))
    assert seqs == sorted(set(seqs))
    assert len(seqs) + dropped + lost == 200
    assert f"{len(seqs)} triggers = " in result.stderr


def test_a_run_outlives_an_unplugged_camera(bundle: Bundle, tmp_path: Path) -> None:
    """It tells when the camera goes and when it is back, and goes on judging; the password stays at home."""
    out = tmp_path / "verdicts.jsonl"
    serving = LineServing(SyntheticLine(size_hw=(96, 96)), fps=20)
    with MjpegServer(serving, user="me", password="hush") as server:
        uri = server.url.replace("://", "://me:hush@")
        arguments = ["run", str(bundle.path), "--source", uri, "--out", str(out)]
        process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        heard = []
        for line in process.stderr:
            heard.append(line)
            if line.startswith("limit"):
                while not out.exists() or not out.read_bytes():
                    time.sleep(0.05)
                server.unplug()
            elif "is away for" in line and not server.plugged > 1:
                before = len(out.read_bytes().splitlines())
                server.plug()
            elif "is back after" in line:
                while len(out.read_bytes().splitlines()) <= before + 3:
                    time.sleep(0.05)
                process.send_signal(signal.SIGTERM)

    said = "".join(heard)
    assert process.wait(30) == 0, said
    assert "parts:" in said
    assert "1 reconnects" in said
    assert "hush" not in said + out.read_text()


def test_the_line_is_served_into_a_folder_and_over_http(tmp_path: Path) -> None:
    """To rehearse with; a wrong fault is a mistake, not a server without it."""
    out = tmp_path / "parts"
    arguments = ["--fps", 100, "--size", 64]
    said = one_line(mapl_edge("line", "--serve", "folder", "--out", out, "--parts", 3, *arguments))
    assert said == f"{out}: 3 pictures"
    assert len(list(out.glob("*.jpg"))) == 3

    said = one_line(mapl_edge("line", "--serve", "mjpeg", "--port", 0, "--parts", 3, *arguments))
    assert re.fullmatch(r"http://127.0.0.1:\d+/line: 100 parts/s, until Ctrl-C", said)
    assert "'drip' is no fault" in one_line(mapl_edge("line", "--serve", "mjpeg", "--faults", "drip", code=2))
    mapl_edge("line", "--serve", "folder", code=2)


def test_every_kind_of_picture_gets_a_verdict(bundle: Bundle, tmp_path: Path) -> None:
    """Grey, RGBA, 16-bit, 12 megapixels and mixed sizes are judged; broken and tiny ones are ERROR, none is lost."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = {
        "grey": rng.integers(0, 256, (90, 70), dtype=np.uint8),
        "rgba": rng.integers(0, 256, (90, 70, 4), dtype=np.uint8),
        "deep": rng.integers(0, 65536, (90, 70, 3), dtype=np.uint16),
        "large": np.full((3000, 4000, 3), 90, np.uint8),
        "tiny": np.zeros((1, 1, 3), np.uint8),
    }
    for name, pixels in kinds.items():
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
    (folder / "cut.png").write_bytes((folder / "grey.png").read_bytes()[:200])

    (tmp_path / "station.yaml").write_text("camera: {health: off}\n")  # it would rightly say that this is no camera

    result = mapl_edge("run", bundle.path, "--source", folder, cwd=tmp_path)

    verdicts = {v["picture"]: v for v in map(json.loads, result.stdout.splitlines())}
    assert {name for name, v in verdicts.items() if v["verdict"] == "ERROR"} == {"cut.png", "tiny.png"}
    assert "1x1 px, expected at least 16x16" in verdicts["tiny.png"]["error"]
    assert len(verdicts) == 6


def test_bad_input_gets_one_line_and_an_exit_code(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """What was found, what was expected, what to do; nothing is left behind."""
    empty = tmp_path / "empty"
    empty.mkdir()
    no_good = tmp_path / "no_good"
    (no_good / "train" / "bad").mkdir(parents=True)
    broken = tmp_path / "broken"
    shutil.copytree(line_data / "train" / "good", broken)
    (broken / "007.png").write_bytes((broken / "007.png").read_bytes()[:-30])
    config = tmp_path / "train.yaml"
    config.write_text("stesp: 3\nbatch_size: one\n")
    station = tmp_path / "bad-station.yaml"
    station.write_text("camera: {ulr: '0'}\n")
    video = tmp_path / "cut.mp4"
    video.write_bytes(b"\0\0\0\x20ftypisom" + bytes(1000))
    out = tmp_path / "out"
    cases: list[tuple[list[object], int, str]] = [
        (["train", tmp_path / "nowhere", "--out", out], 4, "no such folder"),
        (["train", empty, "--out", out], 4, "found no picture"),
        (["train", no_good, "--out", out], 4, "no train/good"),
        (["train", config, "--out", out], 4, "is a file, expected a folder"),
        (["train", broken, "--out", out], 4, "007.png: the PNG is truncated"),
        (["train", line_data, "--out", empty], 8, "exists"),
        (["train", line_data, "--out", out, "--config", config], 3, "did you mean 'steps'"),
        (["train", line_data, "--out", out, "--size", "100x100"], 2, "multiples of 32"),
        (["train", line_data, "--out", out, "--size", "big"], 2, "HEIGHTxWIDTH"),
        (["train", line_data, "--out", out, "--textures", empty], 4, "found no picture"),
        (["train", line_data, "--out", out, "--encoder", "resnet"], 2, "'resnet18'"),
        (["train", line_data, "--out", out, "--memory", "both"], 2, "'auto', 'image' or 'patch'"),
        (
            ["train", line_data, "--out", out, "--encoder", "vaegan", "--weights", config],
            5,
            "cannot be read as weights",
        ),
        (["export", empty, "--out", out], 5, "expected a folder that mapl-edge train wrote"),
        (["calibrate", empty, "--good", line_data], 5, "no manifest.json"),
        (["calibrate", bundle.path, "--good", empty], 4, "found no picture"),
        (["calibrate", bundle.path, "--good", line_data, "--max-false-reject", "0"], 4, "8 remain"),
        (["evaluate", bundle.path, empty], 4, "no test/good"),
        (["evaluate", tmp_path / "nowhere", line_data], 5, "no such folder"),
        (["run", bundle.path, "--camera", "99"], 7, "camera 99 cannot be opened"),
        (["run", bundle.path, "--source", tmp_path / "nowhere.mp4"], 7, "no such file"),
        (["run", bundle.path, "--source", video], 7, "not a video that FFmpeg can open"),
        (["run", bundle.path, "--source", "line:?prats=1"], 3, "did you mean 'parts'"),
        (["run", bundle.path, "--source", "line:", "--out", config], 8, "exists"),
        (["run", bundle.path, "--config", station], 3, "camera.ulr: unknown key, known keys: name, source"),
        (["run", "--config", config, "--source", "line:"], 3, "stesp"),
        (["inspect", empty], 5, "expected a bundle"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())

    for arguments, code, says in cases:
        line = one_line(mapl_edge(*arguments, code=code, cwd=tmp_path))
        assert says in line, (arguments, line)

    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_changed_byte_refuses_to_run(bundle: Bundle) -> None:
    """Whoever edits a model on the line must be noticed."""
    data = bytearray(bundle.model_path.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.model_path.write_bytes(data)

    line = one_line(mapl_edge("run", bundle.path, "--source", "line:", code=5))

    assert "model.onnx was changed" in line


def test_an_uncalibrated_bundle_refuses_by_name(bundle: Bundle) -> None:
    """A bundle without thresholds cannot judge; it says the command that helps."""
    bundle.calibration_path.unlink()

    line = one_line(mapl_edge("run", bundle.path, "--source", "line:", code=5))

    assert line.startswith("Uncalibrated: ")
    assert "mapl-edge calibrate" in line


def test_which_bundle_is_asked_when_there_are_two(bundle: Bundle, tmp_path: Path) -> None:
    """Guessing could run yesterday's model."""
    shutil.copytree(bundle.path, tmp_path / "other.mapl")

    line = one_line(mapl_edge("run", "--source", "line:", cwd=tmp_path, code=5))

    assert "found other.mapl, part.mapl" in line


def test_skip_bad_counts_and_continues(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """One broken file in 200 must not cost the evening."""
    folder = tmp_path / "good"
    shutil.copytree(calibration_data, folder)
    (folder / "zz.jpg").write_bytes(b"\xff\xd8\xff")

    result = mapl_edge("calibrate", bundle.path, "--good", folder, "--skip-bad", "--json")

    assert json.loads(result.stdout)["n_good"] == 20
    assert "skipped 1 bad pictures" in result.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KB, or skip."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_no_half_bundle(model_folder: Path, small_disk: Path) -> None:
    """The graph alone is larger than this disk."""
    line = one_line(mapl_edge("export", model_folder, "--out", small_disk / "part.mapl", code=8))

    assert "the disk is full" in line
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_leaves_whole_verdicts(bundle: Bundle, small_disk: Path) -> None:
    """It does not end the run; every line that is there can be read, the numbers have no gap, the rest is counted."""
    out = small_disk / "v.jsonl"
    arguments = ["run", bundle.path, "--source", "line:?size=64&parts=900", "--out", out]

    ran = mapl_edge(*arguments, code=8)

    last = ran.stderr.splitlines()[-1]
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert ran.stderr.count("the disk is full; lines wait in memory, verdicts go on") == 1
    assert "the disk is full" in last
    assert [v["seq"] for v in verdicts] == list(range(len(verdicts)))
    assert len(verdicts) > 50
    assert f"{900 - len(verdicts)} lines are lost" in last


def test_verdicts_flow_over_a_full_disk(bundle: Bundle, small_disk: Path, tmp_path: Path) -> None:
    """The store goes on elsewhere, and once there is room the file has every line."""
    out, hog = small_disk / "v.jsonl", small_disk / "hog"
    arguments = ["run", str(bundle.path), "--source", "line:?size=96&fps=50&parts=250", "--out", str(out)]
    arguments += ["--store", str(tmp_path / "s")]
    with subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("limit"):
                fill(hog)
            elif "lines wait in memory" in line:
                hog.unlink()
            elif "written again" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.communicate(timeout=60)[1]

    assert process.returncode == 0, rest
    told = [json.loads(line)["seq"] for line in out.read_text().splitlines()]
    shown = mapl_edge("history", tmp_path / "s", "--last", 100_000, "--json").stdout.splitlines()
    assert told == [json.loads(line)["seq"] for line in shown]
    assert len(told) > 20


def fill(hog: Path) -> None:
    """Take what is left of a disk."""
    with suppress(OSError), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_leaves_no_half_model(line_data: Path, small_disk: Path) -> None:
    """The weights are written by our own hands, so the reason arrives."""
    arguments = ["train", line_data, "--out", small_disk / "m", "--steps", 1, "--size", "64x64"]

    line = one_line(mapl_edge(*arguments, code=8))

    assert "the disk is full" in line
    assert list(small_disk.iterdir()) == []


def test_a_pipe_that_closes_early_is_one_line(bundle: Bundle) -> None:
    """`mapl-edge run | head -1` must not print a traceback."""
    result = subprocess.run(
        f"{COMMAND} run {bundle.path} --source line:?size=96 | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert json.loads(result.stdout)["seq"] == 0
    assert "Traceback" not in result.stderr


def test_starting_a_run_loads_no_training_library(bundle: Bundle) -> None:
    """Start-up is seconds on the line; torch alone would take longer."""
    code = (
        "import sys; sys.argv = ['mapl-edge', 'run', sys.argv[1], '--source', 'line:?parts=1&size=96']\n"
        "from mapl_edge.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'matplotlib', 'onnx', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(bundle.path)], capture_output=True, text=True, check=True)

    assert result.stderr.splitlines()[-1] == "[]"


def test_a_station_goes_on_in_its_file_after_a_restart(bundle: Bundle, tmp_path: Path) -> None:
    """A reboot must not stop the line; a line that a power cut left half-written is taken off. Paths are the file's."""
    folder = tmp_path / "station"
    folder.mkdir()
    (folder / "station.yaml").write_text(
        "bundle: ../part.mapl\ncamera: {source: 'line:?parts=2&size=96'}\nout: verdicts.jsonl\n"
    )

    mapl_edge("run", "--config", folder / "station.yaml")
    with (folder / "verdicts.jsonl").open("a") as file:
        file.write('{"seq": 2, "verd')
    mapl_edge("run", "--config", folder / "station.yaml")

    verdicts = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    assert [v["seq"] for v in verdicts] == [0, 1, 0, 1]
    assert len({v["run"] for v in verdicts}) == 2


@pytest.mark.parametrize("redirect", ["> /dev/full", ">&-"], ids=["full", "closed"])
@pytest.mark.parametrize("command", ["run {} --source line:?size=96", "inspect {} --json"], ids=["run", "inspect"])
def test_an_unusable_stdout_is_one_line(bundle: Bundle, command: str, redirect: str) -> None:
    """Machines read stdout; when they cannot, people must be told why."""
    result = subprocess.run(
        f"{COMMAND} {command.format(bundle.path)} {redirect}", shell=True, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 8
    assert "OutputError: cannot write standard output" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_manifest_with_other_values_does_not_open(bundle: Bundle) -> None:
    """A size changed by hand would resize every part wrongly."""
    path = bundle.path / "manifest.json"
    seed = bundle.manifest.training["seed"]
    assert f'"seed": {seed}' in path.read_text()
    path.write_text(path.read_text().replace(f'"seed": {seed}', f'"seed": {seed + 1}'))

    assert "manifest.sha256 was changed" in one_line(mapl_edge("inspect", bundle.path, code=5))


def test_a_station_stops_the_cameras_faults(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """From calibrating to the verdict line and the store; the account stays whole."""
    source = "line:?parts=30&size=96&defects=0&start=500&faults=dark:3-26"
    mapl_edge("calibrate", bundle.path, "--good", calibration_data)

    after = mapl_edge(
        "run", bundle.path, "--source", source, "--out", tmp_path / "after.jsonl", "--store", tmp_path / "s"
    )

    lines = [json.loads(line) for line in (tmp_path / "after.jsonl").read_text().splitlines()]
    faulty = [line["seq"] for line in lines if line["code"] == "CAMERA_FAULT"]
    assert faulty == list(range(3, 27))
    assert {line["verdict"] for line in lines[3:27]} == {"ERROR"}
    assert after.stderr.count("CAMERA_FAULT, 20 pictures in a row: camera 'camera-0' is too dark") == 1
    assert after.stderr.count("is well again after 24 pictures") == 1
    assert "camera health: size, light, sharpness" in after.stderr
    assert "30 triggers = " in after.stderr
    told = mapl_edge("history", tmp_path / "s", "--json").stdout
    assert told.count('"code": "CAMERA_FAULT"') == 24


def test_captured_pictures_train(tmp_path: Path) -> None:
    """The folder that capture leaves is what train takes; a second capture goes on in it."""
    for start in (0, 12):
        source = f"line:?defects=0&size=96&parts=12&start={start}"
        result = mapl_edge("capture", "--source", source, "--out", tmp_path / "part", "--count", 12, "--json")
        assert json.loads(result.stdout)["saved"] == 12

    mapl_edge("train", tmp_path / "part", "--out", tmp_path / "model", "--steps", 2, "--size", "64x64")

    assert len(list((tmp_path / "part" / "train" / "good").glob("*.png"))) == 24


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--label", "../x"], 2, "expected a plain name"),
        (["--every", "soon"], 2, "expected a time such as 0.5s"),
        (["--source", "nowhere.mp4"], 7, "no such file or folder"),
    ],
)
def test_capture_refuses_in_one_line(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    """And writes nothing."""
    result = mapl_edge("capture", "--source", "line:?parts=2", "--out", tmp_path / "a", *arguments, code=code)

    assert says in result.stderr
    assert not (tmp_path / "a").exists()
