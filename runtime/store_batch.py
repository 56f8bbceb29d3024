"""Batch: what the store's next transaction writes, and the rows that triggers and verdicts become."""

from __future__ import annotations

import json
import marshal
import sqlite3
import zlib
from dataclasses import dataclass, field
from typing import TypeAlias

from mapl_edge.calibration import Limits
from mapl_edge.runtime.ledger import joined
from mapl_edge.runtime.sources import Shot
from mapl_edge.runtime.store_database import microseconds
from mapl_edge.verdict import StageTimes, Verdict

Row: TypeAlias = "tuple[object, ...]"
COLUMNS = """(run_id, seq, picture, captured_us, t_mono, outcome, score, threshold, latency_ms, stage_ms, error, action,
    p_value, code, statistics, regions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
NO_VERDICT: Row = (None,) * 11


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
class Batch:
    """What one transaction writes. Keys are sequence numbers."""

    triggers: dict[int, Row] = field(default_factory=dict)
    verdicts: dict[int, tuple[Row, Row]] = field(default_factory=dict)
    lost: list[range] = field(default_factory=list)
    pictures: list[tuple[int, int, bool]] = field(default_factory=list)
    changes: dict[int, Row] = field(default_factory=dict)

    def followed_by(self, later: Batch) -> Batch:
        """Both, the earlier first, as they are written; of two verdicts for one shot the first stands."""
        return Batch(
            {**self.triggers, **later.triggers, **self.triggers},
            {**self.verdicts, **later.verdicts, **self.verdicts},
            joined(self.lost + later.lost),
            self.pictures + later.pictures,
            {**self.changes, **later.changes},
        )

    def packed(self) -> Packed:
        """The same in little memory and one piece: what many small objects leave free is scattered and stays."""
        lost = [(gap.start, gap.stop) for gap in self.lost]
        content = marshal.dumps((self.triggers, self.verdicts, lost, self.pictures, self.changes))
        return Packed(len(self.verdicts), zlib.compress(content, 1))

    def lose(self, seq: int) -> None:
        """Give one shot up: only its number is kept."""
        del self.triggers[seq]
        self.lost[-1:] = joined([*self.lost[-1:], range(seq, seq + 1)])

    @property
    def n_triggers(self) -> int:
        """Shots that were taken, those given up included."""
        return len(self.triggers) + sum(map(len, self.lost))

    def write(self, db: sqlite3.Connection, run_id: int) -> list[int]:
        """Put it all into the database, inside a transaction; for which shots a verdict came that had theirs."""
        db.executemany(
            f"INSERT OR IGNORE INTO shots {COLUMNS}",
            (
                (run_id, seq, *shot, *(self.verdicts[seq][1] if seq in self.verdicts else NO_VERDICT))
                for seq, shot in self.triggers.items()
            ),
        )
        repeated = [
            seq
            for seq, (shot, verdict) in self.verdicts.items()
            if seq not in self.triggers and not _answer(db, run_id, seq, shot, verdict)
        ]
        db.executemany("INSERT INTO lost VALUES (?, ?, ?)", ((run_id, gap.start, gap.stop - 1) for gap in self.lost))
        db.executemany(
            "INSERT OR REPLACE INTO pictures (run_id, seq, bytes, has_map) VALUES (?, ?, ?, ?)",
            ((run_id, *picture) for picture in self.pictures),
        )
        db.executemany(
            "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((run_id, seq, *change) for seq, change in self.changes.items()),
        )
        db.execute("UPDATE runs SET triggers = triggers + ? WHERE id = ?", (self.n_triggers, run_id))
        return repeated


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch with so many verdicts that waits for the disk."""

    n_verdicts: int
    content: bytes

    def batch(self) -> Batch:
        """As it was packed, in this process."""
        triggers, verdicts, lost, pictures, changes = marshal.loads(zlib.decompress(self.content))
        return Batch(triggers, verdicts, [range(*gap) for gap in lost], pictures, changes)


def _answer(db: sqlite3.Connection, run_id: int, seq: int, shot: Row, verdict: Row) -> bool:
    """Write a verdict whose trigger came in an earlier transaction; False where it has one already."""
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


def judged_with(identity: RunIdentity) -> Row:
    """What `runs` and `changes` say of it."""
    limits = identity.limits
    return identity.bundle, identity.calibration, identity.engine, limits.fail, limits.review


def verdict_row(verdict: Verdict) -> Row:
    """The columns of `shots` from `outcome` on."""
    stages = json.dumps({name: round(getattr(verdict.stage_ms, name), 3) for name in StageTimes.__slots__})
    error = None if verdict.error is None else text(verdict.error)
    latency = round(verdict.stage_ms.total, 3)
    score, threshold, p_value = (
        None if x is None else float(x) for x in (verdict.score, verdict.threshold, verdict.p_value)
    )
    judged = score, threshold, latency, stages, error
    code = None if verdict.code is None else verdict.code.value
    statistics = None if verdict.statistics is None else json.dumps(verdict.statistics.as_json())
    regions = json.dumps([region.as_json() for region in verdict.regions]) if verdict.regions else None
    return verdict.outcome.value, *judged, verdict.action.value, p_value, code, statistics, regions


def shot_row(shot: Shot) -> Row:
    """The columns of `shots` before `outcome`."""
    return text(shot.name), microseconds(shot.captured_at), shot.t_mono


def text(words: str) -> str:
    """A file name that is not UTF-8 holds lone surrogates, which SQLite does not take."""
    return words.encode("utf-8", "backslashreplace").decode()
