"""How many verdicts a second the store takes, sustained, and what one costs on the frame path.

    python bench/store.py [--folder store-bench] [--verdicts 50000] [--json]

Each verdict is preceded by its trigger, as in the run loop; the clock stops when the last one is committed. Then the
same at the pace of a line, each verdict acknowledged by a flush before the next.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.runtime import Blank, Inspection, RunIdentity, Store, open_store
from mapl_edge.verdict import Outcome, StageTimes, Verdict

ACKNOWLEDGED = 200  # verdicts that are flushed one by one


def measure(folder: Path, verdicts: int) -> dict[str, float]:
    """Figures of one run of the store in `folder`."""
    limits = Limits(fail=0.5)
    identity = RunIdentity(f"bench-{time.time_ns()}", "bench", "b" * 64, "c" * 64, "none", limits)
    with open_store(folder, identity, StoreConfig(folder=folder, keep_pictures_mb=0)) as store:
        started = time.perf_counter()
        path_us = [_one(store, seq) for seq in range(verdicts)]
        emitted = time.perf_counter()
        store.flush()
        committed = time.perf_counter()
        acknowledged_ms = []
        for seq in range(verdicts, verdicts + ACKNOWLEDGED):
            begun = time.perf_counter()
            _one(store, seq)
            store.flush()
            acknowledged_ms.append(1e3 * (time.perf_counter() - begun))
        account = store.ledger()
    assert account.balanced, account
    return {
        "verdicts": verdicts,
        "verdicts_per_s": verdicts / (committed - started),
        "emitted_per_s": verdicts / (emitted - started),
        "path_p50_us": float(np.percentile(path_us, 50)),
        "path_p99_us": float(np.percentile(path_us, 99)),
        "path_max_us": max(path_us),
        "acknowledged_p50_ms": float(np.percentile(acknowledged_ms, 50)),
        "acknowledged_p99_ms": float(np.percentile(acknowledged_ms, 99)),
    }


CLOCK = SystemClock()


def _one(store: Store, seq: int) -> float:
    """Trigger and verdict of one shot; returns what they cost the frame path, in microseconds."""
    shot = Blank(seq, CLOCK.monotonic(), CLOCK.utc(), f"{seq:06d}", "none")
    verdict = Verdict(Outcome.PASS, seq, shot.name, shot.captured_at, 0.1, 0.5, StageTimes(1.0, 2.0, 3.0, 0.1))
    begun = time.perf_counter()
    store.expect(shot)
    store.emit(Inspection(verdict, shot, None))
    return 1e6 * (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to; default: a temporary folder")
    parser.add_argument("--verdicts", type=int, default=50_000)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with ExitStack() as at_end:
        folder = options.folder or Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        figures = measure(folder, options.verdicts)
    if options.as_json:
        print(json.dumps(figures))
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for name, value in figures.items():
        print(f"{name:>20} {value:12.1f}")


if __name__ == "__main__":
    main()
