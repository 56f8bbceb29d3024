"""SwapInspector: what judges is exchanged between two frames, and each verdict says what judged it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.calibration import Limits
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.frame import Frame
from mapl_edge.runtime import (
    DeadlineInspector,
    Inspector,
    JsonLines,
    Judging,
    Patience,
    RunIdentity,
    Shot,
    SwapInspector,
    Watchdog,
    open_store,
    run,
)
from mapl_edge.runtime.history import Wanted, open_history
from mapl_edge.testing import FakeEngine, HangingEngine, ManualClock
from mapl_edge.verdict import Outcome

CONTRACT = InputContract(size_hw=(32, 32))
OLD = {"bundle": "b1", "calibration": "c1"}
NEW = {"bundle": "b1", "calibration": "c2"}


def frame(seq: int, grey: int = 128) -> Frame:
    """A plain picture, whose score is half."""
    clock = ManualClock()
    return Frame(np.full((32, 32, 3), grey, np.uint8), seq, clock.monotonic(), clock.utc(), f"{seq}")


def judging(
    fail: float, digests: dict[str, str], engine: FakeEngine, begin: Callable[[int], None] = lambda seq: None
) -> Judging:
    """By a limit, without a deadline."""
    return Judging(Inspector(engine, CONTRACT, Limits(fail=fail)), engine, digests, begin=begin)


class Pictures:
    """Eight pictures; something happens before some of them. See `Source`."""

    live = False

    def __init__(self, before: dict[int, Callable[[], None]]) -> None:
        self._before = before

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        for seq in range(8):
            if seq in self._before:
                self._before[seq]()
            yield frame(seq)

    def close(self) -> None:
        """See `Source`."""


def test_a_new_limit_flips_verdicts_from_one_shot_on(tmp_path: Path) -> None:
    """None is lost or doubled, and lines and store say of each what judged it."""
    engine = FakeEngine()
    inspector = SwapInspector(judging(0.9, OLD, engine))
    identity = RunIdentity("r", "c", **OLD, engine="fake", limits=Limits(fail=0.9))
    store = open_store(tmp_path / "store", identity, StoreConfig())
    after = RunIdentity("r", "c", **NEW, engine="fake 2", limits=Limits(fail=0.1))
    swap = partial(inspector.swap, judging(0.1, NEW, engine, begin=lambda seq: store.change(seq, after)))
    lines = JsonLines(tmp_path / "v.jsonl", {"run": "r", "camera": "c", **OLD})
    run(Pictures({5: swap}), inspector, [lines, store])

    told = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    with open_history(tmp_path / "store") as history:
        kept = [entry.as_json() for entry in history.entries(Wanted())]
    assert [v["seq"] for v in told] == list(range(8))
    assert [v["verdict"] for v in told] == ["PASS"] * 5 + ["FAIL"] * 3
    assert [v["calibration"] for v in told] == ["c1"] * 5 + ["c2"] * 3
    keys = ("seq", "verdict", "threshold", "run", "camera", "bundle", "calibration")
    assert [[v[key] for key in keys] for v in kept] == [[v[key] for key in keys] for v in told]
    assert [v["engine"] for v in kept] == ["fake"] * 5 + ["fake 2"] * 3
    account = store.ledger()
    assert (account.triggers, account.balanced) == (8, True)


def test_the_old_engine_is_used_until_the_next_shot() -> None:
    """A camera that stands still keeps what it has."""
    old, new = FakeEngine(), FakeEngine()
    inspector = SwapInspector(judging(0.9, OLD, old))
    inspector.inspect(frame(0))
    inspector.swap(judging(0.1, NEW, new))
    waiting = inspector.uses(old), inspector.uses(new)
    verdict = inspector.inspect(frame(1)).verdict

    assert waiting == (True, True)
    assert (verdict.outcome, verdict.judged_by) == (Outcome.FAIL, NEW)
    assert (inspector.uses(old), inspector.uses(new)) == (False, True)


def test_of_two_changes_before_a_shot_the_newer_one_counts() -> None:
    """The other is never begun, so its engine may close."""
    begun: list[str] = []
    engines = [FakeEngine() for _ in range(3)]
    inspector = SwapInspector(judging(0.9, OLD, engines[0]))
    inspector.swap(judging(0.1, NEW, engines[1], begin=lambda seq: begun.append("first")))
    inspector.swap(judging(0.2, NEW, engines[2], begin=lambda seq: begun.append(f"second at {seq}")))
    overtaken = inspector.uses(engines[1])
    score_limit = inspector.inspect(frame(7)).verdict.threshold

    assert not overtaken
    assert (score_limit, begun) == (0.2, ["second at 7"])


@pytest.mark.parametrize(("swaps", "budget_ms", "outcome"), [(1, 20, "LATE"), (2, 20, "LATE"), (1, 1e9, "ERROR")])
def test_a_late_result_from_before_a_swap_is_still_told(swaps: int, budget_ms: float, outcome: str) -> None:
    """With the digests that it was judged with, also where another change follows soon, or the engine was given up."""
    hung = HangingEngine()
    hung.hang()
    inspector_of = partial(Inspector, contract=CONTRACT, limits=Limits(fail=0.9))
    with Watchdog([lambda: hung], Patience(stuck_s=0.2)) as watchdog:
        inspector = SwapInspector(Judging(DeadlineInspector(watchdog, inspector_of, budget_ms), watchdog, OLD))
        late = inspector.inspect(replace(frame(0), t_mono=time.monotonic())).verdict
        for seq in range(swaps):
            inspector.swap(judging(0.1, NEW, FakeEngine()))
            after = inspector.inspect(frame(1 + seq)).verdict
        hung.release()
        until = time.monotonic() + 10
        while not (found := inspector.late_results()):
            assert time.monotonic() < until
            time.sleep(0.001)

    assert (late.outcome, late.judged_by, after.judged_by) == (Outcome(outcome), OLD, NEW)
    assert [(each.verdict.seq, each.verdict.judged_by) for each in found] == [(0, OLD)]
