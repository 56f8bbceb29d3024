"""Store: a sink that keeps every verdict in a database on the station, and the pictures of rejects beside it.

    store/
      store.sqlite     runs, shots, verdicts, which pictures there are (`store_database`); accounts (`ledger`)
      pictures/RUN/    the pictures and heat maps themselves (`store_pictures`)

`expect` and `emit` only queue; a thread writes what has come, in one transaction every `GROUP_S`. What was committed,
as `flush` tells, outlives a kill and a power cut. On a full disk pictures go first; verdicts wait in memory for room.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from mapl_edge.calibration import Limits
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.errors import OutputError
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.ledger import Ledger, alarms, ledger, settle
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.runtime.store_database import (
    DATABASE,
    connect,
    database_errors,
    is_refusal,
    microseconds,
    transaction,
)
from mapl_edge.runtime.store_lock import held_lock
from mapl_edge.runtime.store_pictures import (
    PICTURES,
    PictureWriter,
    StoredPicture,
    map_path,
    remove_picture,
)
from mapl_edge.verdict import Outcome, StageTimes, Verdict

logger = logging.getLogger(__name__)

GROUP_S = 0.1  # time between commits: that much is lost at most when the power goes
RETRY_S = 1.0  # time between attempts on a disk that refuses
FLUSH_S = 30.0  # how long flush and close wait for the disk
STALL_S = 1.0  # how long emit waits for a writer that is behind, once
KEPT = 50_000  # verdicts that wait in memory for room on the disk
TIDY_S = 60.0  # time between looks at what may be deleted
MADE_ROOM_BYTES = 8 << 20  # of pictures that are given up at a time when the disk is full
QUEUE_BYTES = 256 << 20  # of pixels that wait to be written as pictures
TRUST_S = 3600.0  # nothing is deleted by age until the clock has gone on evenly for so long
CLOCK_STEP_S = 60.0  # by which it may have been corrected meanwhile
CHUNK = 2_000  # shots that one transaction of tidying deletes

Row: TypeAlias = "tuple[object, ...]"


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What the verdicts of a run share: its identifier, camera, digests, the engine's name, the limits."""

    run: str
    camera: str
    bundle: str
    calibration: str
    engine: str
    limits: Limits


@dataclass
class _Batch:
    """What one transaction writes. Keys are sequence numbers."""

    triggers: dict[int, Row] = field(default_factory=dict)
    verdicts: dict[int, tuple[Row, Row]] = field(default_factory=dict)
    lost: list[range] = field(default_factory=list)
    pictures: list[tuple[int, int, bool]] = field(default_factory=list)
    changes: dict[int, Row] = field(default_factory=dict)

    def followed_by(self, later: _Batch) -> _Batch:
        """Both; of two verdicts for one shot the first stands."""
        return _Batch(
            {**later.triggers, **self.triggers},
            {**later.verdicts, **self.verdicts},
            self.lost + later.lost,
            self.pictures + later.pictures,
            {**self.changes, **later.changes},
        )

    def lose(self, seq: int) -> None:
        """Give one shot up: only its number is kept."""
        del self.triggers[seq]
        if self.lost and self.lost[-1].stop == seq:
            self.lost[-1] = range(self.lost[-1].start, seq + 1)
        else:
            self.lost.append(range(seq, seq + 1))

    @property
    def n_triggers(self) -> int:
        return len(self.triggers) + sum(map(len, self.lost))


def open_store(folder: Path, identity: RunIdentity, config: StoreConfig, clock: Clock | None = None) -> Store:
    """Open a store for one run, and bring the accounts of all runs before it in order.

    Frames that were in flight when a station was killed become ERROR verdicts, once. A run that does not balance even
    so is an alarm: logged, and in `Store.alarms`.

    Raises:
        DataError: there is a database that this version cannot use.
        OutputError: the disk refuses, or this run is in the store already.
    """
    clock = clock or SystemClock()
    connection = connect(folder, write=True)
    try:
        with database_errors(folder / DATABASE):
            _settle_the_dead(connection, folder, microseconds(clock.utc()))
            return Store(folder, connection, identity, config, clock, alarms(connection))
    except BaseException:
        connection.close()
        raise


