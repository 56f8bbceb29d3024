"""Retention: which verdicts and pictures of a store are too old or too many, and go; the ledger keeps their number."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from mapl_edge.clock import Clock
from mapl_edge.config import StoreConfig
from mapl_edge.runtime.store_database import microseconds, transaction
from mapl_edge.runtime.store_pictures import remove_picture

logger = logging.getLogger(__name__)

_Shot: TypeAlias = "tuple[int, int, int, str, int]"  # row, run, number, outcome, microseconds of its capture

TIDY_S = 60.0  # time between looks at what may be deleted
TRUST_S = 3600.0  # nothing is deleted by age until the clock has gone on evenly for so long
CLOCK_STEP_S = 60.0  # by which it may have been corrected meanwhile
CHUNK = 2_000  # shots that one transaction of tidying deletes


class Retention:
    """Keeps one store to its bounds; used by the thread that writes it.

    Attributes:
        removed: pictures, by run and shot, whose files are gone and whose rows are not yet.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, config: StoreConfig, clock: Clock) -> None:
        self._folder, self._database, self._config, self._clock = folder, database, config, clock
        (self._picture_bytes,) = database.execute("SELECT coalesce(sum(bytes), 0) FROM pictures").fetchone()
        self._tidy_at = clock.monotonic()
        self._wall_s, self._trusted_at = self._wall_ahead_s(), clock.monotonic() + TRUST_S
        self.removed: list[tuple[int, int]] = []
        self._refused: set[tuple[int, int]] = set()
        self._told = False

    def tidy(self) -> None:
        """Delete what is too old or too much, a part at a time, so that verdicts do not wait for it."""
        config, db = self._config, self._database
        if self._picture_bytes > config.keep_pictures_mb * 1e6:
            self.remove_pictures(self._picture_bytes - int(0.95e6 * config.keep_pictures_mb))
        if self._clock.monotonic() < self._tidy_at:
            return
        self._tidy_at = self._clock.monotonic() + TIDY_S
        (self._picture_bytes,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM pictures").fetchone()
        self._refused.clear()
        with transaction(db):  # other cameras' runs tidy the same store: what one deletes, no other counts
            pruned = self._prune(self._too_old()) or self._prune(self._too_many())
        if pruned:
            logger.info("%s: deleted %d old verdicts", self._folder, pruned)
        if pruned >= CHUNK:
            self._tidy_at = self._clock.monotonic()  # there may be more: at the next commit

    def remove_pictures(self, size: int) -> int:
        """Delete the oldest pictures until `size` bytes are free; their rows go with the next commit."""
        gone, freed = set(self.removed), 0
        for run_id, seq, taken in self._database.execute("SELECT run_id, seq, bytes FROM pictures ORDER BY id"):
            if freed >= size:
                break
            if (run_id, seq) not in gone and self._remove(run_id, seq):
                self.removed.append((run_id, seq))
                freed += taken
        self._picture_bytes -= freed
        return freed

    def written(self, pictures: list[tuple[int, int, bool]]) -> None:
        """Count pictures whose rows were committed; rows of those that were deleted are gone."""
        self.removed = []
        self._picture_bytes += sum(size for _, size, _ in pictures)

    def forget(self) -> None:
        """Delete the rows of pictures that were deleted, inside a transaction."""
        self._database.executemany("DELETE FROM pictures WHERE run_id = ? AND seq = ?", self.removed)

    def _remove(self, run_id: int, seq: int) -> bool:
        """Delete a picture. One that the disk does not give up keeps its row, counts on, and goes when room is needed.

        It is tried again after the next look at what is old.
        """
        if (run_id, seq) in self._refused:
            return False
        try:
            remove_picture(self._folder, run_id, seq)
        except OSError as exc:
            self._refused.add((run_id, seq))
            if not self._told:
                logger.warning("%s: an old picture cannot be deleted, told once: %s", self._folder, exc)
            self._told = True
            return False
        return True

    def _first(self, n: int) -> Iterator[_Shot]:
        """The first shots that have a verdict, CHUNK at most."""
        return self._database.execute(
            "SELECT id, run_id, seq, outcome, captured_us FROM shots WHERE outcome IS NOT NULL ORDER BY id LIMIT ?",
            (min(n, CHUNK),),
        )

    def _too_many(self) -> list[_Shot]:
        """The first shots beyond `keep_verdicts`."""
        (count,) = self._database.execute("SELECT count(*) FROM shots").fetchone()
        return list(self._first(max(0, count - self._config.keep_verdicts)))

    def _too_old(self) -> list[_Shot]:
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
        return list(takewhile(lambda shot: shot[-1] < oldest, self._first(CHUNK)))

    def _wall_ahead_s(self) -> float:
        """How far UTC is ahead of the monotonic clock: it changes only when somebody sets it."""
        return microseconds(self._clock.utc()) / 1e6 - self._clock.monotonic()

    def _prune(self, shots: list[_Shot]) -> int:
        """Delete shots inside a transaction, their pictures first; the ledger keeps their number.

        Returns:
            How many there were.
        """
        db = self._database
        gone: list[tuple[int, int]] = []
        for _, run_id, seq, *_ in shots:
            size = db.execute("SELECT bytes FROM pictures WHERE run_id = ? AND seq = ?", (run_id, seq)).fetchone()
            if size is not None and self._remove(run_id, seq):
                gone.append((run_id, seq))
                self._picture_bytes -= size[0]
        db.executemany("DELETE FROM pictures WHERE run_id = ? AND seq = ?", gone)
        db.executemany("DELETE FROM shots WHERE id = ?", (shot[:1] for shot in shots))
        db.executemany(
            "INSERT INTO pruned VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            ((*key, n) for key, n in Counter((run_id, outcome) for _, run_id, _, outcome, _ in shots).items()),
        )
        return len(shots)
