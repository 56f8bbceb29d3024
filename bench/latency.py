"""Latency of the run loop against the bare engine, frame by frame in turns, in one run.

    python bench/latency.py bottle.mapl --source data/bottle/test [--frames 300] [--threads 1] [--json]

Bare: `engine.infer` on the prepared picture. Loop: `runtime.run` on camera frames in memory, from the moment the source
hands a frame over until the loop asks for the next one: queue, prepare, compute, judge, and a JSON line to a file.
The two take turns on the same frame, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.clock import SystemClock
from mapl_edge.engine import Engine
from mapl_edge.frame import Frame
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine, Inspection, Inspector, JsonLines, Shot, run, source_from_uri

STAGES = ("prepare", "compute", "judge")


class TurnsSource:
    """Camera pictures in memory; between two of them the bare engine reads the one that the loop has just done."""

    live = False

    def __init__(self, images: list[UInt8Array], prepared: list[UInt8Array], engine: Engine, frames: int) -> None:
        self._images, self._prepared, self._engine, self._frames = images, prepared, engine, frames
        self._clock = SystemClock()
        self.loop_ms: list[float] = []
        self.bare_ms: list[float] = []

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        for seq in range(self._frames):
            image, picture = (those[seq % len(those)] for those in (self._images, self._prepared))
            started = self._clock.monotonic()
            yield Frame(image, seq, started, self._clock.utc())
            done = self._clock.monotonic()
            self._engine.infer(picture)
            self.loop_ms.append(1e3 * (done - started))
            self.bare_ms.append(1e3 * (self._clock.monotonic() - done))

    def close(self) -> None:
        """Nothing to close."""


class Stopwatch:
    """A sink that keeps stage times."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        for stage in STAGES:
            self.stages[stage].append(getattr(inspection.verdict.stage_ms, stage))

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", default="line:?parts=60")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    shots = source_from_uri(args.source).shots()
    images = [shot.image for shot, _ in zip(shots, range(60), strict=False) if isinstance(shot, Frame)]
    prepared = [prepare(image, bundle.contract) for image in images]
    watch = Stopwatch()
    with FusedEngine(bundle.model_path, args.threads) as engine, tempfile.TemporaryDirectory() as folder:
        inspector = Inspector(engine, bundle.contract, bundle.calibration.limits)
        for picture in prepared[:10]:
            engine.infer(picture)
        source = TurnsSource(images, prepared, engine, args.frames)
        lines = JsonLines(Path(folder) / "verdicts.jsonl", {"run": "bench", "bundle": bundle.digest})
        run(source, inspector, [lines, watch])

    bare, loop = source.bare_ms, source.loop_ms
    rows = {"bare engine": bare, "loop": loop, **{f"  {stage}": times for stage, times in watch.stages.items()}}
    table = Table("what", "p50 ms", "p99 ms", title=f"{args.bundle}, {len(bare)} frames, {args.threads} thread(s)")
    for name, times in rows.items():
        table.add_row(name, *(f"{np.percentile(times, q):.3f}" for q in (50, 99)))
    bare_p50, loop_p50, prepare_p50 = (float(np.median(times)) for times in (bare, loop, watch.stages["prepare"]))
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
