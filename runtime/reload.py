"""Reload: a bundle or calibration that is new on the disk is proved beside the running one, and then takes over.

Nothing of it happens on the frame path but the swap itself (`swap`). What fails its proof changes nothing.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from mapl_edge.bundle import CALIBRATION, MANIFEST, SEAL, SIGNATURE
from mapl_edge.calibration import Limits
from mapl_edge.engine import Engine
from mapl_edge.errors import BackendError, MaplEdgeError
from mapl_edge.files import sha256_of
from mapl_edge.frame import Frame
from mapl_edge.runtime.engine_choice import Tell
from mapl_edge.runtime.inspector import look as look_at
from mapl_edge.runtime.loaded import Loaded, reloaded_bundle
from mapl_edge.runtime.swap import Judging, SwapInspector
from mapl_edge.runtime.watchdog import Watchdog

logger = logging.getLogger(__name__)
LOOK_S = 1.0  # time between looks at the disk
CLOSE_S = 5.0  # how long a proof may go on when the run ends
WATCHED = (MANIFEST, SEAL, SIGNATURE, CALIBRATION)
SHOWN = 12  # digits of a digest

Seen = frozenset[tuple[str, int, int, int]]
AtWork: TypeAlias = Engine | Watchdog
"""What inspectors ask; closing it twice is harmless."""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One camera that the bundle judges for.

    Attributes:
        judging_of: makes what its shots are judged with; raises MaplEdgeError where that does not fit the camera.
    """

    inspector: SwapInspector
    judging_of: Callable[[Loaded, AtWork], Judging]


