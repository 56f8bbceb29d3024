"""Drift sink: follows the verdicts as they leave, and tells drift once. It changes no verdict and comes after them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mapl_edge.calibration import Calibration
from mapl_edge.config import DriftConfig
from mapl_edge.drift import Drift
from mapl_edge.errors import DataError, OutputError
from mapl_edge.files import files_errors
from mapl_edge.part_statistics import values_of
from mapl_edge.runtime.background import Background
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.passed import passed_parts
from mapl_edge.runtime.store_database import DATABASE
from mapl_edge.verdict import Outcome, Verdict, utc_text

logger = logging.getLogger(__name__)

RESUMED = 3_000  # newest passed parts of the store that a start goes over: about 0.3 s
EVENTS = "drift.jsonl"
MOST_PARTS = 10_000  # that may wait for a disk that takes an alarm slowly
CLOSE_S = 5.0  # how long the last ones may take


class DriftSink:
    """The charts of one camera.

    A start goes over the newest passed parts of the same camera and calibration in the store, so the charts go on;
    without a store they begin at the calibration's baseline. What was told before is not told again. A thread follows
    the parts, so that no verdict waits for the charts of the part before.

    Attributes:
        drift: the charts; at their newest once the sink is closed.
        events: file of alarms; None: there is none.
    """

    def __init__(
        self,
        calibration: Calibration,
        config: DriftConfig,
        station: Mapping[str, str],
        store: Path | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin.

        Args:
            calibration: in force.
            config: how; `follow` has been asked already.
            station: what all events share: run, camera, digests.
            store: folder of the station's store.
            tell: takes one line for people; it names the camera.
        """
        self.drift = Drift(calibration, config.parts_per_false_alarm, config.quiet_parts)
        self.events = config.events or (store / EVENTS if store is not None else None)
        self._station, self._tell_people, self._silent = dict(station), tell, False
        self._parts: Background[tuple[Drift, Mapping[str, str], Verdict]] | None = None
        if store is not None and (store / DATABASE).is_file():
            self._resume(store)
        if not self.drift.n_baseline:
            self._tell("drift: no baseline in calibration.yaml; charts start from the station's parts, calibrate again")
        elif calibration.place is None:
            self._tell("drift: no reference of the place in calibration.yaml, so no shift_x, shift_y; calibrate again")

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        verdict = inspection.verdict
        if verdict.outcome is not Outcome.PASS or verdict.score is None:
            return
        if self._parts is None:
            self._parts = Background(self._follow, f"camera {self._station.get('camera')}: parts for drift", MOST_PARTS)
        self._parts.put((self.drift, self._station, verdict))

    def change(self, after: DriftSink) -> None:
        """Go on with the charts of another calibration, between two parts."""
        self.drift, self._station = after.drift, after._station

    def close(self) -> None:
        """See `Sink`."""
        if self._parts is not None:
            self._parts.close(CLOSE_S)

    def _follow(self, part: tuple[Drift, Mapping[str, str], Verdict]) -> None:
        """In a thread of its own; by the charts that were in force when the part passed."""
        drift, station, verdict = part
        assert verdict.score is not None
        try:
            alarms = drift.add(values_of(verdict.score, verdict.statistics)).alarms
        except DataError as exc:
            self._complain(f"part {verdict.seq} is not followed: {exc}")
            return
        for alarm in alarms:
            stamp = {"seq": verdict.seq, "captured_at": utc_text(verdict.captured_at)}
            self._tell_alarm(str(alarm), {**alarm.as_json(), **stamp, **station})

    def _tell_alarm(self, line: str, event: dict[str, object]) -> None:
        """An alarm is no verdict: where the disk refuses it, the station goes on."""
        self._tell(line)
        if self.events is None:
            return
        try:
            with files_errors(self.events):
                self.events.parent.mkdir(parents=True, exist_ok=True)
                with self.events.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(event, ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        except OutputError as exc:
            self._complain(str(exc))

    def _resume(self, store: Path) -> None:
        for part in passed_parts(store, self._station["camera"], RESUMED):
            if part.calibration == self._station["calibration"]:
                try:
                    self.drift.add(part.values)
                except DataError as exc:
                    self._complain(f"part {part.seq} of run {part.run} is not followed: {exc}")

    def _tell(self, line: str) -> None:
        self._tell_people(f"camera {self._station['camera']!r}: {line}")

    def _complain(self, problem: str) -> None:
        """Once a run."""
        if not self._silent:
            logger.warning("drift of camera %r: %s", self._station["camera"], problem)
        self._silent = True
