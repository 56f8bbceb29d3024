"""The report: what it holds, that its numbers are those of the other commands, what bad input and bad names get."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.page import jpeg_uri, page, paragraph, parts, table
from mapl_edge.calibrate.shown_part import resized
from mapl_edge.cli import app
from mapl_edge.errors import BundleError, DataError, OutputError
from mapl_edge.files import sha256_of

VOID = {"meta", "img", "br"}
NASTY = '"><script>alert(1)</script>&.png'


class Checked(HTMLParser):
    """Tags that close in order, and what the page would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's way to close."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self.open[-1:] != ["style"]:
            self.text += data


def checked(text: str) -> Checked:
    """A page that is well-formed, loads nothing, runs nothing, and says what its pictures show."""
    found = Checked(text)
    assert {"script", "link", "iframe", "object", "embed", "base", "form"}.isdisjoint(found.tags)
    for name, value in found.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "srcset", "xlink:href"):
            assert value.startswith("data:image/jpeg;base64,"), value[:80]
    assert "url(" not in text.lower()
    assert "@import" not in text
    assert all(value for name, value in found.attributes if name == "alt")
    assert found.tags.count("img") == sum(name == "alt" for name, _ in found.attributes)
    return found


def mapl_edge(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments), "--threads", "1"], catch_exceptions=True)


