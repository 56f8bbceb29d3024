"""Run by test_store.py: a station is killed at random moments, fifty times; prints what the store lost.

python kill_store.py FOLDER SEED

Each child finds the accounts of all before it in order, takes shots, emits and flushes, and writes the numbers that
were acknowledged to a pipe; its parent kills it some milliseconds after it has read so many of them. One process that
forks: the libraries load once.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.frame import Frame
from mapl_edge.runtime import Inspector, RunIdentity, open_store
from mapl_edge.runtime.ledger import STOPPED, ledger
from mapl_edge.runtime.store_database import connect
from mapl_edge.testing import FakeEngine

KILLS = 50


def station(folder: Path, kill: int, pipe: int, seed: int) -> None:
    """Goes on until it is killed. Every third shot is a reject with a picture."""
    clock, limits, rng = SystemClock(), Limits(fail=0.5), random.Random(seed)
    store = open_store(folder, RunIdentity(f"r{kill}", "c", "b", "k", "fake", limits), StoreConfig(min_free_mb=0))
    before = store.ledger(f"r{kill - 1}", "c") if kill else None
    if store.alarms or (before and (before.running or not before.balanced)):
        os._exit(1)  # the parent reads no number then, and fails
    inspector = Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), limits, clock)
    seq = acknowledged = 0
    while True:
        image = np.full((32, 32, 3), 200 if seq % 3 == 0 else 50, np.uint8)
        frame = Frame(image, seq, clock.monotonic(), clock.utc())
        store.expect(frame)
        if rng.random() < 0.3:
            store.flush()
            os.write(pipe, b"-1\n")  # a good moment: the trigger is on the disk and its verdict is not
        store.emit(inspector.inspect(frame))
        if rng.random() < 0.2:
            store.flush()
            os.write(pipe, b"".join(b"%d\n" % each for each in range(acknowledged, seq + 1)))
            acknowledged = seq + 1
        seq += 1


def main(folder: Path, seed: int) -> None:
    """Kill, start again, and look."""
    rng = random.Random(seed)
    acknowledged: dict[str, int] = {}
    for kill in range(KILLS):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            station(folder, kill, into, rng.randrange(1 << 30) + kill)
        os.close(into)
        wanted = rng.randrange(1, 60)
        with os.fdopen(out, "rb") as lines:
            newest = max(int(lines.readline()) for _ in range(wanted))
            time.sleep(0.02 * rng.random())
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            newest = max([newest, *(int(line) for line in lines.readlines() if line.endswith(b"\n"))])
        acknowledged[f"r{kill}"] = newest + 1
    results = []
    for start in range(2):  # the second start must find nothing to do
        identity = RunIdentity(f"last{start}", "c", "b", "k", "fake", Limits(fail=0.5))
        with open_store(folder, identity, StoreConfig()) as store:
            alarms = len(store.alarms)
        with closing(connect(folder, write=False)) as connection:
            accounts = {run: ledger(connection, run, "c") for run in acknowledged}
            given = {
                run: [seq for (seq,) in connection.execute(
                    "SELECT seq FROM shots JOIN runs ON runs.id = run_id WHERE run = ? "
                    "AND outcome IS NOT NULL AND error IS NOT ? ORDER BY seq", (run, STOPPED)
                )]
                for run in acknowledged
            }  # fmt: skip
            (stopped,) = connection.execute("SELECT count(*) FROM shots WHERE error = ?", (STOPPED,)).fetchone()
            (rows,) = connection.execute("SELECT count(*) FROM pictures").fetchone()
        lost = {run: sorted(set(range(n)) - set(given[run])) for run, n in acknowledged.items()}
        results.append(
            {
                "alarms": alarms,
                "balanced": all(account.balanced for account in accounts.values()),
                "acknowledged": sum(acknowledged.values()),
                "lost": {run: seqs for run, seqs in lost.items() if seqs},
                "twice": any(len(seqs) != len(set(seqs)) for seqs in given.values()),
                "stopped": stopped,
                "pictures_known": rows == len(list(folder.glob("pictures/*/*.png"))),
                "half_files": len(list(folder.glob("pictures/*/*.partial"))),
                "locks": len(list(folder.glob(".run-*"))),
                "verdicts": sum(map(len, given.values())),
            }
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
