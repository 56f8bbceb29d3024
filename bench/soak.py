"""A soak: a million parts through the whole station, and whether anything grows.

    python bench/soak.py [--frames 1000000] [--fps 10] [--bundle bottle.mapl] [--json]

The real loop: camera gate, inspector with a deadline and a watchdog, verdict lines in a file, store with pictures and
retention, drift charts. Its clock is a manual one that goes on by 1/fps with every part, so a day of the line takes
minutes. Engine: `mapl_edge.testing.HangingEngine`, which costs next to nothing, or with `--bundle` the bundle's own.

Every 997th part the engine is too slow (LATE), every 1,009th raises (ERROR), every 20,011th it dies and is started
again; every 1,013th picture cannot be read, and of every 2,003 six in a row are dark (CAMERA_FAULT). Some parts fail.

After the first tenth, memory (RSS), descriptors and threads are noted, and then ten times more; the last must not be
more than 2 % above the first in memory, and the same in the others. The system takes pages of libraries and other files
out of memory and brings them back as it likes, which may hide growth: what the process itself holds (anonymous memory)
must not have grown by more than 2 % of the first RSS either. The line goes a hundred times faster here than a real one,
so before each note the C library gives back what a backlog has left free. Exit code 1 where that, the account or the
verdict lines do not hold.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import open_bundle
from mapl_edge.calibration import Calibration, Limits
from mapl_edge.camera_health import measure, reference_from_measures
from mapl_edge.config import DriftConfig, StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine
from mapl_edge.errors import BackendError
from mapl_edge.frame import Frame
from mapl_edge.part_statistics import part_statistics
from mapl_edge.place import reference_from_picture
from mapl_edge.prepare import prepare
from mapl_edge.runtime import (
    Blank,
    DeadlineInspector,
    DriftSink,
    FusedEngine,
    Inspection,
    Inspector,
    JsonLines,
    Patience,
    RunIdentity,
    Shot,
    Store,
    open_store,
    run,
)
from mapl_edge.runtime.camera_gate import CameraGate
from mapl_edge.runtime.ledger import Ledger
from mapl_edge.testing import HangingEngine, ManualClock, SyntheticLine
from mapl_edge.testing.faults import spoiled
from mapl_edge.verdict import Outcome

BUDGET_MS = 1_000.0  # of the manual clock: only what is meant to be late is
SLOW_EVERY, RAISES_EVERY, DIES_EVERY = 997, 1_009, 20_011
BLANK_EVERY, DARK_EVERY, DARK_FOR = 1_013, 2_003, 6
SAMPLES = 10
MOST_GROWTH = 0.02
LIMIT_OF_PASSES = 0.95  # share of the line's parts that lie below the fail limit


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds when nothing is queued: resident memory, open descriptors, threads, Python's blocks.

    Blocks of memory that Python objects hold tell a leak from memory that is free and scattered; `own_mb` is the
    resident memory without pages of files.
    """

    frames: int
    rss_mb: float
    descriptors: int
    threads: int
    blocks: int = 0
    own_mb: float = 0.0

    def __str__(self) -> str:
        held = f"{self.descriptors} descriptors, {self.threads} threads, {self.blocks} blocks"
        return f"{self.frames} parts: {self.rss_mb:.1f} MB, {self.own_mb:.1f} of them its own, {held}"

    @classmethod
    def now(cls, frames: int) -> Sample:
        """Of this process."""
        resident, of_files = (int(n) for n in Path("/proc/self/statm").read_text().split()[1:3])
        page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
        return cls(
            frames,
            resident * page_mb,
            len(os.listdir("/proc/self/fd")) - 1,  # that of the listing itself
            threading.active_count(),
            sys.getallocatedblocks(),
            (resident - of_files) * page_mb,
        )


