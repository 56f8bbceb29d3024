"""Scores from a CSV file, as people have them."""

from pathlib import Path

import pytest

from mapl_edge.calibrate.scores import scores_from_csv
from mapl_edge.errors import DataError


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        pytest.param("1\n2.5\n\n-3e1\n", (1, 2.5, -30), (), id="a-number-a-line"),
        pytest.param("score\n1\n2\n", (1, 2), (), id="a-column"),
        pytest.param("picture,Score,Label\na.png,1,good\nb.png,2,scratch\n", (1,), (2,), id="labels"),
        pytest.param("label,score\n0,1\n1,2\nOK,3\n", (1, 3), (2,), id="labels-as-others-write-them"),
        pytest.param("\ufeffscore;label\n1,5;good\n2,5;dent\n", (1.5,), (2.5,), id="german-spreadsheet"),
        pytest.param("score,verdict\n1,PASS\n", (1,), (), id="all-passed"),
        pytest.param("score,verdict,label\n1,FAIL,good\n2,PASS,dent\n", (1,), (2,), id="labels-beside-verdicts"),
        pytest.param("score\tlabel\r\n1\tgood\r\n", (1,), (), id="tabs"),
    ],
)
def test_columns_and_signs(text: str, good: tuple[float, ...], bad: tuple[float, ...], tmp_path: Path) -> None:
    """Whatever wrote the file."""
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")

    found = scores_from_csv(tmp_path / "s.csv")

    assert (found.good, found.bad) == (good, bad)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "found no line", id="empty"),
        pytest.param(b"1\n2\nx\n", "s.csv line 3: found 'x', expected a number", id="no-number"),
        pytest.param(b"name,value\na,1\n", "found columns name, value, expected one named score", id="no-score"),
        pytest.param(b"score,label\n1,good\n2\n", "line 3: found 1 columns, expected 2", id="short-line"),
        pytest.param(b"score,label\n1,\n", "line 2: has no label", id="no-label"),
        pytest.param(
            b"picture,score,label\ntest/good/1.png,1,dent\n", "folder of good parts but is labelled 'dent'", id="liar"
        ),
        pytest.param(
            b"score,verdict\n1,PASS\n2,FAIL\n,ERROR\n",
            "2 of 3 rows are not PASS in the column verdict, and no column label",
            id="history",
        ),
        pytest.param(b"score;outcome\n1;REVIEW\n", "1 of 1 rows are not PASS in the column outcome", id="outcome"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="no-text"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content: bytes, says: str, tmp_path: Path) -> None:
    """A file of ten thousand lines is not searched by hand."""
    (tmp_path / "s.csv").write_bytes(content)

    with pytest.raises(DataError, match=says.replace("(", r"\(")) as caught:
        scores_from_csv(tmp_path / "s.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """And a folder."""
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=f"{path}: cannot be read"):
            scores_from_csv(path)