class Reload:
    """Keeps one bundle of a station as it lies on the disk. A context manager, with a thread of its own.

    What changed is read once it has been quiet between two looks. All cameras change, each between two frames of its
    own, or none does. An engine is closed when no camera uses it any more.

    Args:
        running: what is in force, and `engine` at work for it.
        lanes: the cameras that it judges for.
        put_to_work: opens the engine of another bundle.
        tell: gets one line for each change, and for each reason why there is none.
        watch: look at the disk by itself; False: only when it is asked to.
    """

    def __init__(
        self,
        running: Loaded,
        engine: AtWork,
        lanes: Sequence[Lane],
        put_to_work: Callable[[Loaded], AtWork],
        tell: Tell,
        *,
        watch: bool = True,
    ) -> None:
        self._running, self._engines, self._lanes = running, [engine], lanes
        self._put_to_work, self._tell, self._watch = put_to_work, tell, watch
        self._before: Seen | None = None  # at the last look
        self._tried: Seen | None = None
        self._problem = ""
        self._asked, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="reload", daemon=True)

    @property
    def running(self) -> Loaded:
        """What was handed over last."""
        return self._running

    def ask(self) -> None:
        """Look at once, and say what was found, even if it is nothing; also from a signal's handler."""
        self._asked.set()

    def look(self, *, asked: bool = False) -> None:
        """Look once, as the thread does; where it is not `asked`, a change is taken up at the second look at it."""
        self._close_unused()
        if not (asked or self._watch):
            return
        seen = _seen(self._running.bundle.path, everything=bool(self._problem))
        before, self._before = self._before, seen
        if not asked and (seen != before or seen == self._tried):
            return
        self._tried = seen
        try:
            if self._is_as_it_runs():
                self._problem = ""
                if asked:
                    self._tell(f"{self._running.bundle.path}: nothing has changed")
                return
            self._change()
        except MaplEdgeError as exc:
            self._refuse(str(exc), asked)
        except Exception as exc:  # whatever it is, what runs goes on
            logger.exception("%s: cannot be taken over", self._running.bundle.path)
            self._refuse(f"{type(exc).__name__}: {exc}", asked)

    def close(self) -> None:
        """End the thread and every engine; the run has ended. Calling it twice is harmless."""
        self._closing = True
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        for engine in list(self._engines):
            engine.close()

    def __enter__(self) -> Reload:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        while not self._closing:
            asked = self._asked.wait(LOOK_S)
            self._asked.clear()
            if not self._closing:
                self.look(asked=asked)

    def _is_as_it_runs(self) -> bool:
        bundle, digests = self._running.bundle, self._running.digests
        manifest, calibration = bundle.path / MANIFEST, bundle.calibration_path
        if not (manifest.is_file() and calibration.is_file()):
            return False
        try:
            return {"bundle": sha256_of(manifest), "calibration": sha256_of(calibration)} == digests
        except OSError:
            return False  # opening it says why

    def _change(self) -> None:
        before = self._running
        after = reloaded_bundle(before)
        new = after.engine is not before.engine
        engine: AtWork = after.engine if new else self._engines[-1]
        try:
            if new:
                self._judge_the_last_shots(after)
                engine = self._put_to_work(after)
            ways = [lane.judging_of(after, engine) for lane in self._lanes]
            for lane, way in zip(self._lanes, ways, strict=True):
                shot = lane.inspector.last
                if way.area is not None and isinstance(shot, Frame):
                    way.area.check(shot.image.shape[:2])
        except BaseException:
            if new:
                engine.close()
            raise
        if new:
            self._engines.append(engine)
        if self._closing:
            return
        for lane, way in zip(self._lanes, ways, strict=True):
            lane.inspector.swap(way)
        self._running, self._problem, self._tried = after, "", None
        self._tell(f"{after.bundle.path}: from the next frame on {_difference(before, after)}")
        if note := after.calibration.note_on(after.proof.engine):
            self._tell(note)

    def _judge_the_last_shots(self, after: Loaded) -> None:
        """Every camera's pictures must suit it; and an engine's first picture takes longer than the others."""
        for lane in self._lanes:
            shot = lane.inspector.last
            if not isinstance(shot, Frame):
                continue
            score = look_at(after.engine, after.bundle.contract, shot.image).score
            if not math.isfinite(score):
                raise BackendError(f"the engine {after.engine.name} gave the newest picture a score of {score}")

    def _refuse(self, problem: str, asked: bool) -> None:
        if asked or problem != self._problem:
            self._tell(f"not taken over, what runs goes on: {problem}")
        self._problem = problem

    def _close_unused(self) -> None:
        for engine in self._engines[:-1]:
            if not any(lane.inspector.uses(engine) for lane in self._lanes):
                engine.close()
                self._engines.remove(engine)
                _give_memory_back()


def _give_memory_back() -> None:
    """The C library keeps what was freed, tens of MB of an engine, unless it is told not to; where it is glibc."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _seen(path: Path, *, everything: bool) -> Seen:
    """What the disk says of the files that a change is seen by: name, time, size and which file it is.

    After a failure it is all of them: the one that was missing or half-written may be any.
    """
    inside = ([Path(folder, name) for name in names] for folder, _, names in os.walk(path))  # which may go meanwhile
    seen = set()
    for file in chain.from_iterable(inside) if everything else [path / name for name in WATCHED]:
        with suppress(OSError):
            found = file.stat()
            seen.add((str(file), found.st_mtime_ns, found.st_size, found.st_ino))
    return frozenset(seen)


def _difference(before: Loaded, after: Loaded) -> str:
    """What is another, in one line."""
    told = [
        f"{name} {before.digests[name][:SHOWN]} → {digest[:SHOWN]}"
        for name, digest in after.digests.items()
        if digest != before.digests[name]
    ]
    told.append(f"limits {_limits(before.calibration.limits)} → {_limits(after.calibration.limits)}")
    if after.engine is not before.engine:
        told.append(f"{after.engine.name}, {after.proof.ms:.1f} ms a frame")
    return "; ".join(told)


def _limits(limits: Limits) -> str:
    told = f"fail {limits.fail:.6g}"
    told += "" if limits.review is None else f", review {limits.review:.6g}"
    return told + ("" if limits.pixel is None else f", pixel {limits.pixel.limit:.6g}")
