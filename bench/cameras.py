"""Cameras measured: what several in one process have of each other.

    python bench/cameras.py bottle.mapl [--cameras 4] [--fps 5] [--budget-ms 250] [--seconds 60] [--threads 2] [--json]

Cameras of the synthetic line over one engine: all alive, and the same again, which shows what chance alone does; one
dead (its library hangs after its first picture); one slow (its sink takes a second for each verdict); and one left out,
since an engine that is asked less often is slower each time. What else the machine does falls on all alike, since the
stations take turns of `--slice` seconds. Shown are the cameras beside the one in trouble, and their p99 beside that of
the others, with an interval of 95 % by drawing turns again (bootstrap).

Each camera has a phase of its own. By default it is drawn anew for each turn, the same for all its stations: cameras
that nobody synchronises meet now and then. With `--phases even` they come one after the other at equal times, so none
ever waits for another, until one of them is slow and no longer comes in its turn. `--call-ms 22` puts a double in the
engine's place that takes so long and no processor: what is left is waiting for each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.config import CameraConfig
from mapl_edge.engine import Engine
from mapl_edge.frame import Frame
from mapl_edge.runtime import (
    Camera,
    DeadlineInspector,
    FusedEngine,
    Inspection,
    Inspector,
    Shot,
    Source,
    Watchdog,
    run_cameras,
    source_from_uri,
)
from mapl_edge.runtime.camera import LiveCamera
from mapl_edge.testing import HangingDevice, HangingEngine
from mapl_edge.verdict import Outcome

STATIONS = ("all alive", "one left out", "all alive again", "one dead", "one slow")
SLOW_S = 1.0
DRAWN = 2_000  # times that the turns are drawn again


class Paced:
    """The same pictures again and again, live, from a phase of its own for so many seconds; see `Source`."""

    live = True

    def __init__(self, images: list[UInt8Array], fps: float, phase: float, seconds: float) -> None:
        self._images, self._fps, self._phase, self._seconds = images, fps, phase, seconds
        self._closing = threading.Event()

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        clock = SystemClock()
        started = clock.monotonic()
        for seq in range(int(self._fps * self._seconds)):
            if self._closing.wait(max(0.0, started + (seq + self._phase) / self._fps - clock.monotonic())):
                return
            yield Frame(self._images[seq % len(self._images)], seq, clock.monotonic(), clock.utc())

    def close(self) -> None:
        """See `Source`."""
        self._closing.set()


class Latencies:
    """A sink that keeps capture-to-verdict times and outcomes; a slow one takes its time over each."""

    def __init__(self, slow: bool) -> None:
        self._slow = slow
        self.ms: list[float] = []
        self.outcomes: Counter[Outcome] = Counter()

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.ms.append(1e3 * (time.monotonic() - inspection.shot.t_mono))
        self.outcomes[inspection.verdict.outcome] += 1
        if self._slow:
            time.sleep(SLOW_S)

    def close(self) -> None:
        """Nothing to close."""


_NUMBERS = count()


def hanging_camera(images: list[UInt8Array]) -> Source:
    """A live camera whose library gives one picture and never returns again; one that was never there before."""
    return LiveCamera(
        str(next(_NUMBERS)), lambda: HangingDevice(images[:1]), CameraConfig(stale_after_s=1.0), tell=lambda line: None
    )


def over_of(turns: list[list[float]], control: list[list[float]]) -> tuple[float, float, float]:
    """The p99 of one station over that of another, and its interval of 95 % where turns are drawn again, in pairs."""

    def ratio(drawn: Sequence[int]) -> float:
        p99, other = (np.percentile(np.concatenate([each[i] for i in drawn]), 99) for each in (turns, control))
        return float(p99 / other)

    rng, n = np.random.default_rng(0), len(turns)
    ratios = [ratio(rng.integers(0, n, n).tolist()) for _ in range(DRAWN)]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return ratio(range(n)), float(low), float(high)


def main() -> None:
    """Measure and print one table (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--budget-ms", type=float, default=250.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each station, in all")
    parser.add_argument("--slice", type=float, default=10.0, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--call-ms", type=float, help="of an engine double in place of the bundle's")
    parser.add_argument("--phases", choices=("random", "even"), default="random")
    parser.add_argument("--seed", type=int, default=0, help="of the phases")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    inspector_of = partial(Inspector, contract=bundle.contract, limits=Limits(fail=0.0))  # no matter how it judges
    shots = source_from_uri("line:?parts=20").shots()
    images = [shot.image for shot in shots if isinstance(shot, Frame)]
    ms: dict[str, list[list[float]]] = {station: [] for station in STATIONS}  # of each turn
    rng = np.random.default_rng(args.seed)
    outcomes: dict[str, Counter[Outcome]] = defaultdict(Counter)

    def open_engine() -> Engine:
        if args.call_ms is None:
            return FusedEngine(bundle.model_path, args.threads)
        return HangingEngine(before=lambda call: time.sleep(args.call_ms / 1e3))

    with Watchdog([open_engine]) as watchdog:
        for turn in range(max(1, round(args.seconds / args.slice))):
            even = np.arange(args.cameras) / args.cameras
            phases = even if args.phases == "even" else rng.random(args.cameras)
            for station in STATIONS[turn % len(STATIONS) :] + STATIONS[: turn % len(STATIONS)]:
                sinks = [Latencies(station == "one slow" and index == 0) for index in range(args.cameras)]
                cameras = []
                for index, sink in enumerate(sinks):
                    open_source: Callable[[], Source] = partial(
                        Paced, images, args.fps, float(phases[index]), args.slice
                    )
                    if station == "one dead" and index == 0:
                        open_source = partial(hanging_camera, images)
                    inspector = DeadlineInspector(watchdog, inspector_of, args.budget_ms)
                    cameras.append(Camera(f"camera-{index}", open_source, inspector, [sink]))
                stop = threading.Event()
                timer = threading.Timer(args.slice + 0.5, stop.set)  # the dead one has no end of its own
                timer.start()
                run_cameras(cameras[1:] if station == "one left out" else cameras, stop)
                timer.cancel()
                ms[station].append([each for sink in sinks[1:] for each in sink.ms])  # camera 0 is the one in trouble
                for sink in sinks[1:]:
                    outcomes[station] += sink.outcomes

    threads = f"{args.threads or 'all'} threads"
    engine = threads if args.call_ms is None else f"an engine double of {args.call_ms:g} ms"
    table = Table(
        "station",
        "parts of the others",
        "on time",
        "p50 ms",
        "p99 ms",
        "p99 / all alive",
        "p99 / one left out",
        title=f"{args.cameras} cameras at {args.fps:g} frames/s, {engine}, budget {args.budget_ms:g} ms, "
        f"{args.phases} phases, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}",
    )
    figures: dict[str, dict[str, object]] = {}
    for station, turns in ms.items():
        all_ms = np.concatenate(turns)
        on_time = 1 - outcomes[station][Outcome.LATE] / len(all_ms)
        p50, p99 = (float(np.percentile(all_ms, q)) for q in (50, 99))
        over = {name: over_of(turns, ms[name]) for name in STATIONS[:2]}
        shown = [f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in over.values()]
        table.add_row(station, str(len(all_ms)), f"{on_time:.2%}", f"{p50:.1f}", f"{p99:.1f}", *shown)
        figures[station] = {"parts": len(all_ms), "on_time": on_time, "p50_ms": p50, "p99_ms": p99} | {
            f"p99_over_{name.replace(' ', '_')}": ratio for name, ratio in over.items()
        }
    Console(stderr=True).print(table)
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
