"""Pictures beside the store's database, written by a thread of their own; what does not fit is dropped and counted.

    pictures/RUN/000000017.png       the camera's picture, lossless, so that scoring it again gives the same score
    pictures/RUN/000000017.map.jpg   its heat map; green at the fail limit, red at twice the limit;
                                     regions are outlined, ignored places dark

RUN is the run's row in the database. A file is whole or absent.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.judge import Judgement
from mapl_edge.overlay import marked

logger = logging.getLogger(__name__)

PICTURES = "pictures"
WAIT_S = 1.0  # longest wait for work; the thread is woken when there is some


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """One picture on its way to the disk.

    Attributes:
        image: as the camera gave it, uint8 (H, W, 3), BGR.
        map: anomaly map, float32 (H', W') of the prepared picture, or None.
        limit: the score above which a part fails; the middle of the map's colours.
        judgement: its regions and masks are drawn on the map.
    """

    seq: int
    image: UInt8Array
    map: FloatArray | None
    limit: float
    judgement: Judgement | None = None


class PictureWriter:
    """Writes pictures off the frame path.

    Args:
        folder: of the store.
        run_id: the run's row.
        queue_bytes: of pixels that may wait; one picture always may.
        min_free_bytes: of disk that are left to the verdicts.
        written: told (seq, bytes on disk, whether there is a map) from the writing thread.

    Attributes:
        dropped: pictures that were given up, because of a full queue or disk.
    """

    def __init__(
        self,
        folder: Path,
        run_id: int,
        queue_bytes: int,
        min_free_bytes: int,
        written: Callable[[int, int, bool], None],
    ) -> None:
        self._folder, self._run_id, self._written = folder, run_id, written
        self._queue_bytes, self._min_free_bytes = queue_bytes, min_free_bytes
        self._waiting: deque[StoredPicture] = deque()
        self._bytes = 0
        self._busy = self._closing = False
        self._told: set[str] = set()
        self._changed = threading.Condition()
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="store-pictures", daemon=True)
        self._thread.start()

    def put(self, picture: StoredPicture) -> None:
        """Queue one; dropped where the queue is full."""
        with self._changed:
            if self._waiting and self._bytes + picture.image.nbytes > self._queue_bytes:
                self._drop("they come faster than the disk takes them")
                return
            self._waiting.append(picture)
            self._bytes += picture.image.nbytes
            self._changed.notify_all()

    def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is queued or being written; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what is queued for as long as `timeout_s`, then give the rest up."""
        if not self.drained(timeout_s):
            with self._changed:
                self.dropped += len(self._waiting)
                self._waiting.clear()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self.dropped:
            logger.warning("%s: %d pictures were dropped in all", self._folder, self.dropped)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting and not self._closing:
                    self._changed.wait(WAIT_S)
                if not self._waiting:
                    return
                picture = self._waiting.popleft()
                self._bytes -= picture.image.nbytes
                self._busy = True
            try:
                self._write(picture)
            except Exception as exc:  # whatever it is, the next picture may do
                with self._changed:
                    self._drop(getattr(exc, "strerror", None) or str(exc))

    def _drop(self, why: str) -> None:
        """Count one; each reason is told once."""
        self.dropped += 1
        if why not in self._told:
            self._told.add(why)
            logger.warning("%s: pictures are dropped: %s; verdicts go on", self._folder, why)

    def _write(self, picture: StoredPicture) -> None:
        place = picture_path(self._folder, self._run_id, picture.seq)
        place.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(place.parent).free < self._min_free_bytes:
            raise OSError(errno.ENOSPC, "the disk is nearly full (store.min_free_mb)")
        files = {place: _encoded(picture.image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])}
        if picture.map is not None:
            colours = marked(heat_map(picture.map, picture.limit), picture.judgement)
            files[map_path(place)] = _encoded(colours, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
        partial = [path.with_name(path.name + ".partial") for path in files]
        try:
            for path, content in zip(partial, files.values(), strict=True):
                path.write_bytes(content)
            for path, final in zip(partial, files, strict=True):
                os.replace(path, final)
        except OSError:
            for path in (*partial, *files):
                path.unlink(missing_ok=True)
            raise
        self._written(picture.seq, sum(map(len, files.values())), picture.map is not None)


def picture_path(folder: Path, run_id: int, seq: int) -> Path:
    """Where the picture of a shot lies, if it is kept."""
    return folder / PICTURES / str(run_id) / f"{seq:09d}.png"


def map_path(picture: Path) -> Path:
    """Where its heat map lies."""
    return picture.with_suffix(".map.jpg")


def remove_picture(folder: Path, run_id: int, seq: int) -> None:
    """Delete a picture and its map, if they are there."""
    place = picture_path(folder, run_id, seq)
    for path in (place, map_path(place)):
        path.unlink(missing_ok=True)


def heat_map(values: FloatArray, limit: float) -> UInt8Array:
    """Anomaly map, float32 (H, W) → uint8 (H, W, 3), BGR: blue at 0, red at twice the limit."""
    top = 2 * limit if limit > 0 else max(float(values.max()), 1e-12)
    grey: AnyArray = (np.clip(np.nan_to_num(values) / top, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_JET), dtype=np.uint8)


def _encoded(pixels: UInt8Array, suffix: str, settings: list[int]) -> bytes:
    ok, data = cv2.imencode(suffix, pixels, settings)
    if not ok:
        raise OSError(errno.EIO, f"OpenCV cannot encode {suffix}")
    return bytes(data)
