"""Replay: score the stored pictures again with another bundle or calibration, and see which verdicts flip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.engine import Engine
from mapl_edge.errors import ContractMismatch, PictureError
from mapl_edge.judge import Judge
from mapl_edge.masks import InspectedArea
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime.history import Entry, History, Wanted
from mapl_edge.runtime.inspector import look
from mapl_edge.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Replayed:
    """One stored picture, judged again. `score` is None and `error` set where it cannot be read any more."""

    entry: Entry
    verdict: Outcome
    score: float | None
    error: str | None = None

    @property
    def flips(self) -> bool:
        """The part would go another way."""
        return self.verdict is not self.entry.verdict

    def as_json(self) -> dict[str, Any]:
        """The stored verdict with what is said of it now."""
        told = {"verdict": self.verdict.value, "score": self.score, "error": self.error, "flips": self.flips}
        return {**self.entry.as_json(), "replayed": told}


def replay(
    history: History,
    wanted: Wanted,
    engine: Engine,
    contract: InputContract,
    limits: Limits,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    area: InspectedArea | None = None,
) -> Iterator[Replayed]:
    """Judge every stored picture again, oldest first; `wanted.with_picture` must be set.

    The same bundle and engine give exactly the score that the station gave: pictures are stored without loss, at the
    camera's resolution.
    """
    judge = Judge(limits, contract, area)
    entries = list(history.entries(wanted))
    for done, entry in enumerate(entries, start=1):
        assert entry.stored_picture is not None
        try:
            image = picture_from_file(entry.stored_picture)
            judged = judge(look(engine, contract, image), image.shape[:2])
        except (PictureError, ContractMismatch) as exc:
            yield Replayed(entry, Outcome.ERROR, None, str(exc))
        else:
            yield Replayed(entry, judged.outcome, judged.score)
        progress("replaying", done, len(entries))
