"""The verdict as it leaves the station: one line, the same keys in the same order, strict JSON."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapl_edge.verdict import Action, Outcome, Policy, StageTimes, Verdict, utc_text

KEYS = [
    "seq", "picture", "captured_at", "verdict", "action", "score", "p_value", "threshold", "latency_ms", "stage_ms",
    "error", "code", "statistics", "regions",
]  # fmt: skip
WHEN = datetime(2026, 11, 22, 3, 4, 5, 678912, tzinfo=timezone.utc)
TIMES = StageTimes(queue=1.0, prepare=2.5, compute=10.25, judge=0.125)
FAILED = Verdict(Outcome.FAIL, 17, "tray/000017.png", WHEN, 2.5, 1.5, TIMES)
BLIND = Verdict(Outcome.ERROR, 18, "", WHEN, None, None, error="the picture is black")

milliseconds = st.floats(0, 1e5)


def test_line_says_everything() -> None:
    """What other systems read: names and values are a promise."""
    line = json.loads(FAILED.json_line())

    assert line == {
        "seq": 17,
        "picture": "tray/000017.png",
        "captured_at": "2026-11-22T03:04:05.678Z",
        "verdict": "FAIL",
        "action": "fail",
        "score": 2.5,
        "p_value": None,
        "threshold": 1.5,
        "latency_ms": 13.875,
        "stage_ms": {"queue": 1.0, "prepare": 2.5, "compute": 10.25, "judge": 0.125},
        "error": None,
        "code": None,
        "statistics": None,
        "regions": [],
    }


@pytest.mark.parametrize("verdict", [FAILED, BLIND], ids=["with-score", "without-score"])
def test_keys_keep_their_order(verdict: Verdict) -> None:
    """Every line has all keys, so that a table can be made of them; the station's come last."""
    line = json.loads(verdict.json_line(run="4f2a", camera="line-3"))

    assert list(line) == [*KEYS, "run", "camera"]
    assert list(line["stage_ms"]) == ["queue", "prepare", "compute", "judge"]
    assert (line["run"], line["camera"]) == ("4f2a", "line-3")


def test_error_has_no_score() -> None:
    """null, not zero: zero would be a very good part."""
    line = json.loads(BLIND.json_line())

    assert (line["verdict"], line["score"], line["threshold"]) == ("ERROR", None, None)
    assert line["error"] == "the picture is black"


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        (Outcome.PASS, Action.PASS),
        (Outcome.REVIEW, Action.REVIEW),
        (Outcome.FAIL, Action.FAIL),
        (Outcome.LATE, Action.REVIEW),
        (Outcome.ERROR, Action.PASS),
    ],
)
def test_the_policy_speaks_only_for_parts_that_nobody_judged(outcome: Outcome, action: Action) -> None:
    """However lenient it is, a part that was judged gets what the judge said."""
    policy = Policy(on_late=Action.REVIEW, on_error=Action.PASS)

    assert Verdict(outcome, 0, "", WHEN, None, None, policy=policy).action is action


@pytest.mark.parametrize("outcome", [Outcome.LATE, Outcome.ERROR])
def test_a_part_that_nobody_judged_is_rejected_unless_told_otherwise(outcome: Outcome) -> None:
    """The safe side is the default."""
    assert Verdict(outcome, 0, "", WHEN, None, None).action is Action.FAIL


@pytest.mark.parametrize("outcome", list(Outcome))
def test_outcome_is_written_as_its_name(outcome: Outcome) -> None:
    """PLC programs compare with these words."""
    assert json.loads(Verdict(outcome, 0, "", WHEN, None, None).json_line())["verdict"] == outcome.name


@given(queue=milliseconds, prepare=milliseconds, compute=milliseconds, judge=milliseconds)
def test_latency_is_the_sum_of_the_stages(queue: float, prepare: float, compute: float, judge: float) -> None:
    """No time is lost between the stages, and none is counted twice."""
    times = StageTimes(queue=queue, prepare=prepare, compute=compute, judge=judge)

    line = json.loads(Verdict(Outcome.PASS, 0, "", WHEN, 0.5, 1.0, times).json_line())

    assert times.total == pytest.approx(queue + prepare + compute + judge)
    assert line["latency_ms"] == pytest.approx(sum(line["stage_ms"].values()), abs=0.003)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Prüfung/零件.png", id="any-script"),
        pytest.param("two\nlines.png", id="line-end"),
        pytest.param('quo"te\\.png', id="quotes"),
        pytest.param("Pr\udcfcfung.png", id="file-name-that-is-not-utf-8"),
    ],
)
def test_every_name_fits_on_one_line(name: str) -> None:
    """File names are bytes on Linux; one in Latin-1 from an old camera PC must not stop the line."""
    line = Verdict(Outcome.PASS, 0, name, WHEN, 0.5, 1.0).json_line().encode()

    assert b"\n" not in line
    assert json.loads(line)["seq"] == 0


def test_names_stay_readable() -> None:
    """People search the file for the name that they see on the disk."""
    assert "Prüfung.png" in Verdict(Outcome.PASS, 0, "Prüfung.png", WHEN, 0.5, 1.0).json_line()


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        pytest.param(WHEN, "2026-11-22T03:04:05.678Z", id="utc"),
        pytest.param(WHEN.replace(microsecond=0), "2026-11-22T03:04:05.000Z", id="whole-second"),
        pytest.param(WHEN.replace(microsecond=999_999), "2026-11-22T03:04:05.999Z", id="never-rounded-up"),
        pytest.param(
            WHEN.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-11-22T03:04:05.678Z", id="other-zone"
        ),
    ],
)
def test_stamp_is_utc_with_milliseconds(moment: datetime, text: str) -> None:
    """One width and one zone: the stamps sort as text."""
    assert utc_text(moment) == text
