"""What the station costs a frame over the bare engine: plain, with each extra alone, and with everything on.

    python bench/latency.py bottle.mapl --source data/bottle/test/good [--frames 300] [--fps 30] [--threads 1] [--json]

Bare: `engine.infer` on the prepared picture. All others: `runtime.run` on camera frames in memory, from the moment the
source hands a frame over until the loop asks for the next one. Plain: prepare, engine, judge and statistics. Extras:
JSON lines in a file, deadline, camera health, drift charts, store. The bundle must be calibrated on this camera.

Frames come at a fixed rate. The ways take turns of a second on the same frames, so that whatever else the machine does
falls on all, and what one does behind its frames on its own. Differences are between the same frame of the same round.
Beside: a frame's time less the engine's own call inside it, which says more where the machine has other work.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from rich.console import Console

from frames import Frames, frames_from_args, parser_of, percentiles, table_of
from mapl_edge.arrays import UInt8Array
from mapl_edge.clock import SystemClock
from mapl_edge.config import DriftConfig, StoreConfig
from mapl_edge.engine import Engine
from mapl_edge.frame import Frame
from mapl_edge.runtime import (
    DeadlineInspector,
    DriftSink,
    FusedEngine,
    Inspection,
    Inspector,
    JsonLines,
    RunIdentity,
    Shot,
    Sink,
    open_store,
    run,
)
from mapl_edge.runtime.camera_gate import CameraGate

AMPLE_MS = 60_000.0  # a budget that nothing on time comes near
BARE, PLAIN, ALL = "bare engine", "plain loop", "everything on"
LINES, DEADLINE, HEALTH, DRIFT, STORE = EXTRAS = "JSON lines", "deadline", "health", "drift", "store"
WAYS: dict[str, frozenset[str]] = {
    PLAIN: frozenset(),
    **{extra: frozenset({extra}) for extra in EXTRAS},
    ALL: frozenset(EXTRAS),
}
STAGES = ("prepare", "compute", "judge")


class GivenSource:
    """Frames that somebody gives, one at a time; notes how long each is on its way. In a thread of its own."""

    live = False

    def __init__(self, name: str, go: Callable[[GivenSource], object]) -> None:
        self.ms: list[float] = []
        self.index = 0  # of the picture in hand
        self._given: SimpleQueue[tuple[UInt8Array, int] | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._clock = SystemClock()
        self._thread = threading.Thread(target=go, args=(self,), name=name, daemon=True)
        self._thread.start()

    def give(self, image: UInt8Array, index: int) -> None:
        """One frame; returns when it has been dealt with."""
        self._given.put((image, index))
        self._done.get(timeout=60)

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        while (given := self._given.get()) is not None:
            image, self.index = given
            started = self._clock.monotonic()
            yield Frame(image, len(self.ms), started, self._clock.utc())
            self.ms.append(1e3 * (self._clock.monotonic() - started))
            self._done.put(None)

    def end(self) -> None:
        """No more will come."""
        self._given.put(None)
        self._thread.join(10)

    def close(self) -> None:
        """Nothing to close."""


class Stopwatch:
    """A sink that keeps stage times and outcomes."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.outcomes: Counter[str] = Counter()

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.outcomes[inspection.verdict.outcome.value] += 1
        for stage in STAGES:
            self.stages[stage].append(getattr(inspection.verdict.stage_ms, stage))

    def close(self) -> None:
        """Nothing to close."""


