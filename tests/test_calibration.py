"""calibration.yaml: what is written comes back, what is wrong is refused with its reason."""

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mapl_edge.calibration import (
    CALIBRATION_SCHEMA,
    Calibration,
    Limits,
    Promise,
    at_most,
    calibration_from_file,
    history_from_file,
    write_calibration,
)
from mapl_edge.errors import BundleError

FIRST_SCHEMA = ("schema_version", "version", "created_at", "created_by", "model_digest", "limits", "promise")
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**9)
# Without U+0085, which PyYAML writes as it is and reads back as a blank.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=20)
limits = st.tuples(numbers, numbers, st.booleans()).map(
    lambda three: Limits(fail=max(three[:2]), review=min(three[:2]) if three[2] else None)
)
calibrations = st.builds(
    Calibration,
    version=counts,
    created_at=texts,
    created_by=texts,
    model_digest=texts,
    limits=limits,
    promise=st.builds(
        Promise,
        max_false_reject=numbers,
        confidence=numbers,
        achieved=numbers,
        n_good=counts,
        n_above=counts,
        n_needed=counts,
    ),
    pictures=st.dictionaries(texts, texts, max_size=4),
)


def calibration(**changes: object) -> Calibration:
    """A calibration that is in order, but for the changes."""
    fields: dict[str, object] = {
        "created_at": "2026-11-22T03:04:05.678Z",
        "created_by": "mia",
        "model_digest": "ab" * 32,
        "limits": Limits(fail=1.5, review=1.0),
        "promise": Promise(max_false_reject=0.05, confidence=0.95, achieved=0.1, n_good=30, n_above=0, n_needed=59),
        "pictures": {"good/000.png": "cd" * 32},
    }
    return Calibration.model_validate({**fields, **changes})


def written(folder: Path, **changes: object) -> Path:
    """calibration.yaml with changed or, with None, missing keys."""
    content = {**calibration().model_dump(mode="json"), **changes}
    path = folder / "calibration.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@given(original=calibrations)
