"""A change of limits or bundle measured: what the frames at the swap and during the proof wait, and what memory stays.

    python bench/reload.py bottle.mapl data/bottle/test/good [--other tile.mapl] [--swaps 20] [--frames 30] [--json]

Bundles are copied first. The pictures come without a pause; every so many frames new limits are put in force, or with
`--other` the two bundles are exchanged, and taken over as in `run`. A gap is the time between two verdicts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mapl_edge.calibration import calibration_from_file, write_calibration
from mapl_edge.clock import SystemClock
from mapl_edge.frame import Frame
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime import AtWork, Inspection, Judging, Lane, Reload, Shot, SwapInspector, run
from mapl_edge.runtime.loaded import Loaded, Wanted, loaded_bundle
from mapl_edge.verdict import Policy


class Line:
    """The same pictures again and again, until so many changes were taken over; asks for one every so many frames."""

    live = False

    def __init__(self, folder: Path, reload: Reload, swaps: int, frames: int, other: Path | None) -> None:
        self._images = [picture_from_file(path) for path in sorted(folder.iterdir())[:8]]
        self._reload, self._swaps, self._frames, self._other = reload, swaps, frames, other
        self.proving, self.before_mb = False, 0.0

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        clock, left, since, before = SystemClock(), self._swaps, 0, self._reload.running
        for seq in itertools.count():
            if self._reload.running is not before:
                before, since, self.proving = self._reload.running, 0, False
            if since == self._frames and left == 0:
                return
            if since == self._frames:
                self.before_mb = self.before_mb or rss_mb()
                self._change()
                left, self.proving = left - 1, True
            since += 1
            yield Frame(self._images[seq % len(self._images)], seq, clock.monotonic(), clock.utc())

    def close(self) -> None:
        """See `Source`."""

    def _change(self) -> None:
        path = self._reload.running.bundle.path
        if self._other is None:
            known = calibration_from_file(path / "calibration.yaml")
            limits = known.limits.model_copy(update={"fail": known.limits.fail + 0.01})
            write_calibration(known.model_copy(update={"limits": limits}), path / "calibration.yaml")
        else:
            away = path.with_name("away")
            path.rename(away)
            self._other.rename(path)
            away.rename(self._other)
        self._reload.ask()


class Gaps:
    """A sink that times."""

    def __init__(self) -> None:
        self.ordinary: list[float] = []
        self.proving: list[float] = []
        self.swap: list[float] = []
        self._before: tuple[float, object] | None = None
        self.line: Line | None = None

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        assert self.line is not None
        now, digests = time.monotonic(), inspection.verdict.judged_by
        if self._before is not None:
            swapped = digests != self._before[1]
            into = self.swap if swapped else self.proving if self.line.proving else self.ordinary
            into.append(1e3 * (now - self._before[0]))
        self._before = now, digests

    def close(self) -> None:
        """See `Sink`."""


def rss_mb() -> float:
    """Memory of this process."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / "part.mapl", None
        shutil.copytree(wanted.bundle, path)
        if wanted.other is not None:
            other = Path(folder) / "other.mapl"
            shutil.copytree(wanted.other, other)
        loaded = loaded_bundle(path, Wanted("onnxruntime-fp32-fused", 1))
        inspector = SwapInspector(judging_of(loaded, loaded.engine))
        sink = Gaps()
        lane = Lane(inspector, judging_of)
        with Reload(loaded, loaded.engine, [lane], lambda each: each.engine, print, watch=False) as reload:
            sink.line = Line(wanted.pictures, reload, wanted.swaps, wanted.frames, other)
            run(sink.line, inspector, [sink])
            reload.look()  # closes the last engine that is not used
            before_mb, after_mb = sink.line.before_mb, rss_mb()
    kinds = {"ordinary": sink.ordinary, "while it is proved": sink.proving, "at the swap": sink.swap}
    found = {
        kind: {"n": len(gaps), "p50_ms": statistics.median(gaps), "max_ms": max(gaps)}
        for kind, gaps in kinds.items()
        if gaps
    }
    for kind, row in found.items():
        print(f"{kind}: {row['n']} gaps, p50 {row['p50_ms']:.1f} ms, longest {row['max_ms']:.1f} ms")
    print(f"memory: {before_mb:.0f} MB before the first change, {after_mb:.0f} MB after {wanted.swaps} changes")
    if wanted.json:
        print(json.dumps({"gaps": found, "rss_mb": [before_mb, after_mb]}))


def judging_of(loaded: Loaded, engine: AtWork) -> Judging:
    """Without a deadline."""
    return Judging(loaded.inspector_of(Policy())(loaded.engine), engine, loaded.digests)


if __name__ == "__main__":
    main()
