"""The pseudo-labeler: clouds with known truth, the equations written out slowly, and poor input."""

import logging
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from mapl_edge.errors import DataError
from mapl_edge.model.labeler import OneClassClassifier, PseudoLabeler, labels_from_scores, partial_matching


def cloud(n: int, shift: float = 0.0, seed: int = 0, dims: int = 20) -> np.ndarray:
    """n samples of unit deviation about a point that lies `shift` off in the first five of 20 features."""
    samples = np.random.default_rng(seed).normal(size=(n, dims))
    samples[:, :5] += shift
    return samples.astype(np.float32)


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """100 normals; of 60 simulated anomalies the first 40 are visible, the last 20 look like normals."""
    return cloud(100), np.concatenate([cloud(40, 6.0, seed=1), cloud(20, 0.0, seed=2)])


def test_visible_anomalies_are_anomalous_and_invisible_ones_are_not() -> None:
    """The truth is known: the far cloud is anomalous, the near one is not, and doubt is -1."""
    normal, simulated = clouds()

    labels = PseudoLabeler.fit(normal, None, simulated).labels(simulated)

    assert labels.dtype == np.int64
    assert (labels[:40] == 1).all()
    assert (labels[40:] == 0).mean() >= 0.6
    assert (labels[40:] == 1).mean() <= 0.1


def test_new_samples_are_labelled_too() -> None:
    """Also good parts and real defects in a direction that no simulated anomaly took part in fitting."""
    normal, simulated = clouds()
    labeler = PseudoLabeler.fit(normal, None, simulated)

    assert (labeler.labels(cloud(200, seed=3)) == 1).mean() < 0.1
    assert (labeler.labels(cloud(50, 6.0, seed=4)) == 1).all()


def test_where_all_anomalies_are_visible_none_is_called_normal() -> None:
    """Eq. 6 has a minimum here too; its subset would be the least of the anomalies."""
    normal, simulated = cloud(100), cloud(60, 6.0, seed=1)

    assert (PseudoLabeler.fit(normal, None, simulated).labels(simulated) == 1).all()


def test_labelled_defects_set_the_upper_threshold() -> None:
    """With strong real defects only what is as strong as they are is called anomalous (Eq. 5)."""
    normal = cloud(100)
    simulated = np.concatenate([cloud(30, 4.0, seed=1), cloud(30, 12.0, seed=2)])

    without = PseudoLabeler.fit(normal, None, simulated)
    with_defects = PseudoLabeler.fit(normal, cloud(5, 12.0, seed=3), simulated)

    assert (without.thresholds_from, with_defects.thresholds_from) == ("labelled normals", "labelled positives")
    assert (with_defects.eta_p > without.eta_p).all()
    assert (without.labels(simulated) == 1).all()
    assert (with_defects.labels(simulated[:30]) == -1).mean() > 0.9
    assert (with_defects.labels(simulated[30:]) == 1).mean() > 0.9


def test_thresholds_are_the_equations() -> None:
    """η^n and η^p of every classifier against Eq. 6 and 5 on its own scores."""
    normal, simulated = clouds()
    positive = cloud(4, 5.0, seed=3)

    labeler = PseudoLabeler.fit(normal, positive, simulated, k=3)

    for k, classifier in enumerate(labeler.classifiers):
        of_normals, of_simulated = classifier.scores(normal), classifier.scores(simulated)
        upper = np.sort(of_normals)[94]  # 95 of 100 do not exceed it
        assert labeler.eta_n[k] == min(slow_partial_matching(of_normals, of_simulated, "below"), upper)
        assert labeler.eta_p[k] == slow_partial_matching(classifier.scores(positive), of_simulated, "above")
        assert PseudoLabeler.fit(normal, None, simulated, k=3).eta_p[k] == upper


def test_labels_are_unanimous_votes() -> None:
    """Eq. 3 and 4 sample by sample and classifier by classifier."""
    normal, simulated = clouds()
    simulated = np.concatenate([simulated, cloud(60, 1.5, seed=5)])
    labeler = PseudoLabeler.fit(normal, None, simulated, k=3)
    scores = labeler.scores(simulated)
    expected = []
    for sample in range(len(simulated)):
        y_pa = y_na = 1
        for k in range(labeler.k):
            y_pa *= 1 if scores[sample, k] > labeler.eta_p[k] else 0
            y_na *= 1 if scores[sample, k] < labeler.eta_n[k] else 0
        expected.append(-1 if y_pa == y_na else 1 if y_pa else 0)

    assert scores.shape == (120, 3)
    assert labeler.labels(simulated).tolist() == expected
    assert set(expected) == {1, 0, -1}


