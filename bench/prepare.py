"""What bringing a camera picture to the model's input costs: by halves, and by area as earlier bundles have it.

    python bench/prepare.py [--sizes 320x320 1280x960 2448x2048] [--input 256x256] [--rounds 60] [--json]

Both ways take turns on the same pictures, blurred noise; before each the thread sleeps as it would between two frames,
so that caches and clock are as they are on a line. Sizes are width x height. Copy: of the picture, the floor, since
every byte must be read once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.contract import InputContract
from mapl_edge.prepare import prepare

SIZES = ("320x320", "640x480", "900x900", "1280x960", "1280x1024", "1920x1200", "2448x2048", "4096x3000")
ASLEEP_S = 0.01
NOISE_SIGMA_PX = 2.0


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--input", default="256x256")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    wanted_w, wanted_h = _wh(args.input)
    rows = [_row(size, (wanted_h, wanted_w), args.rounds) for size in args.sizes]

    table = Table("picture", "by halves, ms", "by area, ms", "area / halves", "copy, ms", title=f"to {args.input}, p50")
    for row in rows:
        times = [f"{row[name]:.2f}" for name in ("halve_ms", "area_ms", "ratio", "copy_ms")]
        table.add_row(row["size"], *times)
    Console(stderr=True).print(table)
    if args.json:
        print(json.dumps(rows))


def _wh(text: str) -> tuple[int, int]:
    w, h = text.split("x")
    return int(w), int(h)


def _row(size: str, size_hw: tuple[int, int], rounds: int) -> dict[str, Any]:
    w, h = _wh(size)
    noise = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    image: UInt8Array = np.asarray(cv2.GaussianBlur(noise, (0, 0), NOISE_SIGMA_PX), np.uint8)
    ways: dict[str, Callable[[], Any]] = {
        "halve_ms": partial(prepare, image, InputContract(size_hw=size_hw)),
        "area_ms": partial(prepare, image, InputContract(size_hw=size_hw, resize="area")),
        "copy_ms": image.copy,
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            time.sleep(ASLEEP_S)
            started = time.perf_counter()
            way()
            spent[name].append(1e3 * (time.perf_counter() - started))
    row: dict[str, Any] = {name: statistics.median(times) for name, times in spent.items()}
    return {"size": size, **row, "ratio": row["area_ms"] / row["halve_ms"]}


if __name__ == "__main__":
    main()
