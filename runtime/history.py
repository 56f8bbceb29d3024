"""History: what a store holds, newest first or as a file, read while the station goes on writing."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from mapl_edge.errors import BackendUnavailable, DataError, OptionError, OutputError
from mapl_edge.files import new_file
from mapl_edge.runtime.ledger import Ledger, alarms, ledger
from mapl_edge.runtime.store_database import (
    DATABASE,
    connect,
    database_errors,
    microseconds,
    moment_from_microseconds,
)
from mapl_edge.runtime.store_pictures import map_path, picture_path
from mapl_edge.verdict import Outcome, utc_text

UNITS_S = {"m": 60, "h": 3600, "d": 86400}
AT_ONCE = 10_000  # rows of a Parquet group
NAMED = 10  # runs or cameras in an error, the newest


@dataclass(frozen=True, slots=True)
class Entry:
    """One verdict of the store; keys and units as in a verdict line (docs/run.md).

    Attributes:
        action, latency_ms, stage_ms: None and empty where the station stopped before the verdict.
        statistics: None where there is no score, and in records of earlier versions.
        stored_picture, stored_map: files in the store, or None.
    """

    run: str
    camera: str
    seq: int
    picture: str
    captured_at: datetime
    verdict: Outcome
    action: str | None
    score: float | None
    p_value: float | None
    threshold: float | None
    latency_ms: float | None
    stage_ms: dict[str, float]
    error: str | None
    code: str | None
    statistics: dict[str, float] | None
    regions: list[dict[str, Any]]
    bundle: str
    calibration: str
    engine: str
    stored_picture: Path | None
    stored_map: Path | None

    def as_json(self) -> dict[str, Any]:
        """The same with plain values."""
        content = {name: getattr(self, name) for name in self.__slots__}
        paths = {key: str(content[key]) if content[key] else None for key in ("stored_picture", "stored_map")}
        return {**content, **paths, "captured_at": utc_text(self.captured_at), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which verdicts; None: all.

    Attributes:
        last: so many of the newest.
        with_picture: only those whose picture is kept.
        seq, run: of this number, of this run.
    """

    last: int | None = None
    verdict: Outcome | None = None
    since: datetime | None = None
    camera: str | None = None
    with_picture: bool = False
    seq: int | None = None
    run: str | None = None


