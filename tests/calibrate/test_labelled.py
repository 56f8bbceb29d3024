"""Labelled parts: promises, recall of each kind, the worst ones; scipy and scikit-learn are the oracles."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from mapl_edge.calibrate.labelled import Labelled, Part, exact_interval, labelled_from_parts
from mapl_edge.calibration import Calibration, Limits, PixelLimit, Promise
from mapl_edge.judge import judge_score
from mapl_edge.verdict import Outcome

LIMITS = Limits(fail=2.0, review=1.0, pixel=PixelLimit(limit=0.5))


def promise(bound: float) -> Promise:
    """At most `bound` of good parts."""
    return Promise(max_false_reject=0.05, confidence=0.95, achieved=bound, n_good=60, n_above=0, n_needed=59)


CALIBRATION = Calibration(
    created_at="2026-11-22T00:00:00.000Z",
    created_by="x",
    model_digest="a" * 64,
    limits=LIMITS,
    promise=promise(0.05),
    review_promise=promise(0.2),
    pixel_promise=promise(0.05),
    pictures={},
)


def part(name: str, label: str, score: float, has_region: bool = False, seen_by: str = "") -> Part:
    """Judged by the limits."""
    return Part(name, label, score, judge_score(score, LIMITS, has_region), has_region, "", seen_by)


def goods(n: int, above: int, score: float = 3.0) -> list[Part]:
    """So many good parts, some above the fail limit."""
    return [part(f"{i}", "good", score if i < above else 0.0) for i in range(n)]


@pytest.mark.parametrize(
    ("n", "above", "state"),
    [(100, 5, "kept"), (100, 6, "undecided"), (100, 20, "broken"), (2, 1, "undecided"), (0, 0, "not checked")],
)
def test_a_promise_is_kept_broken_or_undecided(n: int, above: int, state: str) -> None:
    """Broken only where chance does not explain it: the one-sided exact test at the promise's confidence."""
    check = labelled([*goods(n, above), part("d", "crack", 3.0)]).checks(CALIBRATION)[0]

    assert (check.state, check.n_rejected, check.n_good) == (state, above, n)
    if n:
        p_value = binomtest(above, n, 0.05, alternative="greater").pvalue
        assert (state == "broken") == (above / n > 0.05 and p_value < 0.05)
        expected = binomtest(above, n).proportion_ci(0.95, "exact")
        assert check.interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def labelled(parts: list[Part]) -> Labelled:
    """Without figures, which no count needs."""
    return Labelled(tuple(parts), {})


def test_each_limit_has_its_own_promise() -> None:
    """REVIEW counts against the review limit alone, a region against the pixel limit alone."""
    parts = [*goods(10, 1), part("r", "good", 1.5), part("p", "good", 0.0, has_region=True), part("d", "crack", 9.0)]

    checks = labelled(parts).checks(CALIBRATION)

    assert [(check.n_rejected, check.n_good) for check in checks] == [(1, 12), (2, 12), (1, 12)]


def test_parts_that_the_model_or_the_limits_know_prove_nothing() -> None:
    """They are left out of the check, though not of the counts."""
    known = [part("a", "good", 9.0, seen_by="training"), part("b", "good", 9.0, seen_by="calibration")]

    found = labelled(known + goods(10, 0))

    assert (found.checks(CALIBRATION)[0].n_rejected, found.checks(CALIBRATION)[0].n_good) == (0, 10)
    assert len(found.false_rejects) == 2


def test_the_worst_come_first() -> None:
    """False rejects from the highest score, misses from the lowest, each of the right kind."""
    parts = [part(f"g{s}", "good", s) for s in (0, 1.5, 3)] + [part(f"d{s}", "crack", s) for s in (0.5, 0, 4, 1.2)]

    found = labelled(parts)

    assert [each.name for each in found.false_rejects] == ["g3", "g1.5"]
    assert [each.name for each in found.misses] == ["d0", "d0.5"]
    assert [each.name for each in found.found] == ["d4", "d1.2"]


def test_each_kind_has_its_recall() -> None:
    """Good parts first; a region finds a defect that the score does not."""
    parts = [*goods(4, 1), part("a", "crack", 0), part("b", "crack", 0, has_region=True), part("c", "burr", 1.5)]

    rows = labelled(parts).kinds()

    assert [(row.label, row.n, row.n_found) for row in rows] == [("good", 4, 1), ("burr", 1, 1), ("crack", 2, 1)]
    assert rows[1].verdicts["REVIEW"] == 1
    assert rows[2].interval == pytest.approx(tuple(binomtest(1, 2).proportion_ci(0.95, "exact")), abs=1e-9)


def test_figures_of_a_run_are_those_of_the_scores() -> None:
    """scikit-learn is the oracle."""
    rng = np.random.default_rng(0)
    scores, bad = rng.normal(size=60).round(1), rng.random(60) < 0.4
    parts = [part(f"{i}", "crack" if b else "good", float(s)) for i, (s, b) in enumerate(zip(scores, bad, strict=True))]

    figures = labelled_from_parts(parts).figures

    assert figures["image_auroc"] == pytest.approx(roc_auc_score(bad, scores), abs=1e-12)
    assert figures["image_ap"] == pytest.approx(average_precision_score(bad, scores), abs=1e-12)
    assert (figures["n_good"], figures["n_bad"]) == (int((~bad).sum()), int(bad.sum()))


def test_one_kind_alone_has_no_auroc() -> None:
    """Null, not an error: a run may have had good parts only."""
    figures = labelled_from_parts(goods(3, 1)).figures

    assert figures["image_auroc"] is None
    assert labelled_from_parts(goods(3, 1)).false_rejects[0].outcome is Outcome.FAIL


@pytest.mark.parametrize("events", [0, 1, 7, 30])
def test_intervals_are_exact(events: int) -> None:
    """Against scipy's."""
    expected = binomtest(events, 30).proportion_ci(0.9, "exact")

    assert exact_interval(events, 30, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-9)
