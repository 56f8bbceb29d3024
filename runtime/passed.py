"""Passed parts of the past, oldest first: from a store, or from a file of verdicts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapl_edge.drift_history import Passed
from mapl_edge.errors import DataError
from mapl_edge.part_statistics import STATISTICS, values_of
from mapl_edge.runtime.history import Wanted, open_history
from mapl_edge.runtime.store_database import DATABASE
from mapl_edge.verdict import Outcome, utc_text


def passed_parts(path: Path, camera: str | None = None, last: int | None = None) -> Iterator[Passed]:
    """Read a store's folder, or a file that `run --out` wrote; with `last`, only so many of the newest.

    Raises:
        DataError: it is neither, a line is no verdict, or a file has passed parts of other cameras alone.
    """
    if path.is_dir():
        with open_history(path) as history:
            for entry in history.entries(Wanted(last, Outcome.PASS, camera=camera)):
                if entry.score is not None:
                    values = values_of(entry.score, entry.statistics)
                    when = utc_text(entry.captured_at)
                    yield Passed(entry.camera, entry.calibration, entry.run, entry.seq, when, values)
        return
    try:
        with path.open(encoding="utf-8") as file:
            found = (_from_line(line, f"{path} line {n}") for n, line in enumerate(file, 1) if line.strip())
            passed = [part for part in found if part is not None]
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise DataError(
            f"{path}: cannot be read ({reason}); expected a store ({DATABASE}), or verdicts of run"
        ) from exc
    wanted = [part for part in passed if camera in (None, part.camera)]
    if passed and not wanted:
        known = ", ".join(repr(name) for name in dict.fromkeys(part.camera for part in passed))
        raise DataError(f"{path}: no part of camera {camera!r} passed, only of {known}; name one of them")
    yield from wanted if last is None else wanted[-last:]


def _from_line(line: str, where: str) -> Passed | None:
    try:
        found: dict[str, Any] = json.loads(line)
        if Outcome(found["verdict"]) is not Outcome.PASS:
            return None
        numbers = found.get("statistics")
        if numbers is not None:
            numbers = {name: float(numbers[name]) for name in STATISTICS if numbers.get(name) is not None}
        camera, calibration, run = (sys.intern(str(found.get(key, ""))) for key in ("camera", "calibration", "run"))
        values = values_of(float(found["score"]), numbers)
        return Passed(camera, calibration, run, int(found["seq"]), str(found["captured_at"]), values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DataError(f"{where}: is no verdict of mapl-edge run ({exc}); expected JSON lines") from exc