def test_subsets_are_disjoint_and_complete() -> None:
    """Algorithm 1, line 2: each simulated anomaly belongs to one classifier."""
    normal, simulated = cloud(30), cloud(7, 6.0, seed=1)
    seen: list[np.ndarray] = []
    fit = OneClassClassifier.fit

    def spy(normals: np.ndarray, subset: np.ndarray) -> OneClassClassifier:
        if len(normals) == 30:  # those for the folds have fewer
            seen.append(subset)
        return fit(normals, subset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OneClassClassifier, "fit", staticmethod(spy))
        PseudoLabeler.fit(normal, None, simulated, k=3)

    assert sorted(len(subset) for subset in seen) == [2, 2, 3]
    assert sorted(np.concatenate(seen).tolist()) == sorted(simulated.astype(np.float64).tolist())


def test_seed_decides_everything() -> None:
    """Training must be repeatable: the same seed to the last bit, another one splits otherwise."""
    normal, simulated = clouds()
    first, second, other = (PseudoLabeler.fit(normal, None, simulated, seed=seed) for seed in (7, 7, 8))

    assert np.array_equal(first.scores(simulated), second.scores(simulated))
    assert np.array_equal(first.eta_p, second.eta_p)
    assert np.array_equal(first.eta_n, second.eta_n)
    assert not np.array_equal(first.scores(simulated), other.scores(simulated))


def test_score_grows_with_the_distance_from_the_normals() -> None:
    """Also past the simulated anomalies, where the mixture's own likelihood would find them ordinary."""
    normal = cloud(100)
    classifier = OneClassClassifier.fit(normal.astype(np.float64), cloud(50, 6.0, seed=1).astype(np.float64))

    means = [classifier.scores(cloud(100, shift, seed=2)).mean() for shift in (0, 1, 2, 4, 6, 12, 50)]

    assert all(a < b for a, b in pairwise(means))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_units_of_the_features_do_not_matter(factor: float) -> None:
    """Each is measured by its deviation on normals."""
    normal, simulated = clouds()
    units = np.where(np.arange(20) % 2, factor, 1.0).astype(np.float32)

    plain = PseudoLabeler.fit(normal, None, simulated).scores(simulated)
    scaled = PseudoLabeler.fit(normal * units, None, simulated * units).scores(simulated * units)

    assert np.allclose(plain, scaled, rtol=1e-3)


def slow_partial_matching(known: np.ndarray, simulated: np.ndarray, side: str) -> float:
    """Eq. 5 ("above") or Eq. 6 ("below"): every simulated score is tried, distances by sorting the joint values."""
    found: list[tuple[float, float]] = []
    least = max(1, min(max(3, math.ceil(0.05 * len(simulated))), len(simulated) - 1))
    for eta in sorted(set(simulated.tolist())):
        matched = [s for s in simulated.tolist() if (s > eta if side == "above" else s < eta)]
        if len(matched) >= least:
            found.append((float(wasserstein_distance(known.tolist(), matched)), eta))
    if not found:
        return math.inf if side == "above" else -math.inf
    best = min(distance for distance, _ in found)
    return min(eta for distance, eta in found if distance == best)


scores_of = st.integers(1, 40).flatmap(lambda n: arrays(np.float64, n, elements=st.integers(-20, 20).map(float)))


@given(known=scores_of, simulated=scores_of, side=st.sampled_from(["above", "below"]))
@settings(max_examples=200, deadline=None)
def test_partial_matching_is_the_least_of_all_candidates(known: np.ndarray, simulated: np.ndarray, side: str) -> None:
    """Ties, few samples and equal scores included."""
    assert side in ("above", "below")

    eta = partial_matching(known, simulated, side)  # type: ignore[arg-type]

    assert eta == slow_partial_matching(known, simulated, side)