@settings(max_examples=100, deadline=None)
def test_calibration_comes_back_as_it_was(original: Calibration, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Limits to the last bit, and names in any script: a limit that moves in the file moves the verdicts."""
    path = tmp_path_factory.getbasetemp() / "calibration.yaml"
    path.unlink(missing_ok=True)

    write_calibration(original, path)

    assert calibration_from_file(path) == original


def test_the_newest_is_in_force_and_nothing_is_lost(tmp_path: Path) -> None:
    """Older versions stay byte for byte, also one of the first schema; no crumbs are left beside the file."""
    path = tmp_path / "calibration.yaml"
    content = calibration().model_dump(mode="json")
    first = {key: content[key] for key in (*FIRST_SCHEMA, "pictures")} | {"schema_version": 1, "version": 1}
    path.write_text(yaml.safe_dump(first))
    for version in (2, 3):
        before = path.read_bytes()
        write_calibration(calibration(version=version), path)
        assert path.read_bytes().endswith(before)

    assert calibration_from_file(path).version == 3
    assert [one.version for one in history_from_file(path)] == [1, 2, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["calibration.yaml"]


def test_a_broken_history_does_not_stop_a_station(tmp_path: Path) -> None:
    """Only who asks for the history hears of it; calibrating again keeps even that."""
    path = tmp_path / "calibration.yaml"
    write_calibration(calibration(version=2), path)
    path.write_text(path.read_text() + "---\nlimits: {fail: ")

    write_calibration(calibration(version=3), path)

    assert calibration_from_file(path).version == 3
    with pytest.raises(BundleError, match="cannot be read"):
        history_from_file(path)
    assert path.read_text().endswith("limits: {fail: ")


@pytest.mark.parametrize("broken", ["schema_version: 99\n", "limits: {fail: "], ids=["newer", "typo"])
def test_limits_that_nobody_can_read_are_put_aside(broken: str, tmp_path: Path) -> None:
    """With all that stands behind them: nothing is taken out of a history, only the file is another one."""
    path = tmp_path / "calibration.yaml"
    for version in (1, 2):
        path.write_text(broken + "---\n" + (path.read_text() if path.exists() else ""))
        before = path.read_text()

        write_calibration(calibration(version=version), path)

        assert calibration_from_file(path).version == version
        assert (tmp_path / f"calibration.yaml.unreadable-{version}").read_text() == before


def test_a_long_history_does_not_slow_the_start(tmp_path: Path) -> None:
    """A station reads the document in force and no other."""
    path = tmp_path / "calibration.yaml"
    many = {f"good/{i:04d}.png": "ab" * 32 for i in range(300)}
    for version in range(1, 9):
        write_calibration(calibration(version=version, pictures=many), path)
    started = time.process_time()
    history_from_file(path)
    whole = time.process_time() - started

    started = time.process_time()
    calibration_from_file(path)

    assert time.process_time() - started < whole / 3


def test_file_can_be_read_by_people(tmp_path: Path) -> None:
    """It begins by saying what it is, and keeps the order of the model and letters as they are."""
    write_calibration(calibration(created_by="Jürgen"), tmp_path / "calibration.yaml")

    lines = (tmp_path / "calibration.yaml").read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith("# ")
    assert lines[1] == f"schema_version: {CALIBRATION_SCHEMA}"
    assert "created_by: Jürgen" in lines


@pytest.mark.parametrize(("fail", "review"), [(1.0, 1.5), (-1.0, 0.0)], ids=str)
def test_review_above_fail_is_refused(fail: float, review: float) -> None:
    """No part could ever be reviewed; somebody has swapped the two."""
    with pytest.raises(ValidationError, match=rf"review \({review}\) must not lie above fail \({fail}\)"):
        Limits(fail=fail, review=review)


@pytest.mark.parametrize("key", ["fail", "review"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_limit_that_is_no_number_is_refused(key: str, value: float) -> None:
    """Nothing is above NaN: every part would pass."""
    with pytest.raises(ValidationError, match="finite"):
        Limits.model_validate({"fail": 1.0, key: value})


@pytest.mark.parametrize("schema", [5, 99], ids="schema {}".format)
def test_newer_schema_is_refused(schema: int, tmp_path: Path) -> None:
    """An older station must not guess what a newer file means, whatever else is in it."""
    path = written(tmp_path, schema_version=schema, added_later=True)

    with pytest.raises(BundleError, match=rf"schema {schema} is newer than this version reads \(4\); update mapl-edge"):
        calibration_from_file(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"limits": {"fail": float("nan")}}, "limits.fail", id="limit-is-nan"),
        pytest.param({"limits": {"fail": "high"}}, "limits.fail", id="limit-is-text"),
        pytest.param({"limits": {"fail": 1.0, "review": 2.0}}, "review", id="review-above-fail"),
        pytest.param({"limits": None}, "limits", id="no-limits"),
        pytest.param({"limit": 2.0}, "limit", id="unknown-key"),
        pytest.param({"pictures": ["a.png"]}, "pictures", id="pictures-are-a-list"),
    ],
)
def test_wrong_value_is_named(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    """People do edit this file; the message must lead them to the line."""
    path = written(tmp_path, **changes)

    with pytest.raises(BundleError, match=rf"calibration\.yaml: .*\b{named}\b.*; run mapl-edge calibrate again"):
        calibration_from_file(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"just text", id="text"),
        pytest.param(b"[1, 2]", id="list"),
        pytest.param(b"limits: {fail: ", id="cut-off"),
        pytest.param(b"\xff\xfe\x00\x01", id="not-text"),
        pytest.param(b"\0\0\0\0", id="zeros-after-a-power-cut"),
        pytest.param(b"schema_version: new", id="schema-is-text"),
        pytest.param(b"schema_version: null", id="schema-is-null"),
        pytest.param(b"schema_version: .inf", id="schema-is-infinite"),
        pytest.param(b"created_at: 2026-13-45", id="date-that-does-not-exist"),
        pytest.param(b"[" * 5000, id="nested-without-end"),
        pytest.param(b"!!python/object/apply:os.getcwd []", id="code"),
    ],
)
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    """One line that says which file and what to do, whatever lies in it."""
    path = tmp_path / "calibration.yaml"
    path.write_bytes(content)

    with pytest.raises(
        BundleError, match=r"calibration\.yaml: cannot be read .*; run mapl-edge calibrate again"
    ) as caught:
        calibration_from_file(path)
    assert "\n" not in str(caught.value)


@given(content=st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No content of the file ends in a traceback."""
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(content)

    with pytest.raises(BundleError, match=r"random\.yaml: "):
        calibration_from_file(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The message names the place that was looked at."""
    with pytest.raises(BundleError, match=r"none\.yaml: cannot be read"):
        calibration_from_file(tmp_path / "none.yaml")


def test_a_file_of_the_first_schema_is_read_as_it_is(tmp_path: Path) -> None:
    """Stations were calibrated before there were defects, review promises and history."""
    content = calibration().model_dump(mode="json")
    first = {key: content[key] for key in (*FIRST_SCHEMA, "pictures")} | {"schema_version": 1}
    (tmp_path / "calibration.yaml").write_text(yaml.safe_dump(first))

    found = calibration_from_file(tmp_path / "calibration.yaml")

    assert found.limits == calibration().limits
    assert (found.rule, found.misses, found.review_promise) == ("promise", None, None)


LATER = ("place", "levels", "defect_scores", "defect_levels", "target_recall", "costs")  # since schema 3


@pytest.mark.parametrize("keys", [LATER, ()], ids=["without later keys", "with them"])
def test_a_file_of_the_third_schema_is_read_on_and_written_as_this_one(keys: tuple[str, ...], tmp_path: Path) -> None:
    """Some of that number hold later keys: the number was raised after them."""
    content = {key: value for key, value in calibration().model_dump(mode="json").items() if key not in keys}
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump(content | {"schema_version": 3}))

    found = calibration_from_file(path)
    write_calibration(found, path)

    assert found.schema_version == 3
    assert found.model_copy(update={"schema_version": CALIBRATION_SCHEMA}) == calibration()
    assert [one.schema_version for one in history_from_file(path)] == [3, CALIBRATION_SCHEMA]


@pytest.mark.parametrize(
    ("calibrated_with", "runs", "told"),
    [
        ("onnxruntime-fp32-fused", "onnxruntime-fp32-fused", False),
        ("onnxruntime-fp32-fused", "openvino-fp32-split", False),
        ("onnxruntime-fp32-fused", "tensorrt-fp16-fused-sm89", True),
        ("tensorrt-int8-fused-sm89", "onnxruntime-fp32-fused", True),
        ("", "onnxruntime-fp32-fused", False),
        ("custom", "onnxruntime-fp32-fused", True),
    ],
)
def test_only_another_precision_is_worth_a_note(calibrated_with: str, runs: str, told: bool) -> None:
    """Engines of one precision agree within the parity gate; files of schema 1 do not say."""
    assert bool(calibration(engine=calibrated_with).note_on(runs)) == told


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        (0.0504, "5.1%"),
        (0.05, "5.0%"),
        (0.04871, "4.9%"),
        (0.0115, "1.2%"),
        (0.000311, "0.032%"),
        (1.0, "100.0%"),
        (0.0, "0%"),
    ],
)
def test_a_bound_is_never_told_lower_than_it_is(bound: float, told: str) -> None:
    """With 58 good parts it is above 5 %, and says so."""
    assert at_most(bound) == told
