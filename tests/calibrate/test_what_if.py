"""What-if: the same judge over stored scores, and nothing that cannot be compared."""

import json
import time
from pathlib import Path

import pytest

from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.what_if import Judged, limits_from_text, stored_verdicts, what_if
from mapl_edge.calibration import Limits
from mapl_edge.errors import DataError, OptionError
from mapl_edge.verdict import Outcome

NOW = Limits(fail=2.0, review=1.0)


def test_only_parts_that_flip_are_listed() -> None:
    """Up, down and into REVIEW; LATE and ERROR are no matter of limits."""
    parts = [
        Judged("a", 0.5, Outcome.PASS),
        Judged("b", 1.5, Outcome.REVIEW),
        Judged("c", 2.4, Outcome.FAIL),
        Judged("d", 9.0, Outcome.FAIL),
        Judged("e", None, Outcome.ERROR),
        Judged("f", 9.0, Outcome.LATE),
    ]

    result = what_if(parts, Limits(fail=2.5, review=1.6))

    assert [(f.where, f.before, f.after) for f in result.flips] == [
        ("b", Outcome.REVIEW, Outcome.PASS),
        ("c", Outcome.FAIL, Outcome.REVIEW),
    ]
    assert (result.n_without, result.before.total(), result.after[Outcome.PASS]) == (2, 4, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fail=2.5", Limits(fail=2.5, review=1.0)),
        ("review=1.5", Limits(fail=2.0, review=1.5)),
        (" fail = 3 , review=none", Limits(fail=3.0)),
    ],
)
def test_what_is_not_named_stays(text: str, expected: Limits) -> None:
    """One limit is tried at a time."""
    assert limits_from_text(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2.5", "expected fail=NUMBER"),
        ("fial=2.5", "expected fail=NUMBER"),
        ("fail=high", "expected a finite number"),
        ("fail=none", "expected a finite number"),
        ("fail=nan", "finite"),
        ("fail=0.5", "must not lie above fail"),
    ],
)
def test_limits_that_are_none_are_refused(text: str, says: str) -> None:
    """One line."""
    with pytest.raises(OptionError, match=says):
        limits_from_text(text, NOW)


def test_ten_thousand_stored_verdicts_are_judged_at_once(bundle: Bundle, tmp_path: Path) -> None:
    """In less than two seconds, though every one flips; measured in processor time."""
    line = {"seq": 0, "picture": "a.png", "verdict": "PASS", "score": 9.5, "bundle": bundle.digest}
    (tmp_path / "v.jsonl").write_text((json.dumps(line) + "\n") * 10_000)
    started = time.process_time()

    result = what_if(stored_verdicts(tmp_path / "v.jsonl", bundle), NOW)

    assert len(result.flips) == 10_000
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{}", "line 2: is no verdict"),
        ("[1]", "line 2: is no verdict"),
        ("x", "line 2: is no verdict"),
        ('{"verdict": "MAYBE", "score": 1}', "line 2: is no verdict"),
        ('{"verdict": "PASS", "score": NaN}', "line 2: is no verdict"),
        ('{"verdict": "PASS", "score": 1, "bundle": "ffffffffffffffff"}', "verdict of bundle ffffffffffff"),
    ],
)
def test_what_is_no_verdict_of_this_bundle_is_named(line: str, says: str, bundle: Bundle, tmp_path: Path) -> None:
    """Scores of another model would flip at random."""
    (tmp_path / "v.jsonl").write_text('{"verdict": "PASS", "score": 1}\n' + line + "\n")

    with pytest.raises(DataError, match=says):
        list(stored_verdicts(tmp_path / "v.jsonl", bundle))


def test_a_missing_file_is_named(bundle: Bundle, tmp_path: Path) -> None:
    """As everywhere."""
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        list(stored_verdicts(tmp_path / "none.jsonl", bundle))
