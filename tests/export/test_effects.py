"""What teaching does to a part: told where it matters."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.calibration import Limits, PixelLimit
from mapl_edge.contract import InputContract
from mapl_edge.errors import PictureError
from mapl_edge.export.effects import Effect, KnownEffects
from mapl_edge.export.known_parts import KnownParts, Part
from mapl_edge.gauge import Gauge, Mark
from mapl_edge.testing import FakeEngine


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (Mark(0.5), Mark(0.5), False),
        (Mark(0.5), Mark(0.50009), False),
        (Mark(0.5), Mark(0.49989), True),
        (Mark(-200.0), Mark(-200.019), False),
        (Mark(-200.0), Mark(-200.021), True),
        (Mark(0.5, 0.3), Mark(0.5, 0.3), False),
        (Mark(0.5, 0.3), Mark(0.5, 0.31), True),
        (Mark(float("nan")), Mark(0.5), True),
        (Mark(0.5), Mark(float("nan")), True),
    ],
    ids=str,
)
def test_part_moves_by_more_than_rounding(before: Mark, after: Mark, moves: bool) -> None:
    """Two engines of one bundle may differ by 1e-4, of the score where that is above 1."""
    assert Effect("good", "000.png", before, after).moves is moves


def test_levels_are_told_where_there_is_a_pixel_limit() -> None:
    """Without one there is no level to read."""
    limits = Limits(fail=1.0, pixel=PixelLimit(limit=0.5))
    plain = Effect("good", "000.png", Mark(0.5), Mark(1.5)).judged(Limits(fail=1.0), Limits(fail=1.0))
    with_level = Effect("defect", "001.png", Mark(0.5, 0.6), Mark(0.5, 0.4)).judged(limits, limits)

    assert plain.as_json() == {
        "kind": "good",
        "name": "000.png",
        "score_before": 0.5,
        "score_after": 1.5,
        "before": "PASS",
        "after": "FAIL",
    }
    assert [with_level.as_json()[key] for key in ("level_before", "level_after")] == [0.6, 0.4]
    assert with_level.is_missed_now


@pytest.fixture
def known(tmp_path: Path) -> KnownParts:
    """Six good parts and two defects, grey level 10 times their number."""
    parts = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((64, 64, 3), 10 * number, np.uint8))
        parts.append(Part(path.name, path, str(number)))
    return KnownParts(tuple(parts[:6]), tuple(parts[6:]), ())


def effects_of(known: KnownParts, engine: FakeEngine) -> KnownEffects:
    """With marks of before for all but number 7, number 2 taught, and number 4 before."""
    marks = {str(number): Mark(-1.0) for number in range(7)}
    taught = np.full((1, 64, 64, 3), 20, np.uint8)
    return KnownEffects(known, marks, taught, {"4"}, Gauge(InputContract(size_hw=(64, 64))), (engine, engine))


def test_known_parts_are_looked_at_once_however_many_lend_a_hand(known: KnownParts) -> None:
    """In the order of the parts, whoever looked at them; a good part that was taught keeps its mark."""
    engine, told = FakeEngine(lambda picture: float(picture[0, 0, 0])), list[tuple[str, int, int]]()
    effects = effects_of(known, engine)

    with ThreadPoolExecutor(3) as workers:
        for _ in range(3):
            workers.submit(effects.lend_a_hand)
        found = effects.wait(lambda *what: told.append(what))

    assert [(effect.kind, part.name, effect.score_before, effect.score_after) for effect, part in found] == [
        *(("good", f"{number}.png", -1.0, -1.0 if number in (2, 4) else 10.0 * number) for number in range(6)),
        ("defect", "6.png", -1.0, 60.0),
        ("defect", "7.png", 70.0, 70.0),
    ]
    assert engine.calls == 7  # all but numbers 2 and 4, and number 7 with the bundle before too
    assert told == [("scoring known parts", done, 8) for done in range(1, 9)]


def test_known_part_that_cannot_be_read_is_told_to_who_waits(known: KnownParts) -> None:
    """The thread that met it goes on with the others."""
    known.good[3].path.write_bytes(b"no picture")
    effects = effects_of(known, engine := FakeEngine())

    effects.lend_a_hand()

    assert engine.calls == 6
    with pytest.raises(PictureError, match=r"3\.png"):
        effects.wait(lambda *what: None)


def test_no_further_known_part_is_looked_at_after_a_stop(known: KnownParts) -> None:
    """Where teaching fails, nobody waits for the rest."""
    begun, go_on = threading.Event(), threading.Event()

    def score(picture: np.ndarray) -> float:
        begun.set()
        go_on.wait(10)
        return 0.0

    effects = effects_of(known, engine := FakeEngine(score))
    with ThreadPoolExecutor(1) as workers:
        workers.submit(effects.lend_a_hand)
        begun.wait(10)
        effects.stop()
        go_on.set()

    assert engine.calls == 1