def station(
    frames: Frames, engine: Engine, extras: frozenset[str], folder: Path, watch: Stopwatch
) -> Callable[[GivenSource], object]:
    """The loop with these extras on, to be run with a source."""
    contract, calibration = frames.bundle.contract, frames.bundle.calibration
    fields = {"run": "bench", "camera": "bench", "bundle": frames.bundle.digest, "calibration": "c" * 64}
    gate = None
    if HEALTH in extras and calibration.camera is not None:
        gate = CameraGate("bench", calibration.camera, roi_xywh=contract.roi_xywh, frozen_after=5)
    inspector_of = partial(
        Inspector,
        contract=contract,
        limits=calibration.limits,
        normals=calibration.scores,
        gate=gate,
        place=calibration.place,
    )

    def go(source: GivenSource) -> None:
        sinks: list[Sink] = [watch]
        if LINES in extras:
            sinks.append(JsonLines(folder / "verdicts.jsonl", fields))
        if STORE in extras:
            identity = RunIdentity(**fields, engine="bench", limits=calibration.limits)
            sinks.append(open_store(folder, identity, StoreConfig(min_free_mb=0)))
        if DRIFT in extras:
            sinks.append(DriftSink(calibration, DriftConfig(), fields, folder, lambda line: None))
        if DEADLINE not in extras:
            run(source, inspector_of(engine), sinks)
            return
        with DeadlineInspector([lambda: engine], inspector_of, AMPLE_MS) as inspector:
            run(source, inspector, sinks)

    return go


def in_turns(frames: Frames, sources: Sequence[GivenSource], count: int, fps: float) -> None:
    """Give each of them so many frames, a second's worth at a time; another begins each time."""
    block = max(1, min(count, round(fps)))
    due = time.monotonic()
    for turn, first in enumerate(range(0, count, block)):
        for source in (*sources[turn % len(sources) :], *sources[: turn % len(sources)]):
            for index in range(first, min(first + block, count)):
                image = frames.images[index % len(frames.images)].copy()  # as it comes from a camera
                due = max(due + 1 / fps, time.monotonic() - 1 / fps)
                time.sleep(max(0.0, due - time.monotonic()))
                source.give(image, index % len(frames.images))


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = parser_of(__doc__, frames=300)
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second, of all ways together")
    args = parser.parse_args()
    frames = frames_from_args(args)
    if frames.bundle.calibration.camera is None:
        parser.error(f"{args.bundle} has no camera reference; calibrate it again")

    watches = {name: Stopwatch() for name in WAYS}
    with FusedEngine(frames.bundle.model_path, args.threads) as engine, ExitStack() as at_end:

        def bare(source: GivenSource) -> None:
            for _ in source.shots():
                engine.infer(frames.prepared[source.index])

        sources = {BARE: GivenSource(BARE, bare)}
        for name, extras in WAYS.items():
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
            sources[name] = GivenSource(name, station(frames, engine, extras, folder, watches[name]))
        for source in sources.values():
            source.give(frames.images[0].copy(), 0)
        in_turns(frames, list(sources.values()), args.frames, args.fps)
        for source in sources.values():
            source.end()

    columns = "p50 ms", "p99 ms", "over bare: p50 of differences", "difference of p99", "beside: p50", "p99"
    table = table_of(args, "what", *columns)
    ms = {name: np.array(source.ms[1:]) for name, source in sources.items()}  # without the first, to warm up
    figures = {}
    for name, times in ms.items():
        found = percentiles(times)
        over = float(np.median(times - ms[BARE])), found["p99"] - float(np.percentile(ms[BARE], 99))
        figures[name] = {**found, "over_bare_p50": over[0], "over_bare_p99": over[1]}
        row = [*(f"{found[q]:.3f}" for q in found), *(f"{difference:+.3f}" for difference in over)]
        if name in watches:
            beside = percentiles(times - np.array(watches[name].stages["compute"][1:]))
            figures[name] |= {f"beside_{q}": each for q, each in beside.items()}
            row += [f"{each:.3f}" for each in beside.values()]
        table.add_row(name, *row)
    for stage, each in watches[ALL].stages.items():
        found = percentiles(each[1:])
        figures[f"{ALL}, {stage}"] = found
        table.add_row(f"  of {ALL}: {stage}", *(f"{found[q]:.3f}" for q in found))
    console = Console(stderr=True)
    console.print(table)
    told = ", ".join(f"{n} {outcome}" for outcome, n in sorted(watches[ALL].outcomes.items()))
    console.print(f"verdicts with {ALL}: {told}")
    if args.as_json:
        print(json.dumps({**figures, "verdicts": dict(watches[ALL].outcomes)}))


if __name__ == "__main__":
    main()
