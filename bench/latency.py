"""Latency of the run loop against the bare engine, on the same frames, in one interleaved run.

    python bench/latency.py bottle.mapl --source data/bottle/test [--rounds 5] [--threads 1] [--json]

Bare: `engine.infer` on pictures that are already prepared. Loop: `runtime.run` on camera frames in memory, with
queueing, prepare, judge and a JSON line per verdict to a file. Overhead is what the loop adds besides prepare itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.clock import SystemClock
from mapl_edge.frame import Frame
from mapl_edge.prepare import prepare
from mapl_edge.runtime import Inspection, Inspector, JsonLines, OnnxRuntimeEngine, Shot, run, source_from_uri

STAGES = ("prepare", "compute", "judge")


class MemorySource:
    """Camera pictures that are already in memory, stamped when they are taken."""

    live = False

    def __init__(self, images: list[UInt8Array]) -> None:
        self._images, self._clock = images, SystemClock()

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        for seq, image in enumerate(self._images):
            yield Frame(image, seq, self._clock.monotonic(), self._clock.utc())

    def close(self) -> None:
        """Nothing to close."""


class Stopwatch:
    """A sink that keeps stage times, and the time from one verdict to the next: what a frame really costs."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.frame_ms: list[float] = []
        self._last = time.monotonic()

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        now = time.monotonic()
        self.frame_ms.append(1e3 * (now - self._last))
        self._last = now
        for stage in STAGES:
            self.stages[stage].append(getattr(inspection.verdict.stage_ms, stage))

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", default="line:?parts=60")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    shots = source_from_uri(args.source).shots()
    images = [shot.image for shot, _ in zip(shots, range(args.frames), strict=False) if isinstance(shot, Frame)]
    prepared = [prepare(image, bundle.contract) for image in images]
    bare: list[float] = []
    loop: list[float] = []
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with OnnxRuntimeEngine(bundle.model_path, args.threads) as engine, tempfile.TemporaryDirectory() as folder:
        inspector = Inspector(engine, bundle.contract, bundle.calibration.limits)
        for picture in prepared[:10]:
            engine.infer(picture)
        for number in range(args.rounds):
            for picture in prepared:
                started = time.monotonic()
                engine.infer(picture)
                bare.append(1e3 * (time.monotonic() - started))
            watch = Stopwatch()
            lines = JsonLines(Path(folder) / f"{number}.jsonl", {"run": "bench", "bundle": bundle.digest})
            run(MemorySource(images), inspector, [lines, watch])
            loop += watch.frame_ms[1:]  # the first one holds the loop's start
            for stage in STAGES:
                stages[stage] += watch.stages[stage]

    rows = {"bare engine": bare, "loop, per frame": loop, **{f"  {stage}": times for stage, times in stages.items()}}
    table = Table("what", "p50 ms", "p99 ms", title=f"{args.bundle}, {len(bare)} frames, {args.threads} thread(s)")
    for name, times in rows.items():
        table.add_row(name, *(f"{np.percentile(times, q):.3f}" for q in (50, 99)))
    bare_p50, loop_p50, prepare_p50 = (float(np.median(times)) for times in (bare, loop, stages["prepare"]))
    overhead_ms = loop_p50 - bare_p50
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"loop / bare at p50: {loop_p50 / bare_p50:.3f} ({overhead_ms:+.3f} ms, of which prepare {prepare_p50:.3f} ms) "
        f"on {platform.processor() or platform.machine()}"
    )
    if args.json:
        result = {name.strip(): {f"p{q}": float(np.percentile(t, q)) for q in (50, 99)} for name, t in rows.items()}
        print(json.dumps({**result, "ratio_p50": loop_p50 / bare_p50, "overhead_ms_p50": overhead_ms}))


if __name__ == "__main__":
    main()
