"""The deadline measured: how long after it LATE verdicts leave, and what it costs a frame that is on time.

    python bench/deadline.py bottle.mapl [--frames 300] [--late 100] [--budget-ms 50] [--threads 1] [--json]

Late: the bundle's engine reads a picture and then sleeps 10 s inside the same call; frames come every 1.2 budgets, and
each LATE verdict is timed when a sink has it, against its own deadline. Overhead: the bare engine on the prepared
picture, the inspector without a deadline, and the same with one, in turns on the same frame; inspectors also prepare
and judge. Costs are medians of the differences on the same frame, since whatever else the machine does falls on all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.engine import Engine, Reading
from mapl_edge.frame import Frame
from mapl_edge.prepare import prepare
from mapl_edge.runtime import (
    DeadlineInspector,
    FusedEngine,
    Inspection,
    Inspector,
    Inspects,
    Patience,
    Shot,
    run,
    source_from_uri,
)
from mapl_edge.verdict import Outcome

SLEEP_S = 10.0
AMPLE_MS = 60_000.0  # a budget that nothing on time comes near


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

    def __init__(self, images: list[UInt8Array], frames: int, every_s: float) -> None:
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


def in_turns(
    images: list[UInt8Array], prepared: list[UInt8Array], engine: Engine, ways: dict[str, Inspects], frames: int
) -> dict[str, list[float]]:
    """Milliseconds a frame of the bare engine and of each inspector, in turns; another begins each time."""
    clock = SystemClock()
    ms: dict[str, list[float]] = {name: [] for name in ("bare engine", *ways)}
    names = list(ms)
    for seq in range(frames):
        image, picture = images[seq % len(images)], prepared[seq % len(prepared)]
        for name in names[seq % len(names) :] + names[: seq % len(names)]:
            started = clock.monotonic()
            if name in ways:
                outcome = ways[name].inspect(Frame(image, seq, started, clock.utc())).verdict.outcome
                assert outcome in (Outcome.PASS, Outcome.REVIEW, Outcome.FAIL)
            else:
                engine.infer(picture)
            ms[name].append(1e3 * (clock.monotonic() - started))
    return ms


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", default="line:?parts=60")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--late", type=int, default=100)
    parser.add_argument("--budget-ms", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    shots = source_from_uri(args.source).shots()
    images = [shot.image for shot, _ in zip(shots, range(60), strict=False) if isinstance(shot, Frame)]
    prepared = [prepare(image, bundle.contract) for image in images]
    inspector_of = partial(Inspector, contract=bundle.contract, limits=Limits(fail=0.0))  # no matter how it judges

    with FusedEngine(bundle.model_path, args.threads) as engine:
        for picture in prepared[:10]:
            engine.infer(picture)
        with DeadlineInspector([lambda: engine], inspector_of, AMPLE_MS) as with_deadline:
            ways: dict[str, Inspects] = {"without a deadline": inspector_of(engine), "with a deadline": with_deadline}
            ms = in_turns(images, prepared, engine, ways, args.frames)

    lateness = Lateness(args.budget_ms)
    source = SpacedSource(images, args.late, 1.2e-3 * args.budget_ms)
    patience = Patience(stuck_s=4.0, restarts=1_000_000)  # given up and started anew while it is measured
    engines = [lambda: SleepingEngine(bundle.model_path, args.threads)]
    with DeadlineInspector(engines, inspector_of, args.budget_ms, patience=patience) as asleep:
        summary = run(source, asleep, [lateness])

    title = (
        f"{args.bundle}, {args.frames} frames, {args.threads} thread(s), {platform.processor() or platform.machine()}"
    )
    table = Table("what", "p50 ms", "p99 ms", title=title)
    rows = {**ms, f"LATE after its deadline ({len(lateness.ms)} verdicts)": lateness.ms}
    for name, times in rows.items():
        table.add_row(name, *(f"{np.percentile(times, q):.3f}" for q in (50, 99)))
    bare, without, deadline = (np.array(times) for times in ms.values())
    costs = {
        "inspector_over_bare_ms": float(np.median(without - bare)),
        "deadline_over_bare_ms": float(np.median(deadline - bare)),
        "deadline_over_inspector_ms": float(np.median(deadline - without)),
    }
    told = ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(summary.verdicts.items()))
    console = Console(stderr=True)
    console.print(table)
    shown = {what: f"{cost:+.3f}" for what, cost in costs.items()}
    console.print(
        f"medians of differences, ms: {shown['inspector_over_bare_ms']} without a deadline over the bare engine, "
        f"{shown['deadline_over_bare_ms']} with one; with over without: {shown['deadline_over_inspector_ms']}"
    )
    console.print(f"{summary.frames} frames for the engine that sleeps: {told}")
    if args.json:
        late = {f"p{q}": float(np.percentile(lateness.ms, q)) for q in (50, 99)}
        figures = {name: {f"p{q}": float(np.percentile(times, q)) for q in (50, 99)} for name, times in ms.items()}
        print(json.dumps({**figures, "late_after_ms": late, "verdicts": dict(summary.verdicts), **costs}))


if __name__ == "__main__":
    main()