class History:
    """A store, opened to read."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self._folder, self._connection = folder, connection

    def require(self, wanted: Wanted) -> None:
        """Raise DataError where the run or camera that is wanted never was in this store."""
        with database_errors(self._folder / DATABASE):
            found = self._connection.execute("SELECT run, camera FROM runs ORDER BY id DESC").fetchall()
        runs = [run for run, _ in found]
        cameras = [camera for run, camera in found if wanted.run in (None, run)]
        for what, name, names in (("run", wanted.run, runs), ("camera", wanted.camera, cameras)):
            if name is not None and name not in names:
                there = list(dict.fromkeys(names))
                more = f" and {len(there) - NAMED} older ones" if len(there) > NAMED else ""
                raise DataError(
                    f"{self._folder}: has no {what} {name!r}, found {', '.join(there[:NAMED]) or 'none'}{more}; "
                    "name one of them"
                )

    def count(self, wanted: Wanted) -> int:
        """How many verdicts there are to see, whatever `last` says."""
        where, values = self._where(wanted)
        joined = "shots JOIN runs ON runs.id = shots.run_id LEFT JOIN pictures USING (run_id, seq)"
        found = f"SELECT count(*) FROM {joined} {where}"
        with database_errors(self._folder / DATABASE):
            return int(self._connection.execute(found, values).fetchone()[0])

    def entries(self, wanted: Wanted) -> Iterator[Entry]:
        """Verdicts in the order in which their shots came; with `last`, the newest of them."""
        where, values = self._where(wanted)
        newest = f"""SELECT shots.id AS id, shots.run_id AS run_id, run, camera, shots.seq AS seq, picture, captured_us,
            outcome, score, threshold, latency_ms, stage_ms, error, action, p_value, code, statistics, regions,
            coalesce(changes.bundle, runs.bundle), coalesce(changes.calibration, runs.calibration),
            coalesce(changes.engine, runs.engine), has_map
            FROM shots JOIN runs ON runs.id = shots.run_id LEFT JOIN pictures USING (run_id, seq)
            LEFT JOIN changes ON changes.run_id = shots.run_id AND first_seq =
                (SELECT max(first_seq) FROM changes WHERE run_id = shots.run_id AND first_seq <= shots.seq)
            {where} ORDER BY shots.id DESC LIMIT ?"""
        rows = self._connection.execute(
            f"SELECT * FROM ({newest}) ORDER BY id", (*values, -1 if wanted.last is None else wanted.last)
        )
        with database_errors(self._folder / DATABASE):
            for row in rows:
                yield self._entry(*row[1:])

    @staticmethod
    def _where(wanted: Wanted) -> tuple[str, list[Any]]:
        clauses: list[str] = ["outcome IS NOT NULL"]
        values: list[Any] = []
        for clause, value in (
            ("outcome = ?", wanted.verdict.value if wanted.verdict else None),
            ("captured_us >= ?", microseconds(wanted.since) if wanted.since else None),
            ("camera = ?", wanted.camera),
            ("shots.seq = ?", wanted.seq),
            ("run = ?", wanted.run),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        if wanted.with_picture:
            clauses.append("has_map IS NOT NULL")
        return f"WHERE {' AND '.join(clauses)}", values

    def alarms(self) -> list[Ledger]:
        """The runs that have ended and do not balance, oldest first."""
        return alarms(self._connection)

    def accounts(self) -> list[Ledger]:
        """The account of every run, oldest first."""
        with database_errors(self._folder / DATABASE):
            runs = self._connection.execute("SELECT run, camera FROM runs ORDER BY id").fetchall()
            return [ledger(self._connection, run, camera) for run, camera in runs]

    def counts_by_day(self) -> dict[str, dict[Outcome, int]]:
        """How many verdicts of each outcome were given on each UTC day, oldest first; without those that retention has
        deleted."""
        found: dict[str, dict[Outcome, int]] = {}
        with database_errors(self._folder / DATABASE):
            for day, outcome, n in self._connection.execute(
                """SELECT date(captured_us / 1000000, 'unixepoch') AS day, outcome, count(*) FROM shots
                WHERE outcome IS NOT NULL GROUP BY day, outcome ORDER BY day"""
            ):
                found.setdefault(day, {})[Outcome(outcome)] = n
        return found

    def _entry(self, run_id: int, run: str, camera: str, seq: int, picture: str, captured_us: int, *row: Any) -> Entry:
        outcome, score, threshold, latency_ms, stages, error, action, p_value, code, *more, has_map = row
        statistics, regions, *origin = more
        stored = picture_path(self._folder, run_id, seq) if has_map is not None else None
        bundle, calibration, engine = origin
        kept = stored, map_path(stored) if stored and has_map else None
        moment, spent = moment_from_microseconds(captured_us), json.loads(stages) if stages else {}
        what = Outcome(outcome), action, score, p_value, threshold, latency_ms, spent, error, code
        found = json.loads(statistics) if statistics else None, json.loads(regions or "[]")
        return Entry(run, camera, seq, picture, moment, *what, *found, bundle, calibration, engine, *kept)


@contextmanager
def open_history(folder: Path) -> Iterator[History]:
    """Open a store to read.

    Raises:
        DataError: there is none, or it is of another schema.
    """
    connection = connect(folder, write=False)
    try:
        with database_errors(folder / DATABASE):
            yield History(folder, connection)
    finally:
        connection.close()


def since_from_text(text: str, now: datetime) -> datetime:
    """A time in UTC: `2026-11-22`, `2026-11-22T06:00`, or so long ago: `30m`, `8h`, `7d`.

    Raises:
        OptionError: it is none of these.
    """
    try:
        if text[-1:] in UNITS_S:
            return now - timedelta(seconds=float(text[:-1]) * UNITS_S[text[-1]])
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError) as exc:
        raise OptionError(f"--since: found {text!r}, expected a time such as 2026-11-22T06:00, 8h or 7d") from exc
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def write_table(entries: Iterable[Entry], out: Path) -> int:
    """Write verdicts to a .csv or .parquet file; returns how many.

    Raises:
        OptionError: the file's ending is neither.
        BackendUnavailable: .parquet without pyarrow.
        OutputError: the file exists, or the disk refuses.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise OptionError(f"--export: found {out.name!r}, expected a name that ends in .csv or .parquet")
    if out.suffix == ".parquet":
        _pyarrow()
    if out.exists():
        raise OutputError(f"{out} exists; choose another --export")
    with new_file(out) as work:
        return writers[out.suffix](entries, work)


def _flat(entry: Entry) -> dict[str, Any]:
    row = entry.as_json()
    nested = {name: row[name] for name in ("stage_ms", "statistics", "regions")}
    return {**row, **{name: None if value is None else json.dumps(value) for name, value in nested.items()}}


def _write_csv(entries: Iterable[Entry], work: Path) -> int:
    count = 0
    with work.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, Entry.__slots__)
        writer.writeheader()
        for count, entry in enumerate(entries, start=1):  # noqa: B007 - the number is what is asked for
            writer.writerow(_flat(entry))
    return count


def _write_parquet(entries: Iterable[Entry], work: Path) -> int:
    pyarrow, parquet = _pyarrow()
    kinds = {
        "seq": pyarrow.int64(),
        **dict.fromkeys(("score", "p_value", "threshold", "latency_ms"), pyarrow.float64()),
    }
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in Entry.__slots__])
    count, rows = 0, []
    with parquet.ParquetWriter(work, schema) as writer:
        for entry in entries:
            rows.append(_flat(entry))
            count += 1
            if len(rows) == AT_ONCE:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return count


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as exc:
        raise BackendUnavailable(
            "pyarrow is not installed; pip install 'mapl-edge[parquet]', or export to a name that ends in .csv"
        ) from exc
    return pyarrow, pyarrow.parquet