def test_partial_matching_finds_the_known_class() -> None:
    """Half of the simulated scores are drawn like the known ones; the threshold lies in the gap."""
    rng = np.random.default_rng(0)
    simulated = np.concatenate([rng.normal(0, 1, 50), rng.normal(20, 1, 50)])

    below = partial_matching(rng.normal(0, 1, 80), simulated, "below")
    above = partial_matching(rng.normal(20, 1, 80), simulated, "above")

    assert (simulated < below).sum() == pytest.approx(50, abs=3)
    assert (simulated > above).sum() == pytest.approx(50, abs=3)


def test_of_equal_distances_the_least_threshold_counts() -> None:
    """{0, 0, 0} and {0, 0, 0, 2, 2, 2} are both one away from {1}: the choice must not depend on the order."""
    simulated = np.array([5.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0])

    assert partial_matching(np.array([1.0]), simulated, "below") == 2.0


k_scores = st.tuples(st.integers(1, 30), st.integers(1, 4)).flatmap(
    lambda mk: st.tuples(
        arrays(np.float64, mk, elements=st.floats(-10, 10)),
        arrays(np.float64, mk[1], elements=st.floats(-10, 10)),
        arrays(np.float64, mk[1], elements=st.floats(-10, 10)),
        arrays(np.float64, mk, elements=st.floats(0, 10)),
    )
)


@given(case=k_scores)
@settings(max_examples=200, deadline=None)
def test_higher_scores_never_lower_a_label(case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    """In the order normal, unknown, anomalous, also where the thresholds cross."""
    scores, eta_p, eta_n, rise = case
    rank = {0: 0, -1: 1, 1: 2}

    before = labels_from_scores(scores, eta_p, eta_n).tolist()
    after = labels_from_scores(scores + rise, eta_p, eta_n).tolist()

    assert all(rank[a] <= rank[b] for a, b in zip(before, after, strict=True))


def test_a_score_on_the_threshold_is_no_vote() -> None:
    """Eq. 3 and 4 say > and <; the thresholds are scores of samples, so this is no rare case."""
    labels = labels_from_scores(np.array([[3.0], [1.0], [3.5], [0.5]]), np.array([3.0]), np.array([1.0]))

    assert labels.tolist() == [-1, -1, 1, 0]


def test_votes_for_both_labels_are_no_consensus() -> None:
    """With η^p below η^n a sample between them is above the one and below the other."""
    labels = labels_from_scores(np.array([[0.0], [2.0], [4.0]]), np.array([1.0]), np.array([3.0]))

    assert labels.tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        pytest.param(1, 20, 1, id="one-normal"),
        pytest.param(3, 20, 3, id="three-normals"),
        pytest.param(20, 1, 1, id="one-simulated"),
        pytest.param(20, 2, 2, id="two-simulated"),
        pytest.param(1, 1, 1, id="one-of-each"),
    ],
)
def test_few_samples_make_fewer_classifiers(n: int, m: int, expected: int, caplog: pytest.LogCaptureFixture) -> None:
    """A small set is told so once and still trains."""
    with caplog.at_level(logging.WARNING, logger="mapl_edge.model.labeler"):
        labeler = PseudoLabeler.fit(cloud(n), None, cloud(m, 6.0, seed=1), k=4)

    labels = labeler.labels(cloud(50, 3.0, seed=2))
    assert labeler.k == expected
    assert caplog.messages == [f"{expected} instead of 4 one-class classifiers: {n} normal and {m} simulated samples"]
    assert np.isfinite(labeler.scores(cloud(5))).all()
    assert set(labels.tolist()) <= {1, 0, -1}


def test_one_normal_makes_no_pseudo_label() -> None:
    """How far good parts scatter cannot be told from one of them."""
    simulated = cloud(40, 6.0, seed=1)

    assert (PseudoLabeler.fit(cloud(1), None, simulated).labels(simulated) == -1).all()


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_few_normals_make_unknowns_and_not_wrong_labels(n: int) -> None:
    """A classifier flatters the few that it was fitted on; new good parts must not be called anomalous for that."""
    simulated = np.concatenate([cloud(30, 8.0, seed=1), cloud(10, seed=2)])
    labeler = PseudoLabeler.fit(cloud(n), None, simulated)

    assert (labeler.labels(cloud(200, seed=3)) == 1).mean() < 0.15
    assert (labeler.labels(simulated[:30]) == 0).sum() == 0


