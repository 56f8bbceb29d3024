"""Recovery: what a start finds of runs whose process was killed, and how their accounts are closed."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

from mapl_edge.runtime.ledger import settle
from mapl_edge.runtime.store_batch import Row
from mapl_edge.runtime.store_database import transaction
from mapl_edge.runtime.store_lock import held_lock
from mapl_edge.runtime.store_pictures import PICTURES, map_path

logger = logging.getLogger(__name__)


def settle_the_dead(connection: sqlite3.Connection, folder: Path, now_us: int) -> None:
    """End the runs whose process is gone."""
    for run_id, run, camera, name in connection.execute(
        "SELECT id, run, camera, lock FROM runs WHERE ended_us IS NULL"
    ).fetchall():
        try:
            lock = held_lock(folder / name)
        except BlockingIOError:
            continue
        try:
            with transaction(connection):
                in_flight = settle(connection, run_id, now_us)
                connection.executemany(
                    "INSERT OR IGNORE INTO pictures (run_id, seq, bytes, has_map) VALUES (?, ?, ?, ?)",
                    _adopted(folder, run_id),
                )
        finally:
            lock.release()
        if in_flight:
            logger.warning(
                "run %s, camera %s: %d shots in flight when the station stopped are ERROR verdicts",
                *(run, camera, in_flight),
            )


def _adopted(folder: Path, run_id: int) -> list[Row]:
    """Pictures whose rows a kill may have cut off; what was half-written is deleted.

    Files of other people stay as they are, and what cannot be looked at or deleted holds no start up.
    """
    place = folder / PICTURES / str(run_id)
    for half in place.glob("*.partial"):
        with suppress(OSError):
            half.unlink()
    found: list[Row] = []
    for path in sorted(place.glob("*.png")):
        heat = map_path(path)
        with suppress(OSError):
            if path.stem.isascii() and path.stem.isdigit():
                size = path.stat().st_size + (heat.stat().st_size if heat.exists() else 0)
                found.append((run_id, int(path.stem), size, heat.exists()))
    return found
