"""The calibrate command: what people read, what machines read, what bad input gets."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibration import write_calibration
from mapl_edge.cli import app
from mapl_edge.errors import BundleError, ContractMismatch, DataError, MaplEdgeError
from mapl_edge.files import sha256_of


def calibrate(*arguments: object) -> Result:
    """Run the command in this process; an error of the user's is raised as it is."""
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture
def sixty(tmp_path: Path) -> Path:
    """Scores 0 to 59, one a line."""
    path = tmp_path / "scores.csv"
    path.write_text("".join(f"{i}\n" for i in range(60)))
    return path


def test_scores_from_elsewhere_get_a_limit_and_its_promise(sixty: Path) -> None:
    """No bundle is needed, and nothing is written."""
    result = calibrate("--scores", sixty, "--max-false-reject", 0.01, "--json")

    told = json.loads(result.stdout)
    assert (told["limit"], told["n_good"], told["n_above"], told["n_needed"], told["n_next"]) == (59, 60, 0, 299, 299)
    assert told["achieved"] == pytest.approx(1 - 0.05 ** (1 / 60), abs=1e-12)
    assert "at most 4.9% of good parts are rejected (95% confidence); for 1.0% you need 299" in result.stderr
    assert "239 more good parts would keep 1.0%" in result.stderr
    assert [path.name for path in sixty.parent.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["1"] * 20, "all 20 scores of good parts are 1"),
        (["1", "nan"] * 10, "10 of 20 scores are not numbers"),
        (["1", "2"], "found 2 good parts to calibrate with, expected at least 10"),
    ],
    ids=["equal", "nan", "few"],
)
def test_scores_that_promise_nothing_are_refused(lines: list[str], says: str, sixty: Path) -> None:
    """One clear line each."""
    sixty.write_text("\n".join(lines))

    result = calibrate("--scores", sixty)

    assert isinstance(result.exception, DataError)
    assert says in str(result.exception)


@pytest.mark.parametrize("arguments", [[], ["part.mapl"], ["--good", "x"], ["part.mapl", "--scores", "x.csv"]], ids=str)
def test_half_a_command_says_the_rest(arguments: list[str]) -> None:
    """Exit code 2, as for any wrong command line."""
    assert calibrate(*arguments).exit_code == 2


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Good parts 0 to 59, defects 50 to 89."""
    path = tmp_path / "labelled.csv"
    rows = [*(f"{i},good" for i in range(60)), *(f"{i},scratch" for i in range(50, 90))]
    path.write_text("score,label\n" + "\n".join(rows))
    return path


def test_labels_tell_what_the_limit_misses(labelled: Path) -> None:
    """With the bound, and what F1-max would do instead."""
    result = calibrate("--scores", labelled, "--json")

    told = json.loads(result.stdout)
    assert told["misses"] == {"n_bad": 40, "n_missed": 10, "bound": pytest.approx(0.3878, abs=1e-3), "confidence": 0.95}
    assert [point["rule"] for point in told["points"]] == ["promise", "f1"]
    assert told["limit"] == told["points"][0]["limit"] == 59
    assert "10 of 40 defects pass" in result.stderr


@pytest.mark.parametrize(
    ("flags", "rule", "limit"),
    [
        (["--f1-max"], "f1", 49.5),
        (["--target-recall", "0.9"], "recall", 50),
        (["--cost-miss", "50", "--cost-false-reject", "1"], "cost", 49.5),
        (["--cost-miss", "1", "--cost-false-reject", "50"], "cost", 59.5),
        (["--cost-miss", "50", "--cost-false-reject", "1", "--defect-rate", "0.0001"], "cost", 59.5),
    ],
    ids=["f1", "recall", "cost", "dear-rejects", "rare-defects"],
)
def test_each_rule_sets_the_limit(flags: list[str], rule: str, limit: float, labelled: Path) -> None:
    """And the promise is the one of that limit, never of another."""
    told = json.loads(calibrate("--scores", labelled, *flags, "--json").stdout)

    assert (told["rule"], told["limit"]) == (rule, pytest.approx(limit))
    assert told["n_above"] == sum(i > told["limit"] for i in range(60))
    assert told["achieved"] >= told["n_above"] / 60
    assert told["points"][0]["rule"] == rule


def test_the_trade_off_is_drawn(labelled: Path) -> None:
    """A PNG that opens, drawn again when asked again."""
    out = labelled.with_name("t.png")

    for _ in range(2):
        assert calibrate("--scores", labelled, "--plot", out).exit_code == 0
        picture = cv2.imread(str(out))
        assert picture is not None
        assert picture.std() > 5


@pytest.mark.parametrize(
    "flags",
    [
        ["--cost-miss", "50"],
        ["--defect-rate", "0.1"],
        ["--f1-max", "--target-recall", "0.9"],
    ],
    ids=str,
)
def test_contradicting_rules_are_a_wrong_command_line(flags: list[str], labelled: Path) -> None:
    """There is one fail limit."""
    assert calibrate("--scores", labelled, *flags).exit_code == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--f1-max"], "needs defective parts"),
        (["--target-recall", "0.9"], "needs defective parts"),
        (["--plot", "x.jpg"], "not named .png"),
    ],
    ids=str,
)
def test_rules_for_defects_need_defects(flags: list[str], says: str, sixty: Path) -> None:
    """By name."""
    result = calibrate("--scores", sixty, *flags)

    assert isinstance(result.exception, MaplEdgeError)
    assert says in str(result.exception)


def test_a_bundle_is_calibrated_with_defects(bundle: Bundle, line_data: Path, calibration_data: Path) -> None:
    """Limits, what they miss and the digests of both kinds are written; the drawing lies beside the bundle."""
    defects = line_data / "test" / "scratch"

    told = json.loads(calibrate(bundle.path, "--good", calibration_data, "--bad", defects, "--json").stdout)

    written = open_bundle(bundle.path).calibration
    assert written.misses is not None
    assert written.misses.model_dump() == told["misses"]
    assert set(written.defects.values()) == {sha256_of(path) for path in defects.iterdir()}
    assert bundle.path.with_name("part.tradeoff.png").is_file()


def test_labels_that_contradict_the_folder_write_nothing(
    bundle: Bundle, line_data: Path, calibration_data: Path, tmp_path: Path
) -> None:
    """A good folder given as bad, a defect's folder given as good, one picture given as both."""
    before = bundle.calibration_path.read_bytes()
    both = tmp_path / "both"
    both.mkdir()
    shutil.copy(next(calibration_data.iterdir()), both / "renamed.png")
    test = line_data / "test"

    for good, bad, says in (
        (calibration_data, test / "good", "holds good parts by its name"),
        (test / "scratch", test / "stain", "holds defective parts by its place beside good"),
        (calibration_data, both, "is given as defective, but as a good part too"),
    ):
        result = calibrate(bundle.path, "--good", good, "--bad", bad)
        assert isinstance(result.exception, DataError)
        assert says in str(result.exception)

    assert bundle.calibration_path.read_bytes() == before
    assert not bundle.path.with_name("part.tradeoff.png").exists()


