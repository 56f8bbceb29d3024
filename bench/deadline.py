"""The deadline measured: how long after it LATE verdicts leave. What it costs a frame on time: bench/latency.py.

    python bench/deadline.py bottle.mapl [--frames 100] [--budget-ms 50] [--threads 1] [--json]

The bundle's engine reads a picture and then sleeps 10 s inside the same call; frames come every 1.2 budgets, and each
LATE verdict is timed when a sink has it, against its own deadline.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console

from frames import frames_from_args, parser_of, percentiles, table_of
from mapl_edge.arrays import UInt8Array
from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.engine import Reading
from mapl_edge.frame import Frame
from mapl_edge.runtime import DeadlineInspector, FusedEngine, Inspection, Inspector, Patience, Shot, run
from mapl_edge.verdict import Outcome

SLEEP_S = 10.0


class SleepingEngine(FusedEngine):
    """The bundle's engine, whose every call goes on for another ten seconds."""

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Engine`."""
        reading = super().infer(picture)
        time.sleep(SLEEP_S)
        return reading


class SpacedSource:
    """The same pictures again and again, one every `every_s` seconds; not live, so each of them gets its verdict."""

    live = False

    def __init__(self, images: Sequence[UInt8Array], frames: int, every_s: float) -> None:
        self._images, self._frames, self._every_s = images, frames, every_s

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        clock = SystemClock()
        due = clock.monotonic()
        for seq in range(self._frames):
            time.sleep(max(0.0, due - clock.monotonic()))
            due += self._every_s
            yield Frame(self._images[seq % len(self._images)], seq, clock.monotonic(), clock.utc())

    def close(self) -> None:
        """Nothing to close."""


class Lateness:
    """A sink that notes how many milliseconds after its deadline each LATE verdict is there."""

    def __init__(self, budget_ms: float) -> None:
        self._budget_ms = budget_ms
        self.ms: list[float] = []

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        if inspection.verdict.outcome is Outcome.LATE:
            self.ms.append(1e3 * (time.monotonic() - inspection.shot.t_mono) - self._budget_ms)

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = parser_of(__doc__, frames=100)
    parser.add_argument("--budget-ms", type=float, default=50.0)
    args = parser.parse_args()
    frames = frames_from_args(args)

    inspector_of = partial(Inspector, contract=frames.bundle.contract, limits=Limits(fail=0.0))  # no matter how
    lateness = Lateness(args.budget_ms)
    source = SpacedSource(frames.images, args.frames, 1.2e-3 * args.budget_ms)
    patience = Patience(stuck_s=4.0, restarts=1_000_000)  # given up and started anew while it is measured
    engines = [lambda: SleepingEngine(frames.bundle.model_path, args.threads)]
    with DeadlineInspector(engines, inspector_of, args.budget_ms, patience=patience) as asleep:
        summary = run(source, asleep, [lateness])

    late = percentiles(lateness.ms)
    table = table_of(args, "what", "p50 ms", "p99 ms")
    table.add_row(f"LATE after its deadline ({len(lateness.ms)})", *(f"{ms:.3f}" for ms in late.values()))
    console = Console(stderr=True)
    console.print(table)
    told = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    console.print(f"{summary.frames} frames for the engine that sleeps: {told}")
    if args.as_json:
        print(json.dumps({"late_after_ms": late, "verdicts": dict(summary.verdicts)}))


if __name__ == "__main__":
    main()
