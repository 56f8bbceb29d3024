"""Inspector: the product in three lines. prepare, infer, judge."""

from __future__ import annotations

from dataclasses import dataclass

from mapl_edge.arrays import UInt8Array
from mapl_edge.calibration import Limits
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine, Reading
from mapl_edge.errors import MaplEdgeError
from mapl_edge.judge import judge
from mapl_edge.prepare import prepare
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.verdict import Outcome, StageTimes, Verdict


@dataclass(frozen=True, slots=True)
class Inspection:
    """One shot, what the model said of it, and the verdict. `reading` is None where there is nothing to read."""

    verdict: Verdict
    shot: Shot
    reading: Reading | None


class Inspector:
    """Turns shots into verdicts with one engine, one contract and one set of limits."""

    def __init__(self, engine: Engine, contract: InputContract, limits: Limits, clock: Clock | None = None) -> None:
        self._engine, self._contract, self._limits = engine, contract, limits
        self._now = (clock or SystemClock()).monotonic

    def inspect(self, shot: Shot) -> Inspection:
        """Judge one shot. Trouble with this one part is an ERROR verdict, never an exception."""
        started = self._now()
        if isinstance(shot, Blank):
            return self._error(shot, shot.problem, started)
        try:
            picture = prepare(shot.image, self._contract)
            prepared = self._now()
            reading = self._engine.infer(picture)
            computed = self._now()
            outcome = judge(reading, self._limits)
        except MaplEdgeError as exc:
            return self._error(shot, str(exc), started)
        if outcome is Outcome.ERROR:
            return self._error(shot, f"the engine {self._engine.name} gave a score of {reading.score}", started)
        times = StageTimes(
            queue=1e3 * (started - shot.t_mono),
            prepare=1e3 * (prepared - started),
            compute=1e3 * (computed - prepared),
            judge=1e3 * (self._now() - computed),
        )
        verdict = Verdict(outcome, shot.seq, shot.name, shot.captured_at, reading.score, self._limits.fail, times, None)
        return Inspection(verdict, shot, reading)

    def _error(self, shot: Shot, problem: str, started: float) -> Inspection:
        times = StageTimes(queue=1e3 * (started - shot.t_mono), judge=1e3 * (self._now() - started))
        verdict = Verdict(Outcome.ERROR, shot.seq, shot.name, shot.captured_at, None, None, times, problem)
        return Inspection(verdict, shot, None)


def look(engine: Engine, contract: InputContract, image: UInt8Array) -> Reading:
    """prepare and infer one camera picture, for those who judge later (evaluate, calibrate)."""
    return engine.infer(prepare(image, contract))