def test_every_folder_given_is_used(bundle: Bundle, line_data: Path, calibration_data: Path, tmp_path: Path) -> None:
    """Two of each kind with files of the same names; the good ones beside the defects are left out, and told."""
    more, test = tmp_path / "more", line_data / "test"
    (more / "defects").mkdir(parents=True)
    shutil.copytree(test / "good", more / "good")
    for path in (test / "scratch").iterdir():
        picture = cv2.imread(str(path))
        assert picture is not None
        cv2.imwrite(str(more / "defects" / path.name), 255 - picture)
    bad = "--bad", test / "scratch", "--bad", test, "--bad", more / "defects"

    result = calibrate(bundle.path, "--good", calibration_data, "--good", more / "good", *bad)

    assert result.exit_code == 0, result.exception
    written = open_bundle(bundle.path).calibration
    given = [*calibration_data.iterdir(), *(more / "good").iterdir()]
    assert set(written.pictures.values()) == {sha256_of(path) for path in given}
    defects = [path for folder in test.iterdir() if folder.name != "good" for path in folder.iterdir()]
    assert len(written.defects) == len(defects) + len(list((more / "defects").iterdir()))
    said = f"left out {test / 'good'}: its {len(list((test / 'good').iterdir()))} pictures are good parts by its name"
    assert said in result.stderr


def test_a_review_limit_reaches_the_bundle(bundle: Bundle, calibration_data: Path) -> None:
    """With its own promise; the fail limit is the same as without."""
    result = calibrate(
        bundle.path, "--good", calibration_data, "--max-false-reject", 0.2, "--review-false-reject", 0.4, "--json"
    )

    written = open_bundle(bundle.path).calibration
    told = json.loads(result.stdout)
    assert written.limits.review == told["review"]["limit"] < written.limits.fail == told["limit"]
    assert written.review_promise is not None
    assert written.review_promise.achieved <= 0.4
    assert "of good parts do not PASS" in result.stderr


