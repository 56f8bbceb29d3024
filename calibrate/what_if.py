"""What if the limits were others? Which parts would get another verdict, before anything is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mapl_edge.bundle import Bundle
from mapl_edge.calibration import Limits
from mapl_edge.errors import DataError, OptionError
from mapl_edge.judge import judge_score
from mapl_edge.verdict import Outcome

JUDGED = frozenset({Outcome.PASS, Outcome.REVIEW, Outcome.FAIL})


@dataclass(frozen=True, slots=True)
class Judged:
    """A part with its score and the verdict that it has; `where` names its picture, or its line in a file.

    With a region above the pixel limit it fails whatever its score: that limit is not tried here.
    """

    where: str
    score: float | None
    outcome: Outcome
    has_region: bool = False


@dataclass(frozen=True, slots=True)
class Flip:
    """A part whose verdict would be another one."""

    where: str
    score: float
    before: Outcome
    after: Outcome

    def __str__(self) -> str:
        return f"{self.where}: score {self.score:.6g}, {self.before.value} -> {self.after.value}"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What other limits would do.

    Attributes:
        before, after: how many parts of each verdict.
        n_without: parts that no limit judged (LATE, ERROR); they stay as they are.
    """

    limits: Limits
    flips: tuple[Flip, ...]
    before: Counter[Outcome]
    after: Counter[Outcome]
    n_without: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "limits": self.limits.model_dump(),
            "before": {outcome.value: n for outcome, n in sorted(self.before.items())},
            "after": {outcome.value: n for outcome, n in sorted(self.after.items())},
            "n_not_judged": self.n_without,
            "flips": [
                {"picture": f.where, "score": f.score, "before": f.before.value, "after": f.after.value}
                for f in self.flips
            ],
        }


def what_if(parts: Iterable[Judged], limits: Limits) -> WhatIf:
    """Judge parts by other limits and list those whose verdict would flip."""
    flips: list[Flip] = []
    before: Counter[Outcome] = Counter()
    after: Counter[Outcome] = Counter()
    n_without = 0
    for part in parts:
        if part.score is None or part.outcome not in JUDGED:
            n_without += 1
            continue
        outcome = judge_score(part.score, limits, part.has_region)
        before[part.outcome] += 1
        after[outcome] += 1
        if outcome is not part.outcome:
            flips.append(Flip(part.where, part.score, part.outcome, outcome))
    return WhatIf(limits, tuple(flips), before, after, n_without)


def limits_from_text(text: str, now: Limits, flag: str = "--what-if") -> Limits:
    """Limits from `fail=2.5`, `review=2` or `fail=2.5,review=2`; what is not named stays; `review=none` takes it away.

    Raises:
        OptionError: an unknown name, one given twice, no number, or review above fail.
    """
    changed: dict[str, float | None] = {"fail": now.fail, "review": now.review}
    named: set[str] = set()
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or name not in changed:
            raise OptionError(f"{flag}: found {part!r}, expected fail=NUMBER or review=NUMBER")
        if name in named:
            raise OptionError(f"{flag}: found {name} twice in {text!r}, expected it once")
        named.add(name)
        try:
            changed[name] = None if (name, value.lower()) == ("review", "none") else float(value)
            if not math.isfinite(changed[name] or 0.0):
                raise ValueError(value)
        except ValueError as exc:
            raise OptionError(f"{flag}: {name} is {value!r}, expected a finite number") from exc
    try:
        return Limits.model_validate({**changed, "pixel": now.pixel})
    except ValidationError as exc:
        raise OptionError(f"{flag}: " + exc.errors()[0]["msg"].removeprefix("Value error, ")) from exc


def stored_verdicts(path: Path, bundle: Bundle) -> Iterator[Judged]:
    """Verdicts of this bundle from a file that `run --out` wrote.

    Raises:
        DataError: a line is no verdict, or another bundle's: scores of two models cannot be compared.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _judged(line, f"{path} line {number}", bundle)
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise DataError(f"{path}: cannot be read ({reason}); expected a folder, or verdicts of mapl-edge run") from exc


def _judged(line: str, where: str, bundle: Bundle) -> Judged:
    try:
        found = json.loads(line)
        outcome, score = Outcome(found["verdict"]), found["score"]
        score = None if score is None else float(score)
        if score is not None and not math.isfinite(score):
            raise ValueError(f"a score of {score}")
        has_region = bool(found.get("regions"))
        digest, name = found.get("bundle", bundle.digest), found.get("picture") or f"frame {found.get('seq', '?')}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DataError(f"{where}: is no verdict of mapl-edge run ({exc}); expected JSON lines") from exc
    if digest != bundle.digest:
        raise DataError(
            f"{where}: is a verdict of bundle {str(digest)[:12]}, this one is {bundle.digest[:12]}; their scores "
            "cannot be compared"
        )
    return Judged(str(name), score, outcome, has_region)
