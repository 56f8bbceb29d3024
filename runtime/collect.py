"""Collect: pictures from a camera into a data set that training takes, without loss and without overwriting."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.camera_health import Check, Measures, fault_in, frozen, measure, reference_from_measures
from mapl_edge.dataset import GOOD, picture_paths
from mapl_edge.errors import DataError, OptionError, OutputError, PictureError
from mapl_edge.files import files_errors, new_file
from mapl_edge.frame import Frame
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime.loop import RunSummary, shots_of
from mapl_edge.runtime.sources import Blank, Source

logger = logging.getLogger(__name__)
FIRST = 10  # pictures that the next ones are compared with
DARK = 8  # grey level that a black picture does not exceed
SATURATED = 0.5  # share of pixels in an over-exposed picture
SHARP = 4.0  # percent; a picture with nothing sharp in it is below; real ones in focus have over 10
COMPARED = (Check.SIZE, Check.LIGHT, Check.SHARPNESS, Check.COLOUR)
LABEL = re.compile(r"\w[\w. -]*")


@dataclass
class Collected:
    """What came of it.

    Attributes:
        folder: where the pictures are.
        saved: pictures written.
        alike: not written, since they differ too little from the last one that was.
        unreadable: shots without a picture.
        troubles: written, but with a warning: how many of each kind.
        ended: whether the source ended, or somebody stopped it, before there were enough.
    """

    folder: Path
    saved: int = 0
    alike: int = 0
    unreadable: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    ended: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "saved": self.saved,
            "alike": self.alike,
            "unreadable": self.unreadable,
            "troubles": dict(self.troubles),
            "ended": self.ended,
        }


def label_folder(data: Path, label: str = GOOD, split: str = "train") -> Path:
    """Where pictures with this label go: `data/train/<label>`.

    Raises:
        OptionError: the label is no plain name.
        DataError: `data` holds pictures in another layout, which would be lost to training beside a `train` folder.
    """
    if not LABEL.fullmatch(label):
        raise OptionError(f"label {label!r}: expected a plain name such as good or scratch; it becomes a folder")
    if data.is_dir() and not (data / "train").is_dir() and not (data / "test").is_dir():
        for other in (data, data / GOOD):
            if other.is_dir() and picture_paths(other):
                raise DataError(
                    f"{other} holds pictures, which training would not see beside {data / 'train'}; "
                    f"move them to {data / 'train' / GOOD}, or name another --out"
                )
    return data / split / label


def collect(
    source: Source,
    folder: Path,
    count: int,
    *,
    every_s: float = 0.0,
    min_change: float = 0.0,
    stop: threading.Event | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    tell: Callable[[str], None] = logger.warning,
) -> Collected:
    """Write `count` pictures of a source as PNG files with names of their own; an existing set is continued.

    Args:
        source: closed on return.
        folder: made if it is missing; see `label_folder`.
        every_s: seconds from one picture of a live source to the next.
        min_change: mean difference in grey levels to the last picture written, below which one is left out.
        stop: set it from anywhere; what is written stays.
        tell: gets a line at the first of each kind of trouble.

    Raises:
        CameraError: the source failed.
        OutputError: the disk refuses; what was written stays.
    """
    stop = stop or threading.Event()
    done = Collected(folder)
    doubts = _Doubts(folder, done.troubles, tell)
    run, last = uuid.uuid4().hex[:6], None
    with ExitStack() as at_end:
        shots = shots_of(source, stop, RunSummary())
        at_end.callback(shots.close)
        at_end.callback(source.close)  # first: it wakes a thread that waits for a camera
        while done.saved < count:
            shot = next(shots, None)
            if shot is None:
                done.ended = True
                break
            if isinstance(shot, Blank):
                done.unreadable += 1
                continue
            found = measure(shot.image)
            if last is not None and change(last, found) < min_change:
                done.alike += 1
                continue
            name = f"{shot.captured_at:%Y%m%dT%H%M%S}{shot.captured_at.microsecond // 1000:03d}-{run}-{done.saved:06d}"
            _write(folder / f"{name}.png", shot.image, done.saved)
            doubts.look(shot, found, last)
            last = found
            done.saved += 1
            progress("pictures", done.saved, count)
            if source.live and done.saved < count:
                stop.wait(every_s)
    return done


def change(before: Measures, found: Measures) -> float:
    """Mean difference of two pictures in grey levels; infinite where they differ in size."""
    if before.samples.shape != found.samples.shape:
        return float("inf")
    return float(cv2.absdiff(before.samples, found.samples).mean())


def _write(out: Path, image: UInt8Array, saved: int) -> None:
    ok, png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])  # 1: fast; the camera does not wait
    assert ok
    try:
        with files_errors(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
        with new_file(out) as work:
            work.write_bytes(png.tobytes())
    except OutputError as exc:
        raise OutputError(f"{exc}; {saved} pictures before it are kept") from exc


class _Doubts:
    """Counts pictures that nobody should train on, and tells of the first of each kind."""

    def __init__(self, folder: Path, troubles: Counter[str], tell: Callable[[str], None]) -> None:
        self._troubles, self._tell = troubles, tell
        self._first = _measured(folder)
        self._reference = reference_from_measures(self._first) if len(self._first) == FIRST else None

    def look(self, shot: Frame, found: Measures, last: Measures | None) -> None:
        """Look at one picture; `last` is the one before it."""
        for kind, words in self._found(found, last):
            self._troubles[kind] += 1
            if self._troubles[kind] == 1:
                self._tell(f"warning: picture {shot.name or shot.seq} {words}")
        if self._reference is None:
            self._first.append(found)
            if len(self._first) == FIRST:
                self._reference = reference_from_measures(self._first)

    def _found(self, found: Measures, last: Measures | None) -> list[tuple[str, str]]:
        doubts = []
        mean, *_, bright = found.light
        if bright <= DARK:
            doubts.append(("black", f"is black: mean grey level {mean:.1f}; check light and lens cap"))
        elif found.saturated > SATURATED:
            doubts.append(("over-exposed", f"has {found.saturated:.0%} of its pixels saturated; check the exposure"))
        elif max(found.sharpness) < SHARP:
            sharp = max(found.sharpness)
            doubts.append(("blurred", f"has nothing sharp in it: sharpness {sharp:.1f}; check the focus"))
        elif self._reference is not None and (fault := fault_in(found, self._reference, COMPARED)):
            words = fault.replace("calibration's", f"the first {FIRST} pictures'")
            doubts.append(("changed", f"is unlike those before it, the camera {words}"))
        if last is not None and frozen(last, found):
            doubts.append(("identical", "is the same as the one before it; is the camera frozen, or the line still?"))
        return doubts


def _measured(folder: Path) -> list[Measures]:
    """The first pictures of a set that is continued."""
    found: list[Measures] = []
    for path in picture_paths(folder)[:FIRST] if folder.is_dir() else ():
        try:
            found.append(measure(np.asarray(picture_from_file(path), np.uint8)))
        except PictureError:
            continue
    return found
