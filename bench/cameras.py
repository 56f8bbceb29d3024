"""Cameras measured: what several in one process have of each other.

    python bench/cameras.py bottle.mapl [--cameras 4] [--fps 5] [--budget-ms 250] [--seconds 60] [--threads 2] [--json]

Cameras of the synthetic line, each with a phase of its own, over one engine: all alive; one dead (its library hangs
after its first picture); one slow (its sink takes a second for each verdict); and one left out, since an engine that
is asked less often is slower each time. What else the machine does falls on all alike, since the stations take turns of
`--slice` seconds. Shown are the cameras beside the one in trouble, and their p99 beside that of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.config import CameraConfig
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
from mapl_edge.testing import HangingDevice
from mapl_edge.verdict import Outcome

STATIONS = ("all alive", "one left out", "one dead", "one slow")
SLOW_S = 1.0


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


def hanging_camera(images: list[UInt8Array]) -> Source:
    """A live camera whose library gives one picture and never returns again."""
    return LiveCamera("0", lambda: HangingDevice(images[:1]), CameraConfig(stale_after_s=1.0), tell=lambda line: None)


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
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    inspector_of = partial(Inspector, contract=bundle.contract, limits=Limits(fail=0.0))  # no matter how it judges
    shots = source_from_uri("line:?parts=20").shots()
    images = [shot.image for shot in shots if isinstance(shot, Frame)]
    ms: dict[str, list[float]] = defaultdict(list)
    outcomes: dict[str, Counter[Outcome]] = defaultdict(Counter)
    with Watchdog([lambda: FusedEngine(bundle.model_path, args.threads)]) as watchdog:
        for turn in range(max(1, round(args.seconds / args.slice))):
            for station in STATIONS[turn % len(STATIONS) :] + STATIONS[: turn % len(STATIONS)]:
                sinks = [Latencies(station == "one slow" and index == 0) for index in range(args.cameras)]
                cameras = []
                for index, sink in enumerate(sinks):
                    open_source: Callable[[], Source] = partial(
                        Paced, images, args.fps, index / args.cameras, args.slice
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
                for sink in sinks[1:]:  # camera 0 is the one that dies or is slow
                    ms[station] += sink.ms
                    outcomes[station] += sink.outcomes

    table = Table(
        "station",
        "parts of the others",
        "on time",
        "p50 ms",
        "p99 ms",
        "p99 / all alive",
        "p99 / one left out",
        title=f"{args.cameras} cameras at {args.fps:g} frames/s, {args.threads} threads, budget {args.budget_ms:g} ms, "
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}",
    )
    figures = {}
    for station in STATIONS:
        found = figures[station] = {
            "parts": len(ms[station]),
            "on_time": 1 - outcomes[station][Outcome.LATE] / len(ms[station]),
            "p50_ms": float(np.percentile(ms[station], 50)),
            "p99_ms": float(np.percentile(ms[station], 99)),
        }
    for station, found in figures.items():
        over = {
            f"p99_over_{name.replace(' ', '_')}": found["p99_ms"] / figures[name]["p99_ms"] for name in STATIONS[:2]
        }
        table.add_row(
            station,
            str(found["parts"]),
            f"{found['on_time']:.2%}",
            f"{found['p50_ms']:.1f}",
            f"{found['p99_ms']:.1f}",
            *(f"{ratio:.2f}" for ratio in over.values()),
        )
        found.update(over)
    Console(stderr=True).print(table)
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
