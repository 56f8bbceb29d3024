"""Two limits from one set of good parts, each with its own promise."""

import numpy as np
import pytest
from scipy.stats import norm

from mapl_edge.calibrate.decision import Wish, decide
from mapl_edge.calibrate.tradeoff import Rule
from mapl_edge.calibration import Costs
from mapl_edge.engine import Reading
from mapl_edge.errors import DataError
from mapl_edge.judge import judge
from mapl_edge.verdict import Outcome

MAP = np.zeros((32, 32), np.float32)


def test_review_and_fail_each_keep_their_share() -> None:
    """299 good parts: none above fail for 1 %, 21 above review for 10 %; judge makes three bands of it."""
    decision = decide(range(299), [], Wish(0.01, review_false_reject=0.1))
    outcomes = [judge(Reading(float(score), MAP, 0), decision.limits) for score in (0, 277, 278, 298, 299)]

    assert decision.review is not None
    assert (decision.limits.fail, decision.limits.review) == (298, 298 - decision.review.n_above)
    assert decision.review.n_above == 21
    assert decision.review.achieved <= 0.1
    assert outcomes == [Outcome.PASS, Outcome.PASS, Outcome.REVIEW, Outcome.REVIEW, Outcome.FAIL]


def test_with_few_parts_the_two_are_one_and_it_is_told() -> None:
    """Twenty good parts can promise neither 5 % nor 10 %."""
    decision = decide(range(20), [], Wish(0.05, review_false_reject=0.1))

    assert decision.limits.review == decision.limits.fail
    assert any("9 more good parts would keep 10.0%" in line for line in decision.lines())


@pytest.mark.parametrize(
    ("bad", "wish", "says"),
    [
        ([], Wish(0.05, review_false_reject=0.05), "leaves no room for REVIEW"),
        ([5.5], Wish(review_false_reject=0.1, rule="f1"), "would lie above the fail limit"),
        ([5.5], Wish(rule="recall"), "give --target-recall"),
        ([5.5], Wish(rule="cost"), "both costs"),
        ([5.5], Wish(review_false_reject=2), "impossible"),
    ],
    ids=["equal", "above-fail", "no-target", "no-costs", "impossible"],
)
def test_wishes_that_contradict_themselves_are_refused(bad: list[float], wish: Wish, says: str) -> None:
    """One line, before anything is written."""
    good = [*np.linspace(0, 5, 90), *np.linspace(6, 9, 40)] if wish.rule == "f1" else [*range(100)]

    with pytest.raises(DataError, match=says):
        decide([float(s) for s in good], bad * 60, wish)


def test_costs_are_told_whatever_sets_the_limit() -> None:
    """The operator sees what the promise costs."""
    decision = decide([*range(60)], [*range(50, 90)], Wish(costs=Costs(50, 1)))

    assert [point.rule for point in decision.points] == ["promise", "f1", "cost"]
    assert all(point.cost is not None for point in decision.points)
    assert decision.points[0].cost >= decision.points[2].cost  # type: ignore[operator]


def test_a_limit_by_recall_says_which_recall_is_proved() -> None:
    """Twenty-two defects, all found, prove 1 - 0.05 ** (1 / 22) less; 59 are needed for 95 %, and are enough."""
    good = [float(i) for i in range(30)]
    wish = Wish(rule="recall", target_recall=0.95)

    few, enough = (decide(good, [40.0 + i for i in range(n)], wish).lines()[-1] for n in (22, 59))

    assert few == ("recall: 95.0% wished, 87.2% proved (95% confidence); for 95.0% you need 59 defects (37 more)")
    assert enough == "recall: 95.0% wished, 95.0% proved (95% confidence)"
    assert not decide(good, [40.0], Wish()).lines()[-1].startswith("recall")


@pytest.mark.parametrize("rule", ["f1", "cost"])
def test_the_bound_on_misses_holds_for_a_limit_that_looked_at_the_defects(rule: Rule) -> None:
    """In 95 of 100 draws; Clopper and Pearson's, which is for a limit from elsewhere, held in 90 with F1-max."""
    rng, broken = np.random.default_rng(0), 0
    wish = Wish(rule=rule, costs=Costs(5, 1) if rule == "cost" else None)
    for _ in range(100):
        decision = decide(rng.normal(size=100).tolist(), rng.normal(1.5, 1, 40).tolist(), wish)
        misses = decision.misses
        assert misses is not None
        broken += norm.cdf(decision.limits.fail - 1.5) > misses.bound

    assert broken <= 0.05 * 100
