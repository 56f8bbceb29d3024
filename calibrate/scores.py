"""Scores from elsewhere: a CSV file of raw scores, labelled or not."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path, PurePath

from mapl_edge.dataset import GOOD
from mapl_edge.errors import DataError
from mapl_edge.verdict import Outcome

GOOD_WORDS = frozenset({GOOD, "ok", "normal", "pass", "0", "false"})
DELIMITERS = ";\t,"
VERDICTS = ("verdict", "outcome")  # columns of a station's history, which are no labels


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw scores of good and of defective parts, in the order of the file."""

    good: tuple[float, ...]
    bad: tuple[float, ...]


def scores_from_csv(path: Path) -> Scores:
    """Read one number a line, or the columns `score` and, if there is one, `label`.

    A label of good, ok, normal, pass, 0 or false is a good part's, any other a defect's. Columns may be divided by
    comma, semicolon or tab; with a semicolon the decimal sign may be a comma. Where a column `picture` names a file in
    a folder `good`, its label must agree.

    Raises:
        DataError: the file cannot be read, has no such column, or a line is wrong; the line is named. Or it has
            verdicts other than PASS and no labels: nobody says which of these parts are good.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _rows(text)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise DataError(f"{path}: cannot be read ({reason}); expected text with one score a line") from exc
    if not rows:
        raise DataError(f"{path}: found no line, expected one score a line or a column named score")
    names = [cell.strip().lower() for cell in rows[0][1]]
    if "score" in names:
        rows = rows[1:]
    elif len(names) == 1 and _number(names[0]) is not None:
        names = ["score"]
    else:
        raise DataError(f"{path}: found columns {', '.join(names)}, expected one named score, or one number a line")
    _check_verdicts(path, names, rows)
    good: list[float] = []
    bad: list[float] = []
    for line, cells in rows:
        if len(cells) != len(names):
            raise DataError(f"{path} line {line}: found {len(cells)} columns, expected {len(names)}")
        row = dict(zip(names, (cell.strip() for cell in cells), strict=True))
        score = _number(row["score"])
        if score is None:
            raise DataError(f"{path} line {line}: found {row['score']!r}, expected a number")
        (good if _is_good(row, f"{path} line {line}") else bad).append(score)
    return Scores(tuple(good), tuple(bad))


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((sign for sign in DELIMITERS if sign in first), ",")
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    return [(n, [cell.replace(",", ".") for cell in cells]) for n, cells in rows] if delimiter == ";" else rows


def _check_verdicts(path: Path, names: list[str], rows: list[tuple[int, list[str]]]) -> None:
    column = next((names.index(name) for name in VERDICTS if name in names), None)
    if column is None or "label" in names:
        return
    n = sum(len(cells) == len(names) and cells[column].strip().upper() != Outcome.PASS.value for _, cells in rows)
    if n:
        raise DataError(
            f"{path}: {n} of {len(rows)} rows are not PASS in the column {names[column]}, and no column label says "
            "which parts are good; add one (good, or what the defect is), or leave out the rows of parts that are not "
            "good"
        )


def _number(text: str) -> float | None:
    """NaN and infinity are numbers here; who uses the scores refuses them and says how many there are."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return None


def _is_good(row: dict[str, str], where: str) -> bool:
    label = row.get("label", GOOD).lower()
    if not label:
        raise DataError(f"{where}: has no label; write good, or what the defect is")
    good, picture = label in GOOD_WORDS, row.get("picture", "")
    if not good and GOOD in PurePath(picture).parts[:-1]:
        raise DataError(
            f"{where}: {picture} lies in a folder of good parts but is labelled {label!r}; mend one of them"
        )
    return good
