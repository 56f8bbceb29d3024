"""Ledger: every trigger of a run got exactly one verdict, or it is known which did not.

triggers = PASS + REVIEW + FAIL + LATE + ERROR, per run and camera. Triggers are counted beside the shots, so that a row
that vanished shows.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from mapl_edge.errors import DataError
from mapl_edge.verdict import Outcome

STOPPED = "station stopped before the verdict"
SHOWN = 20  # ranges of missing numbers that a message names


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one run and camera.

    Attributes:
        triggers: shots that were taken.
        verdicts: how many of each outcome were given, those that retention has deleted since included.
        missing: sequence numbers without a verdict, as ranges in order.
        unexpected: sequence numbers with a verdict but no trigger.
        running: a process is at it, so the newest shot may be missing its verdict.
    """

    run: str
    camera: str
    triggers: int
    verdicts: dict[Outcome, int]
    missing: tuple[range, ...]
    unexpected: tuple[int, ...]
    running: bool

    @property
    def balanced(self) -> bool:
        """Every trigger has its one verdict."""
        return self.triggers == sum(self.verdicts.values()) and not self.missing and not self.unexpected

    def __str__(self) -> str:
        counts = " + ".join(f"{self.verdicts.get(outcome, 0)} {outcome.value}" for outcome in Outcome)
        sign = "=" if self.triggers == sum(self.verdicts.values()) else "≠"
        words = f"run {self.run}, camera {self.camera}: {self.triggers} triggers {sign} {counts}"
        if self.missing:
            words += f"; without a verdict: {_numbers(self.missing)}"
        if self.unexpected:
            words += f"; without a trigger: {_numbers([range(seq, seq + 1) for seq in self.unexpected])}"
        return words


def ledger(connection: sqlite3.Connection, run: str, camera: str) -> Ledger:
    """The account of one run.

    Raises:
        DataError: the store has no such run.
    """
    row = connection.execute(
        "SELECT id, triggers, ended_us IS NULL FROM runs WHERE run = ? AND camera = ?", (run, camera)
    ).fetchone()
    if row is None:
        raise DataError(f"run {run!r} of camera {camera!r} is not in the store; mapl-edge history lists the runs")
    run_id, triggers, running = row
    verdicts = {
        Outcome(outcome): n
        for outcome, n in connection.execute(
            """SELECT outcome, sum(n) FROM (
                SELECT outcome, count(*) AS n FROM shots WHERE run_id = :id AND outcome IS NOT NULL GROUP BY outcome
                UNION ALL SELECT outcome, n FROM pruned WHERE run_id = :id
            ) GROUP BY outcome""",
            {"id": run_id},
        )
    }
    missing = [range(first, last + 1) for first, last in connection.execute(
        """SELECT seq, seq FROM shots WHERE run_id = :id AND outcome IS NULL
           UNION SELECT first, last FROM lost WHERE run_id = :id ORDER BY 1""",
        {"id": run_id},
    )]  # fmt: skip
    unexpected = connection.execute("SELECT seq FROM unexpected WHERE run_id = ? ORDER BY seq", (run_id,))
    return Ledger(
        run, camera, triggers, verdicts, tuple(joined(missing)), tuple(seq for (seq,) in unexpected), bool(running)
    )


def settle(connection: sqlite3.Connection, run_id: int, now_us: int) -> int:
    """End a run: what was in flight becomes ERROR verdicts. Inside a transaction; done once, whoever comes first.

    Returns:
        How many there were.
    """
    ended = connection.execute("UPDATE runs SET ended_us = ? WHERE id = ? AND ended_us IS NULL", (now_us, run_id))
    if ended.rowcount == 0:
        return 0
    return connection.execute(
        "UPDATE shots SET outcome = ?, error = ? WHERE run_id = ? AND outcome IS NULL",
        (Outcome.ERROR.value, STOPPED, run_id),
    ).rowcount


def alarms(connection: sqlite3.Connection) -> list[Ledger]:
    """The runs that have ended and do not balance, oldest first."""
    ended = connection.execute("SELECT run, camera FROM runs WHERE ended_us IS NOT NULL ORDER BY id").fetchall()
    return [account for run, camera in ended if not (account := ledger(connection, run, camera)).balanced]


def joined(ranges: list[range]) -> list[range]:
    """Neighbours become one; in order of where they start."""
    whole: list[range] = []
    for each in ranges:
        if whole and whole[-1].stop >= each.start:
            whole[-1] = range(whole[-1].start, max(whole[-1].stop, each.stop))
        else:
            whole.append(each)
    return whole


def _numbers(ranges: list[range] | tuple[range, ...]) -> str:
    shown = [f"{r.start}" if len(r) == 1 else f"{r.start}-{r.stop - 1}" for r in joined(list(ranges))]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
