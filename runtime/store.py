"""Store: a sink that keeps every verdict in a database on the station, and the pictures of rejects beside it.

    store/
      store.sqlite     runs, shots, verdicts, which pictures there are (`store_database`); accounts (`ledger`)
      pictures/RUN/    the pictures and heat maps themselves (`store_pictures`)

`expect` and `emit` only queue; a thread writes what has come, in one transaction (`store_batch`) every `GROUP_S`, and
deletes what is too old (`store_retention`). What was committed, as `flush` tells, outlives a kill and a power cut. On a
full disk pictures go first; verdicts wait in memory for room. A start settles runs that were killed (`store_recovery`).
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import TracebackType

from mapl_edge.clock import Clock, SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.errors import OutputError
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.ledger import Ledger, alarms, ledger, settle
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.runtime.store_batch import Batch, Packed, RunIdentity, judged_with, shot_row, text, verdict_row
from mapl_edge.runtime.store_database import (
    BUSY_S,
    DATABASE,
    connect,
    database_errors,
    is_full,
    is_refusal,
    microseconds,
    transaction,
)
from mapl_edge.runtime.store_lock import held_lock
from mapl_edge.runtime.store_pictures import (
    PictureWriter,
    StoredPicture,
)
from mapl_edge.runtime.store_recovery import settle_the_dead
from mapl_edge.runtime.store_retention import Retention
from mapl_edge.verdict import Outcome, Verdict

logger = logging.getLogger(__name__)

GROUP_S = 0.1  # time between commits: that much is lost at most when the power goes
RETRY_S = 1.0  # time between attempts on a disk that refuses
FLUSH_S = 30.0  # how long flush and close wait for the disk
STALL_S = 1.0  # how long emit waits for a writer that is behind, once
FIRST_S = 0.5  # how long a run's first shot waits for the disk
KEPT = 50_000  # verdicts that wait in memory for room on the disk
PACKED = 256  # of them that are packed into one piece, a tenth of what they take as they come
MADE_ROOM_BYTES = 8 << 20  # of pictures that are given up at a time when the disk is full
QUEUE_BYTES = 256 << 20  # of pixels that wait to be written as pictures


def open_store(folder: Path, identity: RunIdentity, config: StoreConfig, clock: Clock | None = None) -> Store:
    """Open a store for one run, and bring the accounts of all runs before it in order.

    Frames that were in flight when a station was killed become ERROR verdicts, once. A run that does not balance even
    so is an alarm: logged, and in `Store.alarms`. On a full disk pictures are given up, oldest first, as while it runs.

    Raises:
        DataError: there is a database that this version cannot use.
        OutputError: the disk refuses, or this run is in the store already.
    """
    clock = clock or SystemClock()
    connection = connect(folder, write=True)
    try:
        with database_errors(folder / DATABASE):
            retention = Retention(folder, connection, config, clock)
            while True:
                try:
                    settle_the_dead(connection, folder, microseconds(clock.utc()))
                    return Store(folder, connection, identity, config, clock, alarms(connection), retention)
                except sqlite3.OperationalError as exc:
                    if not is_full(exc, folder) or not retention.remove_pictures(MADE_ROOM_BYTES):
                        raise
                    logger.warning("%s: the disk is full, so old pictures are given up; free some space", folder)
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
        retention: Retention,
    ) -> None:
        self.alarms, self.repeated = tuple(unbalanced), 0
        self._folder, self._database, self._identity = folder, connection, identity
        self._config, self._clock = config, clock
        self._lock = held_lock(folder / f".run-{uuid.uuid4().hex}.lock")
        try:
            self._run_id = self._new_run()
        except BaseException:
            self._lock.release()
            raise
        for account in unbalanced:
            logger.error("ALARM, the account does not balance: %s", account)
        self._retention = retention
        self._passes = 0
        self._newest = -1
        self._changed = threading.Condition()
        self._packed: list[Packed] = []  # what waits, oldest first
        self._waiting = Batch()  # what came after that
        self._in_hand = 0  # verdicts that the thread is writing
        self._asked = self._answered = self._committed = 0  # tickets of flush
        self._trouble: str | None = None
        self._failed: BaseException | None = None
        self._full = False  # what refused last was a full disk
        self._closing = self._closed = self._ended = False
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
        """Record that a shot was taken, before it is inspected; `seq` counts up.

        A run's first shot is on the disk when this returns, unless the disk refuses or hangs: so no verdict leaves of a
        run that a kill could take out of the store.
        """
        with self._changed:
            self._check()
            if seq <= self._newest:
                self._tell_repeated("trigger", seq)
                return
            first, self._newest = self._newest < 0, seq
            self._waiting.triggers[seq] = (text(name), microseconds(captured_at), t_mono)
            if first:
                self._asked += 1
                ticket = self._asked
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._answered >= ticket or self._failed is not None, FIRST_S)

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`. The verdict is queued; `flush` waits until it is on the disk.

        Raises:
            OutputError: the store was closed, or its database is damaged.
        """
        verdict, shot = inspection.verdict, inspection.shot
        rows = shot_row(shot), verdict_row(verdict)
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
                if len(self._waiting.verdicts) >= PACKED:
                    self._packed.append(self._waiting.packed())
                    self._waiting = Batch()
        if not isinstance(shot, Blank) and self._wants_picture(verdict):
            anomaly_map = inspection.reading.map if inspection.reading else None
            fail, judgement = self._identity.limits.fail, inspection.judgement
            self._pictures.put(StoredPicture(verdict.seq, shot.image, anomaly_map, fail, judgement))

    def change(self, first_seq: int, after: RunIdentity) -> None:
        """From this shot on verdicts are judged with something else; run and camera stay. Cheap, as `expect`."""
        with self._changed:
            self._check()
            self._identity = after
            self._waiting.changes[first_seq] = judged_with(after)

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
        self._thread.join(FLUSH_S + 2 * BUSY_S)
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
            *judged_with(who),
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
        return sum(each.n_verdicts for each in self._packed) + len(self._waiting.verdicts) + self._in_hand

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
        until = math.inf  # when a disk that refuses is given up; known once the store closes
        try:
            while True:
                with self._changed:
                    if not (self._closing or self._asked > self._answered):
                        self._changed.wait(GROUP_S if self._trouble is None else RETRY_S)
                    if self._closing:
                        until = min(until, time.monotonic() + FLUSH_S)
                    self._in_hand = self._n_waiting()
                    packed, self._packed = self._packed, []
                    batch, self._waiting = self._waiting, Batch()
                    ticket, last = self._asked, self._closing
                done = self._try_to_write(packed, batch, last)
                with self._changed:
                    self._in_hand = 0
                    if done:
                        self._committed = ticket
                    elif self._packed:
                        self._packed[:0] = [*packed, batch.packed()]
                    else:
                        self._packed, self._waiting = packed, batch.followed_by(self._waiting)
                    self._answered = ticket
                    self._changed.notify_all()
                del packed, batch  # not kept until there is more
                if last:
                    if self._ended or self._full or time.monotonic() >= until:
                        return
                    time.sleep(RETRY_S)
        except BaseException as exc:  # handed to whoever emits next
            with self._changed:
                self._failed = exc
                self._changed.notify_all()
            logger.error("%s: writing has ended: %s", self._folder, exc)

    def _try_to_write(self, packed: list[Packed], batch: Batch, last: bool) -> bool:
        """Commit, and keep house. False where the disk refuses the verdicts."""
        written = self._attempt(lambda: self._commit(packed, batch))
        self._ended = last and written and self._attempt(self._end_run)
        settled = written and self._ended == last and self._attempt(self._retention.tidy)
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
                full = is_full(exc, self._folder)
                with self._changed:
                    self._full = full
                    self._tell_trouble("the disk is full; free some space" if full else f"SQLite says {exc}")
                if not full or not self._retention.remove_pictures(MADE_ROOM_BYTES):
                    return False
            else:
                return True

    def _commit(self, packed: list[Packed], newest: Batch) -> None:
        if not packed and newest == Batch() and not self._retention.removed:
            return
        repeated: list[int] = []
        pictures: list[tuple[int, int, bool]] = []
        with transaction(self._database):
            for batch in chain((each.batch() for each in packed), (newest,)):
                repeated += batch.write(self._database, self._run_id)
                pictures += batch.pictures
            self._retention.forget()
        self._retention.written(pictures)
        if repeated:
            with self._changed:
                self._tell_repeated("verdict", repeated[0])
                self.repeated += len(repeated) - 1

    def _end_run(self) -> None:
        with transaction(self._database):
            in_flight = settle(self._database, self._run_id, microseconds(self._clock.utc()))
        if in_flight:
            logger.warning("%s: %d shots in flight at the end are ERROR verdicts", self._folder, in_flight)