def identical_normals() -> tuple[np.ndarray, np.ndarray]:
    """Good parts from a renderer: not one differs."""
    return np.repeat(cloud(1), 12, axis=0), cloud(30, 6.0, seed=1)


def dead_features() -> tuple[np.ndarray, np.ndarray]:
    """Some features are the same in all pictures, some only in all normal ones."""
    normal, simulated = clouds()
    normal[:, 10:], simulated[:, 10:15] = 3.0, 3.0
    return normal, simulated


def huge_features() -> tuple[np.ndarray, np.ndarray]:
    """An anomaly of a billion deviations."""
    normal, simulated = clouds()
    simulated[0] = 1e9
    return normal, simulated


def more_features_than_samples() -> tuple[np.ndarray, np.ndarray]:
    """As it is: 352 features of five pictures."""
    return cloud(5, dims=352), cloud(8, 6.0, seed=1, dims=352)


def one_subset_is_like_the_normals() -> tuple[np.ndarray, np.ndarray]:
    """A simulation that changed nothing, on identical normals, beside one that did."""
    return np.repeat(cloud(1), 4, axis=0), np.concatenate([cloud(1), cloud(1, 6.0, seed=1)])


@pytest.mark.parametrize(
    "arrange",
    [identical_normals, dead_features, huge_features, more_features_than_samples, one_subset_is_like_the_normals],
    ids=lambda arrange: arrange.__name__,
)
@pytest.mark.parametrize("with_positive", [False, True], ids=["no-positive", "one-positive"])
def test_poor_features_still_give_labels(
    arrange: Callable[[], tuple[np.ndarray, np.ndarray]], with_positive: bool
) -> None:
    """Scores are numbers and labels are labels."""
    normal, simulated = arrange()

    labeler = PseudoLabeler.fit(normal, simulated[-1:] if with_positive else None, simulated)

    assert np.isfinite(labeler.scores(simulated)).all()
    assert set(labeler.labels(simulated).tolist()) <= {1, 0, -1}


NO_SAMPLES = np.zeros((0, 20), np.float32)
WITH_NAN = cloud(9)
WITH_NAN[4, 3] = np.nan


@pytest.mark.parametrize(
    ("normal", "positive", "simulated", "message"),
    [
        pytest.param(NO_SAMPLES, None, cloud(9), r"normal features of shape \(0, 20\), expected", id="no-normal"),
        pytest.param(cloud(9), None, NO_SAMPLES, r"simulated features of shape \(0, 20\), expected", id="no-simulated"),
        pytest.param(cloud(9), None, WITH_NAN, "no numbers in 1 of 9 simulated samples, expected finite", id="nan"),
        pytest.param(
            cloud(9), None, cloud(9, dims=19), "found 19 features in simulated samples, expected 20", id="dims"
        ),
        pytest.param(cloud(9), cloud(2, dims=5), cloud(9), "found 5 features in positive samples, expected 20", id="p"),
        pytest.param(
            np.ones((5, 3), np.float32),
            None,
            np.ones((4, 3), np.float32),
            "the same features in all 5 normal and 4 simulated samples, expected different ones; check",
            id="all-alike",
        ),
    ],
)
def test_what_cannot_be_labelled_is_refused(
    normal: np.ndarray, positive: np.ndarray | None, simulated: np.ndarray, message: str
) -> None:
    """The message says what was found, what was expected and what to do."""
    with pytest.raises(DataError, match=message):
        PseudoLabeler.fit(normal, positive, simulated)


def test_features_of_another_length_are_refused() -> None:
    """Another encoder, another pooling: the labeler belongs to one."""
    normal, simulated = clouds()
    labeler = PseudoLabeler.fit(normal, None, simulated)

    with pytest.raises(DataError, match="found 7 features, expected the 20 that the labeler was fitted on; fit"):
        labeler.labels(cloud(3, dims=7))


def test_nothing_gets_no_labels() -> None:
    """A batch without a simulated sample is no mistake; nor is an empty set of positives."""
    normal, simulated = clouds()
    labeler = PseudoLabeler.fit(normal, NO_SAMPLES, simulated)

    assert labeler.thresholds_from == "labelled normals"
    assert labeler.labels(NO_SAMPLES).shape == (0,)
