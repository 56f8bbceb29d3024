"""Verdict: the answer for one frame, as it leaves the station."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mapl_edge.regions import Region

from mapl_edge.part_statistics import PartStatistics


class Outcome(str, Enum):
    """What the gate is told. LATE and ERROR are verdicts too: every trigger gets exactly one."""

    PASS = "PASS"
    REVIEW = "REVIEW"
    FAIL = "FAIL"
    LATE = "LATE"
    ERROR = "ERROR"


class ErrorCode(str, Enum):
    """Why a part was not judged, for machines; `Verdict.error` says it to people."""

    CAMERA_FAULT = "CAMERA_FAULT"
    """The picture cannot be trusted: the camera, its light or its place has changed."""
    PICTURE = "PICTURE"
    """There is no picture, or none that fits the model."""
    ENGINE = "ENGINE"
    """The engine failed."""
    DEADLINE = "DEADLINE"
    """No answer came in time."""


class Action(str, Enum):
    """What the reject gate does with the part."""

    PASS = "pass"
    REVIEW = "review"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the gate does with a part that nobody judged.

    Attributes:
        on_late: no answer came before the deadline.
        on_error: no answer can come.
    """

    on_late: Action = Action.FAIL
    on_error: Action = Action.FAIL


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where one frame's time went, in milliseconds on the monotonic clock.

    Attributes:
        queue: from capture until the inspector took the frame.
        prepare: crop and resize.
        compute: the engine's call.
        judge: thresholds.
    """

    queue: float = 0.0
    prepare: float = 0.0
    compute: float = 0.0
    judge: float = 0.0

    @property
    def total(self) -> float:
        """Capture to verdict, in milliseconds."""
        return self.queue + self.prepare + self.compute + self.judge


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one frame.

    Attributes:
        outcome: PASS, REVIEW, FAIL, LATE or ERROR.
        seq, name, captured_at: of the frame that was judged.
        score: raw anomaly score; None when there is none (LATE, ERROR).
        threshold: the score above which a part fails; None when there is none (LATE, ERROR).
        stage_ms: stage times.
        error: why there is no score, one line; None otherwise.
        p_value: of the score among the calibration's good parts (`mapl_edge.p_value`); None where there is none.
        policy: what LATE and ERROR mean to the gate.
        code: the kind of `error`; None where there is none.
        statistics: of picture and reading, for drift; None where there is no score.
        regions: where the part is wrong, where there is a pixel limit (`mapl_edge.regions`).
        judged_by: digests of bundle and calibration; empty where they are the same for the whole run.
    """

    outcome: Outcome
    seq: int
    name: str
    captured_at: datetime
    score: float | None
    threshold: float | None
    stage_ms: StageTimes = StageTimes()
    error: str | None = None
    policy: Policy = Policy()
    p_value: float | None = None
    code: ErrorCode | None = None
    statistics: PartStatistics | None = None
    regions: tuple[Region, ...] = ()
    judged_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def action(self) -> Action:
        """What the gate does: what the outcome says, or the policy where the part was not judged."""
        if self.outcome is Outcome.LATE:
            return self.policy.on_late
        if self.outcome is Outcome.ERROR:
            return self.policy.on_error
        return Action(self.outcome.value.lower())

    def json_line(self, **station: str) -> str:
        """One JSON object without line end; `station` adds what all verdicts of a run share (run, camera, digests)."""
        t = self.stage_ms
        line = json.dumps(
            {
                "seq": self.seq,
                "picture": self.name,
                "captured_at": utc_text(self.captured_at),
                "verdict": self.outcome.value,
                "action": self.action.value,
                "score": self.score,
                "p_value": self.p_value,
                "threshold": self.threshold,
                "latency_ms": round(t.total, 3),
                "stage_ms": {
                    "queue": round(t.queue, 3),
                    "prepare": round(t.prepare, 3),
                    "compute": round(t.compute, 3),
                    "judge": round(t.judge, 3),
                },
                "error": self.error,
                "code": None if self.code is None else self.code.value,
                "statistics": None if self.statistics is None else self.statistics.as_json(),
                "regions": [region.as_json() for region in self.regions],
                **station,
                **self.judged_by,
            },
            ensure_ascii=False,
        )
        # A file name that is not UTF-8 holds lone surrogates; written as escapes they are JSON again.
        return line.encode("utf-8", "backslashreplace").decode()


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a Z: 2026-11-22T03:04:05.678Z."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
