"""Retention: which verdicts and pictures of a store are too old or too many, and go; the ledger keeps their number."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path

from mapl_edge.clock import Clock
from mapl_edge.config import StoreConfig
from mapl_edge.runtime.store_database import microseconds, transaction
from mapl_edge.runtime.store_pictures import remove_picture

logger = logging.getLogger(__name__)

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

    def tidy(self) -> None:
        """Delete what is too old or too much, a part at a time, so that verdicts do not wait for it."""
        config, db = self._config, self._database
        if self._picture_bytes > config.keep_pictures_mb * 1e6:
            self.remove_pictures(self._picture_bytes - int(0.95e6 * config.keep_pictures_mb))
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

    def remove_pictures(self, size: int) -> int:
        """Delete the oldest pictures until `size` bytes are free; their rows go with the next commit."""
        gone, freed = set(self.removed), 0
        for run_id, seq, taken in self._database.execute("SELECT run_id, seq, bytes FROM pictures ORDER BY id"):
            if freed >= size:
                break
            if (run_id, seq) not in gone:
                remove_picture(self._folder, run_id, seq)
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