class Store:
    """One run's way into the store; made by `open_store`.

    Attributes:
        alarms: the accounts of earlier runs that do not balance.
        repeated: triggers and verdicts for a shot that had its own already; the first stands.
    """

    def __init__(
        self,
        folder: Path,
        connection: sqlite3.Connection,
        identity: RunIdentity,
        config: StoreConfig,
        clock: Clock,
        unbalanced: list[Ledger],
    ) -> None:
        self.alarms, self.repeated = tuple(unbalanced), 0
        for account in unbalanced:
            logger.error("ALARM, the account does not balance: %s", account)
        self._folder, self._database, self._identity = folder, connection, identity
        self._config, self._clock = config, clock
        self._lock = held_lock(folder / f".run-{uuid.uuid4().hex}.lock")
        try:
            self._run_id = self._new_run()
        except BaseException:
            self._lock.release()
            raise
        (self._picture_bytes,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM pictures").fetchone()
        self._tidy_at = clock.monotonic()
        self._wall_s, self._trusted_at = self._wall_ahead_s(), clock.monotonic() + TRUST_S
        self._removed: list[tuple[int, int]] = []  # pictures whose files are gone and whose rows are not yet
        self._passes = 0
        self._newest = -1
        self._changed = threading.Condition()
        self._waiting = _Batch()
        self._in_hand = 0  # verdicts that the thread is writing
        self._asked = self._answered = self._committed = 0  # tickets of flush
        self._trouble: str | None = None
        self._failed: BaseException | None = None
        self._closing = self._closed = False
        self._pictures = PictureWriter(
            folder, self._run_id, QUEUE_BYTES, int(config.min_free_mb * 1e6), self._picture_written
        )
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def dropped_pictures(self) -> int:
        """Pictures that were given up, because of a full queue or disk."""
        return self._pictures.dropped

    def expect(self, shot: Shot) -> None:
        """See `ExpectingSink`."""
        self.triggered(shot.seq, shot.t_mono, shot.captured_at, shot.name)

    def triggered(self, seq: int, t_mono: float, captured_at: datetime, name: str = "") -> None:
        """Record that a shot was taken, before it is inspected; `seq` counts up."""
        with self._changed:
            self._check()
            if seq <= self._newest:
                self._tell_repeated("trigger", seq)
                return
            self._newest = seq
            self._waiting.triggers[seq] = (_text(name), microseconds(captured_at), t_mono)

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`. The verdict is queued; `flush` waits until it is on the disk.

        Raises:
            OutputError: the store was closed, or its database is damaged.
        """
        verdict, shot = inspection.verdict, inspection.shot
        rows = (_text(shot.name), microseconds(shot.captured_at), shot.t_mono), _verdict_row(verdict)
        with self._changed:
            self._check()
            if verdict.seq in self._waiting.verdicts:
                self._tell_repeated("verdict", verdict.seq)
                return
            if self._n_waiting() >= KEPT and self._trouble is None:
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: self._n_waiting() < KEPT or self._trouble, STALL_S):
                    self._tell_trouble("it does not answer")
            if self._n_waiting() >= KEPT and verdict.seq in self._waiting.triggers:
                self._waiting.lose(verdict.seq)
            else:
                self._waiting.verdicts[verdict.seq] = rows
        if not isinstance(shot, Blank) and self._wants_picture(verdict):
            anomaly_map = inspection.reading.map if inspection.reading else None
            fail, judgement = self._identity.limits.fail, inspection.judgement
            self._pictures.put(StoredPicture(verdict.seq, shot.image, anomaly_map, fail, judgement))

    def change(self, first_seq: int, after: RunIdentity) -> None:
        """From this shot on verdicts are judged with something else; run and camera stay. Cheap, as `expect`."""
        with self._changed:
            self._check()
            self._identity = after
            self._waiting.changes[first_seq] = _judged_with(after)

    def flush(self, timeout_s: float = FLUSH_S, *, pictures: bool = False) -> None:
        """Wait until everything emitted so far is committed; with `pictures`, also until they are written or given up.

        Raises:
            OutputError: the disk refuses, or does not answer in time. The verdicts are kept and tried again.
        """
        if pictures:
            self._pictures.drained(timeout_s)
        with self._changed:
            self._check()
            self._asked += 1
            ticket = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= ticket or self._failed is not None, timeout_s)
            self._check()
            if self._committed < ticket:
                why = self._trouble or f"no answer from the disk for {timeout_s:.0f} s"
                raise OutputError(
                    f"cannot write {self._folder / DATABASE}: {why}; {self._n_waiting()} verdicts wait in memory"
                )

    def ledger(self, run: str | None = None, camera: str | None = None) -> Ledger:
        """The account of a run as it is on the disk; by default this one.

        Raises:
            DataError: the store has no such run.
        """
        with database_errors(self._folder / DATABASE), closing(connect(self._folder, write=False)) as connection:
            return ledger(connection, run or self._identity.run, camera or self._identity.camera)

    def close(self) -> None:
        """See `Sink`. A shot that is still in flight becomes an ERROR verdict.

        Raises:
            OutputError: verdicts could not be written.
        """
        if self._closed:
            return
        self._closed = True
        self._pictures.close(FLUSH_S)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(FLUSH_S)
        left = self._n_waiting()
        hung = self._thread.is_alive()
        if not hung:
            with suppress(sqlite3.Error):
                self._database.close()
        self._lock.release()
        if self._failed is not None or hung or left:
            why = self._trouble or self._failed or "the disk does not answer"
            raise OutputError(f"cannot write {self._folder / DATABASE}: {why}; {left} verdicts are lost")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What follows up to `_work` is called with the condition held, or before the threads start.

    def _new_run(self) -> int:
        who = self._identity
        row = (
            *(who.run, who.camera, microseconds(self._clock.utc())),
            *_judged_with(who),
            self._lock.path.name,
        )
        try:
            cursor = self._database.execute(
                """INSERT INTO runs
                (run, camera, started_us, bundle, calibration, engine, fail_limit, review_limit, lock)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                row,
            )
        except sqlite3.IntegrityError as exc:
            raise OutputError(
                f"{self._folder}: run {who.run!r} of camera {who.camera!r} is in it; give each run its own name"
            ) from exc
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _n_waiting(self) -> int:
        return len(self._waiting.verdicts) + self._in_hand

    def _check(self) -> None:
        if self._failed is not None:
            raise OutputError(
                f"cannot write {self._folder / DATABASE}: {self._failed}; move the folder away and start again"
            ) from self._failed
        if self._closing:
            raise OutputError(f"{self._folder}: the store was closed")

    def _wants_picture(self, verdict: Verdict) -> bool:
        if self._config.keep_pictures_mb == 0:
            return False
        if verdict.outcome is not Outcome.PASS:
            return True
        self._passes += 1
        return self._config.pass_every > 0 and self._passes % self._config.pass_every == 1 % self._config.pass_every

    def _tell_repeated(self, what: str, seq: int) -> None:
        if self.repeated == 0:
            logger.warning("%s: a second %s for shot %d; the first stands, told once", self._folder, what, seq)
        self.repeated += 1

    def _tell_trouble(self, why: str) -> None:
        if self._trouble is None:
            logger.warning("%s: verdicts wait in memory: %s", self._folder / DATABASE, why)
        self._trouble = why

    def _picture_written(self, seq: int, size: int, has_map: bool) -> None:
        with self._changed:
            self._waiting.pictures.append((seq, size, has_map))

    # The writing thread.

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not (self._closing or self._asked > self._answered):
                        self._changed.wait(GROUP_S if self._trouble is None else RETRY_S)
                    batch, self._waiting = self._waiting, _Batch()
                    self._in_hand = len(batch.verdicts)
                    ticket, last = self._asked, self._closing
                done = self._try_to_write(batch, last)
                with self._changed:
                    self._in_hand = 0
                    if done:
                        self._committed = ticket
                    else:
                        self._waiting = batch.followed_by(self._waiting)
                    self._answered = ticket
                    self._changed.notify_all()
                if last:
                    return
        except BaseException as exc:  # handed to whoever emits next
            with self._changed:
                self._failed = exc
                self._changed.notify_all()
            logger.error("%s: writing has ended: %s", self._folder, exc)

    def _try_to_write(self, batch: _Batch, last: bool) -> bool:
        """Commit, and keep house. False where the disk refuses the verdicts."""
        written = self._attempt(lambda: self._commit(batch))
        settled = written and self._attempt(self._tidy) and (not last or self._attempt(self._end_run))
        if settled and self._trouble is not None:
            with self._changed:
                self._trouble = None
            logger.warning("%s: written again, no verdict waits", self._folder / DATABASE)
        return written

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Do one step; for a full disk give pictures up, oldest first. False where it still refuses."""
        while True:
            try:
                step()
            except sqlite3.OperationalError as exc:
                if not is_refusal(exc):
                    raise
                full = "is full" in str(exc)
                with self._changed:
                    self._tell_trouble("the disk is full; free some space" if full else f"SQLite says {exc}")
                if not full or not self._remove_pictures(MADE_ROOM_BYTES):
                    return False
            else:
                return True

    def _commit(self, batch: _Batch) -> None:
        if batch == _Batch() and not self._removed:
            return
        db, run_id, repeated = self._database, self._run_id, 0
        with transaction(db):
            db.executemany(
                f"INSERT OR IGNORE INTO shots {COLUMNS}",
                (
                    (run_id, seq, *shot, *(batch.verdicts[seq][1] if seq in batch.verdicts else NO_VERDICT))
                    for seq, shot in batch.triggers.items()
                ),
            )
            for seq, (shot, verdict) in batch.verdicts.items():
                if seq not in batch.triggers:
                    repeated += not self._answer(seq, shot, verdict)
            db.executemany(
                "INSERT INTO lost VALUES (?, ?, ?)", ((run_id, gap.start, gap.stop - 1) for gap in batch.lost)
            )
            db.executemany(
                "INSERT OR REPLACE INTO pictures (run_id, seq, bytes, has_map) VALUES (?, ?, ?, ?)",
                ((run_id, *picture) for picture in batch.pictures),
            )
            db.executemany("DELETE FROM pictures WHERE run_id = ? AND seq = ?", self._removed)
            db.executemany(
                "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((run_id, seq, *change) for seq, change in batch.changes.items()),
            )
            db.execute("UPDATE runs SET triggers = triggers + ? WHERE id = ?", (batch.n_triggers, run_id))
        self._removed = []
        self._picture_bytes += sum(size for _, size, _ in batch.pictures)
        if repeated:
            with self._changed:
                self._tell_repeated("verdict", min(batch.verdicts))
                self.repeated += repeated - 1

    def _answer(self, seq: int, shot: Row, verdict: Row) -> bool:
        """Write a verdict whose trigger came in an earlier transaction; False where it has one already."""
        db, run_id = self._database, self._run_id
        changed = db.execute(
            """UPDATE shots SET outcome = ?, score = ?, threshold = ?, latency_ms = ?, stage_ms = ?, error = ?,
            action = ?, p_value = ?, code = ?, statistics = ?, regions = ?
            WHERE run_id = ? AND seq = ? AND outcome IS NULL""",
            (*verdict, run_id, seq),
        )
        if changed.rowcount:
            return True
        new = db.execute(f"INSERT OR IGNORE INTO shots {COLUMNS}", (run_id, seq, *shot, *verdict)).rowcount > 0
        if new:
            db.execute("INSERT INTO unexpected VALUES (?, ?)", (run_id, seq))
        return new

    def _end_run(self) -> None:
        with transaction(self._database):
            in_flight = settle(self._database, self._run_id, microseconds(self._clock.utc()))
        if in_flight:
            logger.warning("%s: %d shots in flight at the end are ERROR verdicts", self._folder, in_flight)

    def _tidy(self) -> None:
        """Delete what is too old or too much, a part at a time, so that verdicts do not wait for it."""
        config, db = self._config, self._database
        if self._picture_bytes > config.keep_pictures_mb * 1e6:
            self._remove_pictures(self._picture_bytes - int(0.95e6 * config.keep_pictures_mb))
        if self._clock.monotonic() < self._tidy_at:
            return
        self._tidy_at = self._clock.monotonic() + TIDY_S
        (self._picture_bytes,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM pictures").fetchone()
        old = self._too_old()
        (count,) = db.execute("SELECT count(*) FROM shots").fetchone()
        over = min(CHUNK, count - len(old) - config.keep_verdicts)
        if not old and over > 0:
            old = db.execute(
                "SELECT id, run_id, seq, outcome FROM shots WHERE outcome IS NOT NULL ORDER BY id LIMIT ?", (over,)
            ).fetchall()
        if old:
            self._prune(old)
            self._tidy_at = self._clock.monotonic()  # there may be more: at the next commit

    def _too_old(self) -> list[tuple[int, int, int, str]]:
        """The first shots, as long as they are older than `keep_days`: none behind a younger one.

        So what was recorded while the clock was wrong does not go before its turn.
        """
        wall_s, now = self._wall_ahead_s(), self._clock.monotonic()
        if abs(wall_s - self._wall_s) > CLOCK_STEP_S:
            logger.warning(
                "%s: the clock was set by %+.0f s; verdicts stay as they are", self._folder, wall_s - self._wall_s
            )
            self._trusted_at = now + TRUST_S
        self._wall_s = wall_s
        if now < self._trusted_at:
            return []
        oldest = microseconds(self._clock.utc() - timedelta(days=self._config.keep_days))
        young = self._database.execute("SELECT id FROM shots WHERE +captured_us >= ? ORDER BY id LIMIT 1", (oldest,))
        (first_young,) = young.fetchone() or (2**63 - 1,)
        return self._database.execute(
            "SELECT id, run_id, seq, outcome FROM shots WHERE id < ? AND outcome IS NOT NULL ORDER BY id LIMIT ?",
            (first_young, CHUNK),
        ).fetchall()

    def _wall_ahead_s(self) -> float:
        """How far UTC is ahead of the monotonic clock: it changes only when somebody sets it."""
        return microseconds(self._clock.utc()) / 1e6 - self._clock.monotonic()

    def _prune(self, shots: list[tuple[int, int, int, str]]) -> None:
        """Delete shots, their pictures first; the ledger keeps their number."""
        db = self._database
        for run_id, seq in (shot[1:3] for shot in shots):
            size = db.execute("SELECT bytes FROM pictures WHERE run_id = ? AND seq = ?", (run_id, seq)).fetchone()
            if size is not None:
                remove_picture(self._folder, run_id, seq)
                self._picture_bytes -= size[0]
        with transaction(db):
            db.executemany("DELETE FROM pictures WHERE run_id = ? AND seq = ?", (shot[1:3] for shot in shots))
            db.executemany("DELETE FROM shots WHERE id = ?", (shot[:1] for shot in shots))
            db.executemany(
                "INSERT INTO pruned VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                ((*key, n) for key, n in Counter((run_id, outcome) for _, run_id, _, outcome in shots).items()),
            )
        logger.info("%s: deleted %d old verdicts", self._folder, len(shots))

    def _remove_pictures(self, size: int) -> int:
        """Delete the oldest pictures until `size` bytes are free; their rows go with the next commit."""
        gone, freed = set(self._removed), 0
        for run_id, seq, taken in self._database.execute("SELECT run_id, seq, bytes FROM pictures ORDER BY id"):
            if freed >= size:
                break
            if (run_id, seq) not in gone:
                remove_picture(self._folder, run_id, seq)
                self._removed.append((run_id, seq))
                freed += taken
        self._picture_bytes -= freed
        return freed


COLUMNS = """(run_id, seq, picture, captured_us, t_mono, outcome, score, threshold, latency_ms, stage_ms, error, action,
    p_value, code, statistics, regions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
NO_VERDICT: Row = (None,) * 11


def _judged_with(identity: RunIdentity) -> Row:
    limits = identity.limits
    return identity.bundle, identity.calibration, identity.engine, limits.fail, limits.review


def _verdict_row(verdict: Verdict) -> Row:
    stages = json.dumps({name: round(getattr(verdict.stage_ms, name), 3) for name in StageTimes.__slots__})
    error = None if verdict.error is None else _text(verdict.error)
    latency = round(verdict.stage_ms.total, 3)
    judged = verdict.score, verdict.threshold, latency, stages, error
    code = None if verdict.code is None else verdict.code.value
    statistics = None if verdict.statistics is None else json.dumps(verdict.statistics.as_json())
    regions = json.dumps([region.as_json() for region in verdict.regions]) if verdict.regions else None
    return verdict.outcome.value, *judged, verdict.action.value, verdict.p_value, code, statistics, regions


def _text(words: str) -> str:
    """A file name that is not UTF-8 holds lone surrogates, which SQLite does not take."""
    return words.encode("utf-8", "backslashreplace").decode()


def _settle_the_dead(connection: sqlite3.Connection, folder: Path, now_us: int) -> None:
    """End the runs whose process is gone."""
    for run_id, run, camera, name in connection.execute(
        "SELECT id, run, camera, lock FROM runs WHERE ended_us IS NULL"
    ).fetchall():
        try:
            lock = held_lock(folder / name)
        except BlockingIOError:
            continue
        with transaction(connection):
            in_flight = settle(connection, run_id, now_us)
            connection.executemany(
                "INSERT OR IGNORE INTO pictures (run_id, seq, bytes, has_map) VALUES (?, ?, ?, ?)",
                _adopted(folder, run_id),
            )
        lock.release()
        if in_flight:
            logger.warning(
                "run %s, camera %s: %d shots in flight when the station stopped are ERROR verdicts",
                *(run, camera, in_flight),
            )


def _adopted(folder: Path, run_id: int) -> list[Row]:
    """Pictures whose rows a kill may have cut off; what was half-written is deleted."""
    place = folder / PICTURES / str(run_id)
    for half in place.glob("*.partial"):
        half.unlink(missing_ok=True)
    found: list[Row] = []
    for path in place.glob("*.png"):
        heat = map_path(path)
        size = path.stat().st_size + (heat.stat().st_size if heat.exists() else 0)
        found.append((run_id, int(path.stem), size, heat.exists()))
    return sorted(found, key=str)