def test_history_shows_and_rolls_back(bundle: Bundle, calibration_data: Path) -> None:
    """Version 3 has the limits of version 1, and all three are there to be seen. Who replaces one is told which."""
    limit = open_bundle(bundle.path).calibration.limits.fail
    again = calibrate(bundle.path, "--good", calibration_data, "--max-false-reject", 0.3)
    assert again.exit_code == 0
    assert f"before: version 1, limit {limit:.6g}, promise: with 20 good parts" in " ".join(again.stderr.split())
    assert f"to go back: mapl-edge calibrate {bundle.path} --rollback 1" in again.stderr.replace("\n", " ")

    result = calibrate(bundle.path, "--rollback", 1, "--json")

    first, second, third = json.loads(result.stdout)["history"]
    assert third["limits"] == first["limits"] != second["limits"]
    assert (third["version"], third["note"]) == (3, "rollback to version 1")
    assert open_bundle(bundle.path).calibration.limits.fail == first["limits"]["fail"]
    shown = calibrate(bundle.path, "--show", "--json")
    assert json.loads(shown.stdout)["history"] == [first, second, third]


@pytest.mark.parametrize("what", ["folder", "verdicts", "store"])
def test_what_if_lists_flips_and_writes_nothing(what: str, bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """Over a folder and over what run said of it: the same parts flip."""
    before = bundle.calibration_path.read_bytes()
    over = line_data / "test"
    if what != "folder":
        over = tmp_path / "v"
        option = {"verdicts": "--out", "store": "--store"}[what]
        ran = CliRunner().invoke(
            app, ["run", str(bundle.path), "--source", str(line_data / "test"), option, str(over),
                  "--engine", "onnxruntime-fp32-fused"]
        )  # fmt: skip
        assert ran.exit_code == 0, ran.output

    result = calibrate(bundle.path, "--what-if", "fail=-1e9", "--over", over, "--json")

    told = json.loads(result.stdout)
    assert told["after"] == {"FAIL": 16}
    assert len(told["flips"]) == told["before"].get("PASS", 0) > 0
    assert {flip["picture"].partition("/")[0] for flip in told["flips"]} <= {
        p.name for p in (line_data / "test").iterdir()
    }
    assert f"{len(told['flips'])} of 16 verdicts would flip" in " ".join(result.stderr.split())
    assert bundle.calibration_path.read_bytes() == before


def test_of_a_store_what_if_takes_this_bundles_verdicts(bundle: Bundle, line_data: Path, tmp_path: Path) -> None:
    """It outlives many bundles; where there is none of this one, that is told."""
    CliRunner().invoke(app, ["run", str(bundle.path), "--source", str(line_data / "test"), "--store", str(tmp_path)])
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as store, store:
        store.execute("INSERT INTO changes SELECT id, 10, 'other', 'c', 'e', 1.0, NULL FROM runs")
    some = calibrate(bundle.path, "--what-if", "fail=-1e9", "--over", tmp_path, "--json")
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as store, store:
        store.execute("UPDATE changes SET first_seq = 0")
    none = calibrate(bundle.path, "--what-if", "fail=-1e9", "--over", tmp_path)

    assert json.loads(some.stdout)["after"] == {"FAIL": 10}
    assert "6 verdicts of other bundles are left out" in some.stderr
    assert isinstance(none.exception, DataError)
    assert f"has no verdict of bundle {bundle.digest[:12]}, found 16 of others" in str(none.exception)


def test_a_calibration_of_another_bundle_is_not_shown_or_rolled_back(bundle: Bundle) -> None:
    """Limits of another model say nothing about this one's scores; one line, nothing written."""
    other = open_bundle(bundle.path).calibration.model_copy(update={"model_digest": "f" * 64, "version": 2})
    write_calibration(other, bundle.calibration_path)
    before = bundle.calibration_path.read_bytes()

    for flags in (["--show"], ["--rollback", 1], ["--what-if", "fail=1", "--over", bundle.path]):
        result = calibrate(bundle.path, *flags)
        assert isinstance(result.exception, ContractMismatch), flags
        assert "was made for bundle ffffffffffff" in str(result.exception)

    assert bundle.calibration_path.read_bytes() == before


@pytest.mark.parametrize("how", ["another bundle's", "newer", "typo"])
def test_limits_that_cannot_be_used_are_calibrated_anew(how: str, bundle: Bundle, calibration_data: Path) -> None:
    """It is what every message about them advises."""
    path = bundle.calibration_path
    if how == "another bundle's":
        other = open_bundle(bundle.path).calibration.model_copy(update={"model_digest": "f" * 64, "version": 2})
        write_calibration(other, path)
    else:
        broken = "schema_version: 99" if how == "newer" else "limits: {fail: "
        path.write_text(f"{broken}\n---\n{path.read_text()}")

    result = calibrate(bundle.path, "--good", calibration_data)

    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "the limits that were there are replaced:" in result.stderr
    assert open_bundle(bundle.path).calibration.promise.n_good == 20
    assert bundle.path.joinpath("calibration.yaml.unreadable-1").exists() == (how != "another bundle's")


def test_a_sound_version_comes_back_though_an_older_one_is_broken(bundle: Bundle) -> None:
    """Nobody needs that one."""
    mine = open_bundle(bundle.path).calibration
    path = bundle.calibration_path
    path.write_text(path.read_text() + "---\nlimits: {fail: ")
    write_calibration(mine.model_copy(update={"version": 2, "note": "later"}), path)

    assert calibrate(bundle.path, "--rollback", 1).exit_code == 0
    assert open_bundle(bundle.path).calibration.note == "rollback to version 1"


def test_a_picture_counts_once(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """Under whatever names it lies there: copies would promise what so few parts cannot."""
    twice = Path(shutil.copytree(calibration_data, tmp_path / "twice"))
    for path in list(twice.rglob("*.png")):
        shutil.copyfile(path, path.with_name(f"copy of {path.name}"))

    result = calibrate(bundle.path, "--good", twice)

    assert "left out 20 copies" in result.stderr
    assert open_bundle(bundle.path).calibration.promise.n_good == 20


def test_a_part_that_was_labelled_a_defect_is_no_good_part(bundle: Bundle, calibration_data: Path) -> None:
    """Whoever mixes them up hears of it, and the limits stay."""
    picture = sorted(calibration_data.rglob("*.png"))[0]
    defects = bundle.path / "defects"
    defects.mkdir()
    shutil.copyfile(picture, defects / f"{sha256_of(picture)}.png")
    before = bundle.calibration_path.read_bytes()

    result = calibrate(bundle.path, "--good", calibration_data)

    assert isinstance(result.exception, DataError)
    assert f"{picture} is given as a good part, but was labelled a defect" in str(result.exception)
    assert bundle.calibration_path.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--good", "x", "--plot", "a.png"], "give --bad FOLDER"),
        (
            ["--set", "fail=2", "--regions", "--max-false-reject", "0.1"],
            "--max-false-reject, --regions would do nothing",
        ),
        (["--show", "--f1-max"], "--f1-max would do nothing"),
    ],
    ids=str,
)
def test_an_option_that_would_do_nothing_is_refused(flags: list[str], says: str, bundle: Bundle) -> None:
    """Before anything is written."""
    before = bundle.calibration_path.read_bytes()

    result = calibrate(bundle.path, *flags)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert bundle.calibration_path.read_bytes() == before


