"""Inspector: the product in three lines. prepare, infer, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mapl_edge.arrays import UInt8Array
from mapl_edge.aside import DoesAside, Errand
from mapl_edge.calibration import Limits
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine, Reading
from mapl_edge.errors import ContractMismatch, DataError, MaplEdgeError
from mapl_edge.frame import Frame
from mapl_edge.judge import Judge, Judgement
from mapl_edge.masks import InspectedArea
from mapl_edge.p_value import PValues
from mapl_edge.part_statistics import picture_statistics, statistics_of
from mapl_edge.place import PlaceReference
from mapl_edge.prepare import prepare
from mapl_edge.runtime.camera_gate import CameraGate
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.verdict import ErrorCode, Outcome, Policy, StageTimes, Verdict


@dataclass(frozen=True, slots=True)
class Inspection:
    """One shot, what the model said of it, and the verdict; `reading` and `judgement` are None without an answer."""

    verdict: Verdict
    shot: Shot
    reading: Reading | None
    judgement: Judgement | None = None


class Inspects(Protocol):
    """What the loop asks for verdicts: an `Inspector`, or a `DeadlineInspector` that does not wait for it for ever."""

    def inspect(self, shot: Shot) -> Inspection:
        """The one inspection of this shot."""
        ...

    def late_results(self) -> Sequence[Inspection]:
        """Inspections that came after the shot's verdict had gone out, each told once; they change nothing."""
        ...


class Inspector:
    """Turns shots into verdicts with one engine, one contract and one set of limits.

    `normals` give the p-values; `area` has the masks; `gate` stops pictures that are the camera's fault, and is shared
    by the inspectors of one camera; `place` is what drift's shift is measured from.
    """

    def __init__(
        self,
        engine: Engine,
        contract: InputContract,
        limits: Limits,
        clock: Clock | None = None,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        normals: Sequence[float] = (),
        gate: CameraGate | None = None,
        area: InspectedArea | None = None,
        place: PlaceReference | None = None,
    ) -> None:
        self._engine, self._contract, self._limits, self._policy = engine, contract, limits, policy
        self._judge = Judge(limits, contract, area)
        self._p_value, self._gate, self._place = PValues(normals), gate, place
        self._now = (clock or SystemClock()).monotonic

    def inspect(self, shot: Shot, aside: DoesAside | None = None) -> Inspection:
        """Judge one shot. Trouble with this one part is an ERROR verdict, never an exception.

        Where `aside` has a thread for it, the camera's health is looked at and the picture measured for drift beside
        the engine. A camera that was at fault in its last picture is looked at first, and so is any without `aside`:
        then a picture with a fault does not reach the engine.
        """
        started, gate = self._now(), self._gate
        if isinstance(shot, Blank):
            return self._error(shot, shot.problem, ErrorCode.PICTURE, started)
        if gate is None:
            return self._judged(shot, aside, started)
        look = Errand(partial(gate.fault, shot))
        inspection = None if aside is None or gate.at_fault else self._judged(shot, aside, started, look)
        fault = look.answer()
        if fault is not None:
            return self._error(shot, fault, ErrorCode.CAMERA_FAULT, started)
        return inspection or self._judged(shot, aside, started)

    def _judged(
        self, shot: Frame, aside: DoesAside | None, started: float, look: Errand[str | None] | None = None
    ) -> Inspection:
        """What the engine says of a picture; `look` is done meanwhile."""
        try:
            picture = prepare(shot.image, self._contract, aside)
            measured = (aside or Errand)(partial(picture_statistics, picture, self._place))
            if aside is not None and look is not None:
                aside(look.do)
            prepared = self._now()
            reading = self._engine.infer(picture)
            computed = self._now()
            judged = self._judge(reading, shot.image.shape[:2])
        except MaplEdgeError as exc:
            code = ErrorCode.PICTURE if isinstance(exc, DataError | ContractMismatch) else ErrorCode.ENGINE
            return self._error(shot, str(exc), code, started)
        if judged.outcome is Outcome.ERROR:
            problem = f"the engine {self._engine.name} gave a score of {judged.score}"
            return self._error(shot, problem, ErrorCode.ENGINE, started)
        statistics = statistics_of(measured.answer(), reading)
        times = StageTimes(
            queue=1e3 * (started - shot.t_mono),
            prepare=1e3 * (prepared - started),
            compute=1e3 * (computed - prepared),
            judge=1e3 * (self._now() - computed),
        )
        score, limit, policy = judged.score, self._limits.fail, self._policy
        p_value = self._p_value(score)
        what = score, limit, times, None, policy, p_value, None, statistics, judged.regions
        verdict = Verdict(judged.outcome, shot.seq, shot.name, shot.captured_at, *what)
        return Inspection(verdict, shot, reading, judged)

    def late_results(self) -> Sequence[Inspection]:
        """See `Inspects`; nothing is late without a deadline."""
        return ()

    def _error(self, shot: Shot, problem: str, code: ErrorCode, started: float) -> Inspection:
        return unjudged(shot, Outcome.ERROR, problem, started, self._now(), self._policy, code)


def unjudged(
    shot: Shot, outcome: Outcome, problem: str, started: float, ended: float, policy: Policy, code: ErrorCode
) -> Inspection:
    """A verdict without a score, LATE or ERROR; `started` and `ended` in seconds on the monotonic clock."""
    times = StageTimes(queue=1e3 * (started - shot.t_mono), judge=1e3 * (ended - started))
    verdict = Verdict(outcome, shot.seq, shot.name, shot.captured_at, None, None, times, problem, policy, code=code)
    return Inspection(verdict, shot, None)


def look(engine: Engine, contract: InputContract, image: UInt8Array) -> Reading:
    """prepare and infer one camera picture, for those who judge later (evaluate, calibrate)."""
    return engine.infer(prepare(image, contract))