def told(*arguments: object) -> Any:
    """The JSON that it prints."""
    result = mapl_edge(*arguments, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def test_the_report_has_what_an_auditor_asks(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """Figures as `evaluate` prints them, the calibration as it stands, every digest; in the page and in the JSON."""
    out = tmp_path / "report.html"

    found = told("report", bundle.path, "--data", line_data, "--out", out, "--worst", 2)
    expected = told("evaluate", bundle.path, line_data)

    text = checked(out.read_text(encoding="utf-8")).text
    labelled, audit, calibration = found["labelled"], found["audit"], bundle.calibration
    assert found["report"] == str(out)
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro", "intervals", "n_bad"):
        assert labelled[name] == expected[name], name
    assert f"AUROC {expected['image_auroc']:.4f}" in text
    for mine, its in zip(labelled["pictures"], expected["pictures"], strict=True):
        assert (mine["name"], mine["score"], mine["outcome"]) == (its["picture"], its["score"], its["verdict"])
        assert mine["sha256"] == sha256_of(line_data / "test" / mine["name"])
        assert mine["sha256"] in text
    verdicts = [(its["label"] == "good", its["verdict"] == "PASS") for its in expected["pictures"]]
    assert labelled["n_false_rejects"] == verdicts.count((True, False))
    assert labelled["n_missed"] == verdicts.count((False, True))
    assert labelled["promises"][0]["bound"] == calibration.promise.achieved
    assert labelled["promises"][0]["n_good"] == 6
    assert labelled["promises"] == expected["promises"]
    assert found["calibration"] == calibration.model_dump(mode="json")
    assert str(calibration.promise) in text
    assert audit["digest"] == bundle.digest
    assert audit["calibration_digest"] == bundle.calibration_digest
    assert audit["proof"]["engine"] == audit["engine"] == "onnxruntime-fp32-fused"
    assert audit["files"] == bundle.manifest.files
    for digest in (*bundle.manifest.files.values(), *calibration.pictures.values(), bundle.digest, audit["trained_on"]):
        assert digest in text
    assert out.stat().st_size < 10_000_000


def test_each_shown_part_has_its_nearest_good_part_beside_it(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """Part, anomaly map, nearest: three pictures each, no more parts than were asked for."""
    out = tmp_path / "report.html"

    labelled = told("report", bundle.path, "--data", line_data, "--out", out, "--worst", 1)["labelled"]

    shown = [labelled[name] for name in ("worst_false_rejects", "worst_misses", "strongest_finds")]
    assert all(len(some) <= 1 for some in shown)
    every = [part for some in shown for part in some]
    assert every
    n_memory = len(bundle.memory_pictures())
    assert all(0 <= part["nearest"] < n_memory and 0 < part["p_value"] <= 1 for part in every)
    found = checked(out.read_text(encoding="utf-8"))
    assert found.tags.count("img") == 3 * len(every)
    alts = [value for name, value in found.attributes if name == "alt"]
    assert sum(alt.startswith("nearest good part: ") for alt in alts) == len(every)


def test_without_pictures_it_tells_what_the_calibration_holds(bundle: Bundle, tmp_path: Path) -> None:
    """Every version of the limits, who set them, and the promise."""
    assert mapl_edge("calibrate", bundle.path, "--set", "fail=9").exit_code == 0

    found = told("report", bundle.path, "--out", tmp_path / "r.html")

    text = checked((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert found["labelled"] is None
    assert [version["version"] for version in found["history"]] == [1, 2]
    assert "set by hand: fail=9" in text
    assert "Not checked on labelled parts" in text


def test_without_limits_it_says_so(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """Scores and curves are there, verdicts and promises are not."""
    bundle.calibration_path.unlink()

    found = told("report", bundle.path, "--data", line_data, "--out", tmp_path / "r.html")

    text = checked((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert (found["calibration"], found["labelled"]["promises"]) == (None, [])
    assert {part["outcome"] for part in found["labelled"]["pictures"]} == {None}
    assert "no thresholds yet" in text
    assert "FAIL" not in text
    assert "Good parts with the highest scores" in text


def test_what_training_and_limits_know_is_told(
    bundle: Bundle, line_data: Path, calibration_data: Path, tmp_path: Path
) -> None:
    """Folders of one's own choice may hold such parts; they prove no promise."""
    good = tmp_path / "some"
    for number, folder in enumerate((line_data / "train" / "good", calibration_data)):
        for path in sorted(folder.iterdir())[:3]:
            (good / "good").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, good / "good" / f"{number}{path.name}")
    bad = line_data / "test" / "scratch"

    found = told("report", bundle.path, "--good", good, "--bad", bad, "--out", tmp_path / "r.html")["labelled"]

    trained = {part["name"] for part in found["pictures"] if part["sha256"] in bundle.manifest.trained_on}
    assert {part["name"] for part in found["pictures"] if part["seen_by"] == "training"} == trained
    assert sum(part["seen_by"] == "calibration" for part in found["pictures"]) == 3
    assert found["promises"][0]["n_good"] == 3 - len(trained)
    assert trained


def test_a_station_shows_its_last_rejects_and_accounts(bundle: Bundle, tmp_path: Path) -> None:
    """From the store: counts by day, the account, pictures with the verdict that the gate was told."""
    store = tmp_path / "store"
    assert mapl_edge("calibrate", bundle.path, "--set", "fail=-1e9").exit_code == 0
    assert mapl_edge("run", bundle.path, "--source", "line:?parts=5&size=96", "--store", store).exit_code == 0

    found = told("report", bundle.path, "--store", store, "--out", tmp_path / "r.html", "--worst", 3)["station"]

    said = checked((tmp_path / "r.html").read_text(encoding="utf-8"))
    (counts,) = found["days"].values()
    assert counts == {"FAIL": 5}
    assert [account["balanced"] for account in found["accounts"]] == [True]
    assert "5 triggers = 0 PASS + 0 REVIEW + 5 FAIL" in said.text
    assert len(found["rejects"]) == 3
    assert (found["reviews"], said.tags.count("img")) == ([], 9)
    assert [part["name"][:6] for part in found["rejects"]] == ["000004", "000003", "000002"], "newest first"


def test_a_name_cannot_leave_the_text(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """File and folder names are somebody else's words."""
    data = tmp_path / "data"
    shutil.copytree(line_data / "test", data / "test")
    first = sorted((data / "test" / "scratch").iterdir())[0]
    first.rename(first.with_name(NASTY.replace("/", "_")))
    (data / "test" / "scratch").rename(data / "test" / "<img src=x onerror=alert(1)>")

    found = told("report", bundle.path, "--data", data, "--out", tmp_path / "r.html")

    said = checked((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert any("<script>" in part["name"] for part in found["labelled"]["pictures"])
    assert "<img src=x onerror=alert(1)>" in said.text


@pytest.mark.parametrize(
    "content",
    [
        page(NASTY, [(NASTY, paragraph(NASTY) + table([NASTY], [[NASTY, (NASTY, "n")]], NASTY))]),
        page("t", [("h", parts([(NASTY, [(NASTY, np.zeros((8, 8, 3), np.uint8))])], 10_000))]),
    ],
    ids=["text", "pictures"],
)
def test_whatever_goes_into_a_page_is_text(content: str) -> None:
    """Each of the page's parts escapes on its own."""
    checked(content)


def test_pictures_keep_within_their_bytes() -> None:
    """Noise is the worst that a JPEG can be given; the shape stays."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)

    uri = jpeg_uri(noise, 20_000)

    assert len(uri) < 20_000 * 4 / 3 + 100
    assert resized(noise, 4000, 2000).shape == (192, 384, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--data", "train-only"], DataError, "expected test/good and test/<defect>"),
        (["--store", "train-only"], DataError, "no store.sqlite in it"),
        (["--require-signature", "no.pem"], BundleError, "is no public key"),
    ],
    ids=["no labels", "no store", "no key"],
)
def test_bad_input_is_one_line_and_no_file(
    arguments: list[str], error: type[Exception], says: str, bundle: Bundle, tmp_path: Path
) -> None:
    """Nothing half-written stays."""
    (tmp_path / "train-only" / "train" / "good").mkdir(parents=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    placed = [tmp_path / word if not word.startswith("--") else word for word in arguments]

    result = mapl_edge("report", bundle.path, *placed, "--out", tmp_path / "r.html")

    assert isinstance(result.exception, error)
    assert says in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [["--good", "x"], ["--bad", "x"], ["--data", "x", "--good", "y", "--bad", "z"]])
def test_half_a_command_says_the_rest(arguments: list[str], bundle: Bundle, tmp_path: Path) -> None:
    """Exit code 2, as for any wrong command line."""
    assert mapl_edge("report", bundle.path, *arguments, "--out", tmp_path / "r.html").exit_code == 2


def test_a_picture_of_both_kinds_is_refused(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """One of the labels is wrong."""
    bad = tmp_path / "bad"
    bad.mkdir()
    shutil.copy(sorted(calibration_data.iterdir())[0], bad / "x.png")

    result = mapl_edge("report", bundle.path, "--good", calibration_data, "--bad", bad, "--out", tmp_path / "r.html")

    assert isinstance(result.exception, DataError)
    assert "as a good part too" in str(result.exception)


def test_an_older_report_stays_unless_it_may_go(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the disk is full at the last moment."""
    out = tmp_path / "r.html"
    out.write_text("older")
    names = sorted(path.name for path in tmp_path.iterdir())

    refused = mapl_edge("report", bundle.path, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _full)
        full = mapl_edge("report", bundle.path, "--out", out, "--overwrite")

    assert isinstance(refused.exception, OutputError)
    assert "the disk is full" in str(full.exception)
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert mapl_edge("report", bundle.path, "--out", out, "--overwrite").exit_code == 0
    assert re.match("<!doctype html>", out.read_text())


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")
