"""The store's database: one SQLite file, its schema as a list of migrations, and the door for SQLite's own errors."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryFile

from mapl_edge.errors import DataError, OutputError
from mapl_edge.files import files_errors

DATABASE = "store.sqlite"
APPLICATION_ID = 0x4D41504C  # "MAPL": tells our files from other people's
BUSY_S = 5.0  # how long one writer waits for another
PROBE_BYTES = 1 << 20  # that must go on a disk which is not full
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

MIGRATIONS: list[tuple[str, ...]] = [
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL,
            camera TEXT NOT NULL,
            started_us INTEGER NOT NULL,
            ended_us INTEGER,            -- NULL while it runs, and after a kill until the next start
            bundle TEXT NOT NULL,
            calibration TEXT NOT NULL,
            engine TEXT NOT NULL,
            fail_limit REAL NOT NULL,
            review_limit REAL,
            lock TEXT NOT NULL,          -- file that the running process holds
            triggers INTEGER NOT NULL DEFAULT 0,
            UNIQUE (run, camera)
        )""",
        """CREATE TABLE shots (
            id INTEGER PRIMARY KEY,      -- in order of arrival
            run_id INTEGER NOT NULL REFERENCES runs (id),
            seq INTEGER NOT NULL,
            picture TEXT NOT NULL,
            captured_us INTEGER NOT NULL,
            t_mono REAL NOT NULL,
            outcome TEXT,                -- NULL while the shot is in flight
            score REAL,
            threshold REAL,
            latency_ms REAL,
            stage_ms TEXT,
            error TEXT,
            action TEXT,                 -- NULL where the station stopped before it could tell the gate
            p_value REAL
        )""",
        "CREATE UNIQUE INDEX shots_by_seq ON shots (run_id, seq)",
        "CREATE INDEX shots_by_outcome ON shots (run_id, outcome)",
        "CREATE INDEX shots_by_time ON shots (captured_us)",
        """CREATE TABLE pictures (
            id INTEGER PRIMARY KEY,
            run_id INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            has_map INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            UNIQUE (run_id, seq)
        )""",
        "CREATE TABLE pruned (run_id INTEGER, outcome TEXT, n INTEGER NOT NULL, PRIMARY KEY (run_id, outcome))",
        "CREATE TABLE lost (run_id INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL)",
        "CREATE TABLE unexpected (run_id INTEGER, seq INTEGER, PRIMARY KEY (run_id, seq))",
    ),
    ("ALTER TABLE shots ADD COLUMN code TEXT",),  # kind of the error, NULL where there is none or nobody said
    ("ALTER TABLE shots ADD COLUMN statistics TEXT",),  # JSON; NULL where there is no score, and in older records
    ("ALTER TABLE shots ADD COLUMN regions TEXT",),  # JSON; NULL where there are none
    (
        """CREATE TABLE changes (        -- what a run's shots from first_seq on were judged with, in place of `runs`
            run_id INTEGER,
            first_seq INTEGER,
            bundle TEXT NOT NULL,
            calibration TEXT NOT NULL,
            engine TEXT NOT NULL,
            fail_limit REAL NOT NULL,
            review_limit REAL,
            PRIMARY KEY (run_id, first_seq)
        )""",
    ),
]
"""What brings a database from schema n to n + 1; `PRAGMA user_version` holds how many were done. Only ever append."""


def connect(folder: Path, *, write: bool) -> sqlite3.Connection:
    """Open the database of a store; with `write` it is made, or brought to this version's schema.

    Raises:
        DataError: it is missing (without `write`), not ours, damaged, or of a newer schema.
        OutputError: the disk refuses.
    """
    path = folder / DATABASE
    if write:
        with files_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise DataError(f"{folder}: no {DATABASE} in it; expected a folder that mapl-edge run --store wrote")
    with database_errors(path):
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
        connection = sqlite3.connect(uri, BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
        try:
            _check(connection, path, write)
        except BaseException:
            connection.close()
            raise
    return connection


def _check(connection: sqlite3.Connection, path: Path, write: bool) -> None:
    found = _version(connection, path)
    if found > len(MIGRATIONS):
        raise DataError(
            f"{path}: schema {found} is newer than this version reads ({len(MIGRATIONS)}); "
            "update mapl-edge, or name another folder"
        )
    if not write and found < len(MIGRATIONS):
        raise DataError(
            f"{path}: schema {found} is older than this version reads ({len(MIGRATIONS)}); "
            "start mapl-edge run --store with it once, which brings it up"
        )
    if write:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit outlives a power cut; commits come in groups
    if write and found < len(MIGRATIONS):
        with transaction(connection):
            for statements in MIGRATIONS[_version(connection, path) :]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations were done; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (tables or version):
        raise DataError(f"{path}: a database of another program; name another folder")
    return int(version)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def is_refusal(error: sqlite3.Error) -> bool:
    """The disk says no for now: full, unreadable for a moment, or another writer holds the database."""
    return any(words in str(error) for words in ("is full", "disk I/O error", "is locked", "unable to open"))


def is_full(error: sqlite3.Error, folder: Path) -> bool:
    """There is no room left. Of a used-up quota SQLite says no more than "disk I/O error", so a file is tried."""
    if "disk I/O error" not in str(error):
        return "is full" in str(error)
    try:
        with TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as exc:
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors: a refusal of the disk is OutputError, a damaged file DataError."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        if "is full" in str(exc):
            raise OutputError(f"cannot write {path}: the disk is full; free some space or write elsewhere") from exc
        if "is locked" in str(exc):
            raise OutputError(f"{path}: another program has held it for {BUSY_S:.0f} s; end that one") from exc
        raise OutputError(f"cannot use {path}: SQLite says {exc}; check folder, owner and disk") from exc
    except sqlite3.DatabaseError as exc:
        raise DataError(f"{path}: SQLite says {exc}; move the folder away; the next start makes a new one") from exc


def microseconds(moment: datetime) -> int:
    """UTC as a whole number of microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_from_microseconds(count: int) -> datetime:
    """The inverse of `microseconds`."""
    return EPOCH + timedelta(microseconds=count)