def test_only_versions_that_are_there_come_back(bundle: Bundle) -> None:
    """Told with those that are; one of another bundle stays where it is."""
    mine = open_bundle(bundle.path).calibration
    write_calibration(mine.model_copy(update={"model_digest": "f" * 64, "version": 2}), bundle.calibration_path)
    write_calibration(mine.model_copy(update={"version": 3}), bundle.calibration_path)
    before = bundle.calibration_path.read_bytes()

    for version, says in ((9, "no version 9, found 1, 2, 3"), (3, "in force already"), (2, "bundle ffffffffffff")):
        result = calibrate(bundle.path, "--rollback", version)
        assert isinstance(result.exception, BundleError)
        assert says in str(result.exception)

    assert bundle.calibration_path.read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [["--show", "--rollback", "1"], ["--what-if", "fail=1"], ["--over", "x"], ["--show", "--good", "x"]],
    ids=str,
)
def test_one_thing_at_a_time(flags: list[str]) -> None:
    """Whoever looks at the history does not calibrate."""
    assert calibrate("part.mapl", *flags).exit_code == 2
    assert calibrate("--show").exit_code == 2


def test_scores_and_engine_are_kept_and_verdicts_have_p_values(bundle: Bundle, calibration_data: Path) -> None:
    """The calibration pictures themselves: the highest of 20 has 2 / 21, the lowest 1."""
    assert calibrate(bundle.path, "--good", calibration_data).exit_code == 0
    written = open_bundle(bundle.path).calibration

    arguments = ["run", str(bundle.path), "--source", str(calibration_data), "--engine", "onnxruntime-fp32-fused"]
    ran = CliRunner().invoke(app, arguments)

    assert written.engine == "onnxruntime-fp32-fused"
    assert len(written.scores) == len(written.pictures) == 20
    verdicts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(v["score"] for v in verdicts) == sorted(written.scores)
    assert sorted(v["p_value"] for v in verdicts) == pytest.approx([n / 21 for n in range(2, 22)])
    assert "calibrated with" not in ran.stderr


def test_another_precision_is_told(bundle: Bundle, calibration_data: Path) -> None:
    """At the start of a run, which goes on."""
    mine = open_bundle(bundle.path).calibration
    write_calibration(mine.model_copy(update={"engine": "openvino-int8-fused"}), bundle.calibration_path)

    arguments = ["run", str(bundle.path), "--source", "line:?parts=1&size=96", "--engine", "onnxruntime-fp32-fused"]
    ran = CliRunner().invoke(app, arguments)

    assert ran.exit_code == 0
    assert "calibrated with openvino-int8-fused, onnxruntime-fp32-fused runs" in " ".join(ran.stderr.split())
