"""What cameras that share an engine wait for each other, by calculation: no machine, so no other work in the figures.

    python bench/camera_queue.py [--cameras 4] [--fps 5] [--call-ms 22] [--spread-ms 2.5] [--turns 300] [--json]

The queue of `Watchdog` alone: one shot at a time, the earliest deadline first, the newest frame of a live camera, calls
of a normal distribution. Stations and phases as in `bench/cameras.py`, whose measured figures it explains: even phases
come one after the other at equal times, random ones are drawn for each turn of 20 s. A slow camera takes a second for
each verdict. Shown are the cameras beside the one in trouble.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import FloatArray

STATIONS = ("all alive", "all alive again", "one left out", "one slow")
TURN_S = 20.0
SLOW_MS = 1_000.0


@dataclass
class _Camera:
    """One camera in the queue: when its frames come, the next that it has not taken, and since when it is free."""

    captured_ms: FloatArray
    busy_ms: float = 0.0
    taken: int = 0
    free_ms: float = 0.0

    def next_frame(self) -> int | None:
        """The newest one that has come when it is free, else the one that comes next."""
        newest = int(np.searchsorted(self.captured_ms, self.free_ms, side="right")) - 1
        frame = max(newest, self.taken)
        return frame if frame < len(self.captured_ms) else None


def latencies_ms(cameras: list[_Camera], call_ms: Callable[[], float]) -> list[list[float]]:
    """Capture to verdict of each camera's frames, until all have ended."""
    found: list[list[float]] = [[] for _ in cameras]
    engine_free_ms = 0.0
    while True:
        waiting = []
        for index, camera in enumerate(cameras):
            frame = camera.next_frame()
            if frame is not None:
                captured = float(camera.captured_ms[frame])
                waiting.append((max(captured, camera.free_ms), captured, index, frame))
        if not waiting:
            return found
        starts = max(engine_free_ms, min(waiting)[0])
        _, captured, index, frame = min((each for each in waiting if each[0] <= starts), key=lambda each: each[1])
        engine_free_ms = starts + call_ms()
        found[index].append(engine_free_ms - captured)
        cameras[index].taken, cameras[index].free_ms = frame + 1, engine_free_ms + cameras[index].busy_ms


def station_ms(station: str, phases: FloatArray, fps: float, call_ms: Callable[[], float]) -> list[float]:
    """Of a turn: the latencies of all cameras but the first."""
    comes = 1e3 * np.arange(int(fps * TURN_S)) / fps
    cameras = [_Camera(comes + 1e3 * phase / fps) for phase in phases]
    if station == "one slow":
        cameras[0].busy_ms = SLOW_MS
    elif station == "one left out":
        cameras[0].captured_ms = cameras[0].captured_ms[:0]
    return [each for found in latencies_ms(cameras, call_ms)[1:] for each in found]


def main() -> int:
    """Calculate and print one table (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--call-ms", type=float, default=22.0, help="of an engine's call")
    parser.add_argument("--spread-ms", type=float, default=2.5, help="its standard deviation")
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    def call_ms() -> float:
        return float(max(options.call_ms / 2, rng.normal(options.call_ms, options.spread_ms)))

    n, fps = options.cameras, options.fps
    table = Table("phases", "station", "p50 ms", "p99 ms", "p99 / all alive", title=f"{n} cameras at {fps:g} frames/s")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("even", "random"):
        turns = [np.arange(n) / n if name == "even" else rng.random(n) for _ in range(options.turns)]
        figures[name] = {}
        for station in STATIONS:
            ms = [each for phases in turns for each in station_ms(station, phases, fps, call_ms)]
            p50, p99 = (float(np.percentile(ms, q)) for q in (50, 99))
            alive = figures[name].get("all alive", {"p99_ms": p99})["p99_ms"]
            figures[name][station] = {"p50_ms": p50, "p99_ms": p99, "p99_over_all_alive": p99 / alive}
            table.add_row(name, station, f"{p50:.1f}", f"{p99:.1f}", f"{p99 / alive:.2f}")
    Console(stderr=True).print(table)
    if options.as_json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
