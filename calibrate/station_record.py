"""Station record: what a station's store holds, for a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mapl_edge.calibrate.page import Cell, paragraph, table
from mapl_edge.calibrate.shown_part import ShownPart
from mapl_edge.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Station:
    """What a station's store holds.

    Attributes:
        folder: of the store.
        days: verdicts of each outcome on each UTC day.
        accounts: of the runs, in words, and whether each balances.
        rejects, reviews: the last ones whose pictures are kept.
    """

    folder: str
    days: dict[str, dict[Outcome, int]]
    accounts: tuple[tuple[str, bool], ...]
    rejects: tuple[ShownPart, ...]
    reviews: tuple[ShownPart, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": self.folder,
            "days": {day: {each.value: n for each, n in counts.items()} for day, counts in self.days.items()},
            "accounts": [{"account": words, "balanced": balanced} for words, balanced in self.accounts],
            "rejects": [part.as_json() for part in self.rejects],
            "reviews": [part.as_json() for part in self.reviews],
        }

    def html(self) -> str:
        """Verdicts by day, accounts of the runs."""
        rows: list[list[Cell]] = [
            [day, *((str(counts.get(each, 0)), "n") for each in Outcome), (str(sum(counts.values())), "n")]
            for day, counts in self.days.items()
        ]
        head: list[Cell] = ["UTC day", *((each.value, "n") for each in Outcome), ("all", "n")]
        wrong = sum(not balanced for _, balanced in self.accounts)
        accounts: list[list[Cell]] = [
            [(words, ""), ("balances" if balanced else "DOES NOT BALANCE", "ok" if balanced else "wrong")]
            for words, balanced in self.accounts
        ]
        n = len(accounts)
        said = f"{n} runs; {'all accounts balance' if not wrong else f'{wrong} accounts DO NOT BALANCE'}."
        counted = table(head, rows, "Verdicts kept, by day") if rows else paragraph("The store holds no verdict.")
        return paragraph(f"Store {self.folder}: {said}") + counted + table((), accounts)
