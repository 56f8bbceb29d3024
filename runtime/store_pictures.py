"""Pictures beside the store's database, written by a thread of their own; what does not fit is dropped and counted.

    pictures/RUN/000000017.png       the camera's picture, lossless, so that scoring it again gives the same score
    pictures/RUN/000000017.map.jpg   its heat map; green at the fail limit, red at twice the limit;
                                     regions are outlined, ignored places dark

RUN is the run's row in the database. A file is whole or absent.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.judge import Judgement
from mapl_edge.overlay import marked
from mapl_edge.runtime.background import Background

PICTURES = "pictures"
PICTURE, MAP = ".png", ".map.jpg"


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
        put, drained, close: see `Background`.
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
        self._min_free_bytes = min_free_bytes
        self._background = Background(
            self._write, f"{folder}: pictures", queue_bytes, lambda picture: picture.image.nbytes
        )
        self.put, self.drained, self.close = self._background.put, self._background.drained, self._background.close

    @property
    def dropped(self) -> int:
        """Pictures that were given up, because of a full queue or disk."""
        return self._background.dropped

    def _write(self, picture: StoredPicture) -> None:
        place = _place(self._folder, self._run_id, picture.seq)
        folder = os.path.dirname(place)
        os.makedirs(folder, exist_ok=True)
        if shutil.disk_usage(folder).free < self._min_free_bytes:
            raise OSError(errno.ENOSPC, "the disk is nearly full (store.min_free_mb)")
        files = {place + PICTURE: _encoded(picture.image, PICTURE, [cv2.IMWRITE_PNG_COMPRESSION, 1])}
        if picture.map is not None:
            colours = marked(heat_map(picture.map, picture.limit), picture.judgement)
            files[place + MAP] = _encoded(colours, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
        partial = [path + ".partial" for path in files]
        try:
            for path, content in zip(partial, files.values(), strict=True):
                with open(path, "wb") as file:
                    file.write(content)
            for path, final in zip(partial, files, strict=True):
                os.replace(path, final)
        except OSError:
            for path in (*partial, *files):
                with suppress(OSError):  # the first error tells
                    os.unlink(path)
            raise
        self._written(picture.seq, sum(map(len, files.values())), picture.map is not None)


def picture_path(folder: Path, run_id: int, seq: int) -> Path:
    """Where the picture of a shot lies, if it is kept."""
    return Path(_place(folder, run_id, seq) + PICTURE)


def map_path(picture: Path) -> Path:
    """Where its heat map lies."""
    return picture.with_suffix(MAP)


def remove_picture(folder: Path, run_id: int, seq: int) -> None:
    """Delete a picture and its map, if they are there.

    Raises:
        OSError: the disk does not give them up.
    """
    place = _place(folder, run_id, seq)
    for suffix in (PICTURE, MAP):
        with suppress(FileNotFoundError):
            os.unlink(place + suffix)


def _place(folder: Path, run_id: int, seq: int) -> str:
    """Of a picture and its map, without what the name ends in.

    Text and no `Path`: that keeps each name in the interpreter's table of interned strings, which holes in it let grow
    to megabytes and be copied again and again.
    """
    return f"{folder}/{PICTURES}/{run_id}/{seq:09d}"


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
