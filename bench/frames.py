"""Frames: a bundle and camera pictures in memory, what bench/latency.py and bench/deadline.py start from."""

from __future__ import annotations

import platform
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.frame import Frame
from mapl_edge.prepare import prepare
from mapl_edge.runtime import source_from_uri

MOST_PICTURES = 60


@dataclass(frozen=True, slots=True)
class Frames:
    """A bundle, camera pictures in memory, and the same prepared for its engine."""

    bundle: Bundle
    images: Sequence[UInt8Array]
    prepared: Sequence[UInt8Array]


def parser_of(doc: str | None, frames: int) -> ArgumentParser:
    """A parser of what both take: bundle, source, frames by default so many, threads, and whether to print JSON."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", default="line:?parts=60")
    parser.add_argument("--frames", type=int, default=frames)
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--json", action="store_true", dest="as_json")
    return parser


def frames_from_args(args: Namespace) -> Frames:
    """Open the bundle and take pictures from the source, 60 at most."""
    bundle = open_bundle(args.bundle)
    shots = source_from_uri(args.source).shots()
    images = [shot.image for shot, _ in zip(shots, range(MOST_PICTURES), strict=False) if isinstance(shot, Frame)]
    return Frames(bundle, images, [prepare(image, bundle.contract) for image in images])


def percentiles(ms: Iterable[float]) -> dict[str, float]:
    """Median and 99th percentile, by name."""
    values = np.fromiter(ms, float)
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 99)}


def table_of(args: Namespace, *columns: str) -> Table:
    """An empty one that says what was measured, and where."""
    machine = platform.processor() or platform.machine()
    return Table(*columns, title=f"{args.bundle}, {args.frames} frames, {args.threads} thread(s), {machine}")