@dataclass
class SoakSource:
    """The same pictures again and again by a manual clock; each gets its verdict, as none of them is live."""

    images: list[UInt8Array]
    dark: UInt8Array
    frames: int
    every_s: float
    clock: ManualClock
    live = False

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        for seq in range(self.frames):
            self.clock.advance(self.every_s)
            stamps = seq, self.clock.monotonic(), self.clock.utc(), f"{seq:07d}"
            if seq % BLANK_EVERY == BLANK_EVERY - 1:
                yield Blank(*stamps, "the picture is truncated")
            else:
                dark = seq % DARK_EVERY >= DARK_EVERY - DARK_FOR
                yield Frame(self.dark if dark else self.images[seq % len(self.images)], *stamps)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Sampler:
    """A sink that takes a sample at the first tenth and then ten times more; put it last."""

    frames: int
    store: Store
    progress: Progress
    samples: list[Sample] = field(default_factory=list)
    done: int = 0

    def __post_init__(self) -> None:
        self._task = self.progress.add_task("parts", total=self.frames)
        first = max(1, self.frames // 10)
        self.progress.console.print(f"{self.frames} parts", highlight=False)  # and all that printing needs is there
        self._at = {first + (self.frames - first) * k // SAMPLES for k in range(SAMPLES + 1)}

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.done += 1
        if self.done % 1_000 == 0 and not self.progress.disable:  # which keeps each update for a while
            self.progress.update(self._task, completed=self.done)
        if self.done in self._at:
            self.store.flush(pictures=True)
            give_back()
            self.samples.append(sample := Sample.now(self.done))
            self.progress.console.print(str(sample), highlight=False)

    def close(self) -> None:
        """Nothing to close."""


def give_back() -> None:
    """Give what is free back to the system, where the C library can: a backlog's memory is not a leak's."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Trouble:
    """What is wrong with the engine at a part, counted over all its restarts."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock, self._calls = clock, 0

    def __call__(self) -> None:
        """Before a part is inferred."""
        self._calls += 1
        if self._calls % SLOW_EVERY == 0:
            self._clock.advance(2e-3 * BUDGET_MS)
        if self._calls % RAISES_EVERY == 0:
            raise BackendError("the soak's engine has raised")
        if self._calls % DIES_EVERY == 0:
            raise MemoryError("the soak's engine has died")


class TroubledEngine(FusedEngine):
    """The bundle's engine with the same trouble."""

    trouble: Trouble

    def infer(self, picture: UInt8Array) -> Any:
        """See `Engine`."""
        self.trouble()
        return super().infer(picture)


def soak(frames: int, fps: float, folder: Path, bundle_path: Path | None, progress: Progress) -> dict[str, Any]:
    """Run, and tell what was found; `problems` is empty where all holds."""
    clock = ManualClock()
    side = 128 if bundle_path is None else 320
    line = SyntheticLine(seed=1, size_hw=(side, side))
    images = [line.good(index).image for index in range(61)]
    if bundle_path is None:
        images = [np.asarray(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), np.uint8) for image in images]
    trouble = Trouble(clock)
    contract = InputContract(size_hw=(32, 32)) if bundle_path is None else open_bundle(bundle_path).contract

    def open_engine() -> Engine:
        if bundle_path is None:
            return HangingEngine(before=lambda call: trouble())
        engine = TroubledEngine(open_bundle(bundle_path).model_path, 1)
        engine.trouble = trouble
        return engine

    calibration = _calibration(images, contract, bundle_path)
    reference = reference_from_measures([measure(image) for image in images])
    gate = CameraGate("soak", reference, tell=lambda line: None)

    def inspector_of(engine: Engine) -> Inspector:
        return Inspector(
            engine, contract, calibration.limits, clock, normals=calibration.scores, gate=gate, place=calibration.place
        )

    station = {"run": "soak", "camera": "soak", "bundle": "b" * 64, "calibration": "c" * 64}
    keep = StoreConfig(
        keep_days=frames / fps / 86400 / 20, keep_verdicts=max(1, frames // 20), keep_pictures_mb=20, min_free_mb=0
    )
    told: Counter[str] = Counter()
    store = open_store(folder, RunIdentity(**station, engine="soak", limits=calibration.limits), keep, clock)
    lines = JsonLines(folder / "verdicts.jsonl", station)
    drift = DriftSink(calibration, DriftConfig(), station, folder, lambda line: told.update(drift=1))
    sampler = Sampler(frames, store, progress)
    source = SoakSource(images, spoiled(images[0], "dark") // 4, frames, 1 / fps, clock)
    started = time.monotonic()
    with DeadlineInspector(
        [open_engine], inspector_of, BUDGET_MS, patience=Patience(window_s=60), clock=clock
    ) as inspector:
        summary = run(source, inspector, [lines, store, drift, sampler])
        took_s = time.monotonic() - started
    account = store.ledger()
    seqs = [json.loads(line)["seq"] for line in (folder / "verdicts.jsonl").open(encoding="utf-8")]
    problems = missed(sampler.samples[0], sampler.samples[-1], account, seqs, frames)
    return {
        "engine": "HangingEngine" if bundle_path is None else f"{bundle_path.name}",
        "frames": frames,
        "line_hours": clock.monotonic() / 3600,
        "seconds": took_s,
        "verdicts_per_s": frames / took_s,
        "rss_growth": sampler.samples[-1].rss_mb / sampler.samples[0].rss_mb - 1,
        "own_growth": (sampler.samples[-1].own_mb - sampler.samples[0].own_mb) / sampler.samples[0].rss_mb,
        "samples": [[getattr(sample, name) for name in Sample.__slots__] for sample in sampler.samples],
        "verdicts": {outcome.value: account.verdicts.get(outcome, 0) for outcome in Outcome},
        "late_results": summary.late_results,
        "dropped_pictures": store.dropped_pictures,
        "drift_alarms": told["drift"],
        "ledger": str(account),
        "problems": problems,
    }


def missed(warm: Sample, last: Sample, account: Ledger, seqs: list[int], frames: int) -> list[str]:
    """The bars that do not hold: `account` and `seqs`, of the verdict lines, are to be those of so many frames."""
    growth = last.rss_mb / warm.rss_mb - 1
    own_growth = (last.own_mb - warm.own_mb) / warm.rss_mb
    bars = {
        f"memory grew by {growth:.1%}": growth < MOST_GROWTH,
        f"memory of its own grew by {own_growth:.1%} of {warm.rss_mb:.1f} MB": own_growth < MOST_GROWTH,
        f"descriptors: {warm.descriptors} at first, {last.descriptors} at last": warm.descriptors == last.descriptors,
        f"threads: {warm.threads} at first, {last.threads} at last": warm.threads == last.threads,
        f"the account: {account}": account.balanced and account.triggers == frames,
        "verdict lines are missing, doubled or out of order": seqs == list(range(frames)),
    }
    return [problem for problem, holds in bars.items() if not holds]


def _calibration(images: list[UInt8Array], contract: InputContract, bundle_path: Path | None) -> Calibration:
    """Limits and baseline from the pictures that come, so that a few of them fail."""
    with FusedEngine(open_bundle(bundle_path).model_path, 1) if bundle_path else HangingEngineOpened() as engine:
        pictures = [prepare(image, contract) for image in images]
        readings = [engine.infer(picture) for picture in pictures]
    scores = [reading.score for reading in readings]
    place = reference_from_picture(pictures[0])
    rows = [part_statistics(*each, place) for each in zip(pictures, readings, strict=True)]
    baseline = [row.as_json() for row in rows if row is not None]
    limit = sorted(scores)[int(LIMIT_OF_PASSES * len(scores))]
    promise = dict.fromkeys(("max_false_reject", "confidence", "achieved"), 0.05)
    return Calibration.model_validate(
        {
            **dict.fromkeys(("created_at", "created_by", "model_digest"), ""),
            "pictures": {},
            "limits": Limits(fail=limit),
            "scores": scores,
            "baseline": {name: [row[name] for row in baseline] for name in baseline[0]},
            "place": place,
            "promise": promise | {"n_good": len(scores), "n_above": 0, "n_needed": 59},
        }
    )


class HangingEngineOpened(HangingEngine):
    """The tiny engine as a context manager, as the real ones are."""

    def __enter__(self) -> HangingEngineOpened:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def main() -> int:
    """Soak and print: a line a sample and a summary (stderr), and with --json one object (stdout)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--fps", type=float, default=10.0, help="parts a second of line time")
    parser.add_argument("--bundle", type=Path, help="a bundle whose engine serves; default: a tiny engine double")
    parser.add_argument("--folder", type=Path, help="where to; default: a temporary folder")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    logging.getLogger("mapl_edge").addHandler(logging.NullHandler())  # each engine that dies is told, as is meant
    console = Console(stderr=True)
    with ExitStack() as at_end:
        folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
        if options.folder is None:
            at_end.callback(shutil.rmtree, folder, ignore_errors=True)
        progress = at_end.enter_context(Progress(console=console, disable=not sys.stderr.isatty()))
        found = soak(options.frames, options.fps, folder, options.bundle, progress)
    for line in (
        f"{found['engine']} on {platform.machine()}: {found['line_hours']:.1f} h of the line",
        f"{found['seconds']:.0f} s, {found['verdicts_per_s']:.0f}/s; memory {found['rss_growth']:+.2%} since warm, "
        f"its own {found['own_growth']:+.2%}",
        found["ledger"],
        f"{found['late_results']} results came late, {found['dropped_pictures']} pictures dropped, "
        f"{found['drift_alarms']} drift alarms",
    ):
        console.print(line, markup=False, highlight=False)
    for problem in found["problems"]:
        console.print(f"MISSED: {problem}", markup=False)
    if options.as_json:
        print(json.dumps(found))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
