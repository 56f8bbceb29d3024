"""Pseudo-labeler v (MAPL §2.2): which simulated anomalies look anomalous, which look normal, which are unclear."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import wasserstein_distance
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mapl_edge.arrays import BoolArray, Float64Array, FloatArray, IntArray
from mapl_edge.errors import DataError

logger = logging.getLogger(__name__)

ANOMALOUS, NORMAL, UNKNOWN = 1, 0, -1
MAX_DIMS = 8  # directions that a classifier keeps of some hundred features
SCALE_FLOOR = 0.1  # least deviation of a feature, as a share of its deviation with the simulated anomalies
REG_COVAR = 0.1  # in units of the normals' own variance: keeps the mixture stable on a handful of pictures
MIN_MATCHED, MIN_MATCHED_SHARE = 3, 0.05  # a subset that is matched must be a distribution, not a point
NORMAL_QUANTILE = 0.95
CROSS_FIT_BELOW, FOLDS = 50, 5  # with so few normals a classifier flatters those that it was fitted on

ThresholdsFrom = Literal["labelled positives", "labelled normals"]


@dataclass(frozen=True, slots=True)
class PseudoLabeler:
    """K one-class classifiers o_k that label a simulated anomaly when all of them agree.

    Attributes:
        classifiers: o_1 … o_K.
        eta_p: η^p, float64 (K,); a classifier votes "anomalous" above it. +inf: never.
        eta_n: η^n, float64 (K,); it votes "normal" below it. -inf: never.
        thresholds_from: where η^p comes from: "labelled positives" (Eq. 5), or "labelled normals" where no positive is
            labelled (see `fit`).
    """

    classifiers: tuple[OneClassClassifier, ...]
    eta_p: Float64Array
    eta_n: Float64Array
    thresholds_from: ThresholdsFrom

    @staticmethod
    def fit(
        normal: FloatArray, positive: FloatArray | None, simulated: FloatArray, k: int = 2, seed: int = 0
    ) -> PseudoLabeler:
        """Fit the classifiers and choose their thresholds (Algorithm 1, lines 1 to 9).

        Each classifier is fitted on its own subset of the simulated anomalies and all labelled normals. η^n is Eq. 6.
        η^p is Eq. 5 where positives are labelled. Where none are, Eq. 5 has nothing to match; η^p is then what 95 % of
        new good parts would not exceed: all simulated anomalies were made anomalous, so that one which also scores
        above nearly every normal may be called so. With fewer than 50 normals each one's score for this quantile comes
        from a classifier that was fitted without it (five folds); of a single normal nothing can be said, +inf.

        Ours, not the paper's: η^n never exceeds what 95 % of the labelled normals score. Eq. 6 always has a minimum,
        also where every simulated anomaly is far from every normal, and would then call the least far of them normal.

        So few pictures make for many unknowns, not for wrong labels.

        Args:
            normal: D_0^l, features of good parts, float32 (N, D).
            positive: D_1^l, features of real defects, float32 (P, D); None or P = 0: there are none.
            simulated: D^a, features of simulated anomalies, float32 (M, D).
            k: how many classifiers (Table 2: 2). Fewer, with a warning, where N or M is smaller than it.
            seed: decides the subsets; the same seed and features give the same labeler.

        Raises:
            DataError: no normal or no simulated sample, features of different lengths, features that are no numbers,
                or all samples alike.
        """
        normals, anomalies = _checked("normal", normal), _checked("simulated", simulated)
        _check_same_dims(normals, anomalies, "simulated")
        positives = None
        if positive is not None and len(positive):
            positives = _checked("positive", positive)
            _check_same_dims(normals, positives, "positive")
        if not _varying(np.concatenate([normals, anomalies])).any():
            raise DataError(
                f"pseudo-labels: found the same features in all {len(normals)} normal and {len(anomalies)} simulated "
                "samples, expected different ones; check that the pictures differ and that simulation changes them"
            )
        used = min(k, len(normals), len(anomalies))
        if used < k:
            logger.warning(
                "%d instead of %d one-class classifiers: %d normal and %d simulated samples",
                *(used, k, len(normals), len(anomalies)),
            )
        order = np.random.default_rng(seed).permutation(len(anomalies))
        subsets = [anomalies[np.sort(part)] for part in np.array_split(order, used)]
        classifiers = tuple(OneClassClassifier.fit(normals, subset) for subset in subsets)
        eta_p, eta_n = np.empty(used), np.empty(used)
        for i, (classifier, subset) in enumerate(zip(classifiers, subsets, strict=True)):
            of_normals, of_anomalies = classifier.scores(normals), classifier.scores(anomalies)
            eta_n[i] = min(partial_matching(of_normals, of_anomalies, "below"), _upper(of_normals))
            if positives is None:
                eta_p[i] = _upper(_scores_of_unseen(classifier, normals, subset))
            else:
                eta_p[i] = partial_matching(classifier.scores(positives), of_anomalies, "above")
        return PseudoLabeler(
            classifiers, eta_p, eta_n, "labelled normals" if positives is None else "labelled positives"
        )

    @property
    def k(self) -> int:
        """K, the number of classifiers."""
        return len(self.classifiers)

    def scores(self, features: FloatArray) -> Float64Array:
        """Anomaly scores o_k(h(x)): float32 (M, D) → float64 (M, K), higher is more anomalous."""
        return np.stack([classifier.scores(features) for classifier in self.classifiers], axis=1)

    def labels(self, features: FloatArray) -> IntArray:
        """Pseudo-labels v(h(x)): float32 (M, D) → int64 (M,), 1 anomalous, 0 normal, -1 unknown.

        Raises:
            DataError: features of another length than the labeler was fitted on, or that are no numbers.
        """
        if len(features) == 0:
            return np.zeros(0, np.int64)
        checked = _checked("labelled", features)
        if checked.shape[1] != self.classifiers[0].dims:
            raise DataError(
                f"pseudo-labels: found {checked.shape[1]} features, expected the {self.classifiers[0].dims} that the "
                "labeler was fitted on; fit it again"
            )
        return labels_from_scores(self.scores(features), self.eta_p, self.eta_n)


@dataclass(frozen=True, slots=True)
class OneClassClassifier:
    """o_k: how far a sample is from what a Gaussian mixture (Table 2) takes for normal.

    Two components are fitted on the labelled normals and a subset of the simulated anomalies, one started at each.
    The score is the negative log-likelihood under the component that holds most of the labelled normals. The
    likelihood of the whole mixture would not do: unlike SPADE's unlabelled data, which are mostly normal, the subset
    is all made of anomalies, and one amid the others would score as ordinary. The log-odds of the two components would
    call a sample normal that is far from both on the side where the normal component is the wider one. This score
    grows in every direction, and the other component keeps visible anomalies from widening the normal one.

    The mixture sees few directions of many features: each feature in units of its deviation on normals, then the
    principal directions about the normals' centre of normals and anomalies together. Directions learned on normals
    alone leave out what anomalies change, and their rest is zero on the normals that they were learned on.

    Attributes:
        centre: float64 (D,), the normals' mean.
        basis: float64 (D, d), scaling and principal directions in one; d is 0 where nothing varies.
        mean, variance: float64 (d,), of the normal component.
    """

    centre: Float64Array
    basis: Float64Array
    mean: Float64Array
    variance: Float64Array

    @staticmethod
    def fit(normal: Float64Array, subset: Float64Array) -> OneClassClassifier:
        """Fit on labelled normals (N, D) and one subset D_k^a (m, D); N and m at least 1."""
        union = np.concatenate([normal, subset])
        centre, deviation = normal.mean(axis=0), union.std(axis=0)
        scale = np.maximum(normal.std(axis=0), SCALE_FLOOR * deviation)
        factor = np.where(_varying(union), 1 / np.where(scale > 0, scale, 1), 0.0)  # what never varies tells nothing
        if not factor.any():
            nothing = np.zeros(0)
            return OneClassClassifier(centre, np.zeros((len(centre), 0)), nothing, nothing)
        dims = min(MAX_DIMS, len(union) - 1, max(1, len(union) // 4))
        directions = np.linalg.svd((union - centre) * factor, full_matrices=False)[2][:dims]  # (d, D)
        basis = factor[:, None] * directions.T
        starts = [(part - centre) @ basis for part in (normal, subset)]
        mixture = GaussianMixture(
            n_components=2,
            covariance_type="diag",  # a full one has 44 numbers to fit per component, more than there may be samples
            reg_covar=REG_COVAR,
            max_iter=200,
            weights_init=[len(part) / len(union) for part in starts],
            means_init=[part.mean(axis=0) for part in starts],
            precisions_init=[1 / (part.var(axis=0) + REG_COVAR) for part in starts],
            init_params="random_from_data",  # overruled by the three above; the default would run k-means for nothing
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the component is named either way
            mixture.fit(np.concatenate(starts))
        of_normals = int(mixture.predict_proba(starts[0]).mean(axis=0).argmax())
        return OneClassClassifier(centre, basis, mixture.means_[of_normals], mixture.covariances_[of_normals])

    @property
    def dims(self) -> int:
        """D, the length of a feature vector."""
        return len(self.centre)

    def scores(self, features: FloatArray | Float64Array) -> Float64Array:
        """Features (M, D) → negative log-likelihoods, float64 (M,)."""
        z = (features.astype(np.float64) - self.centre) @ self.basis - self.mean  # (M, d)
        return np.asarray(0.5 * (z**2 / self.variance + np.log(2 * math.pi * self.variance)).sum(axis=1))


def labels_from_scores(scores: Float64Array, eta_p: Float64Array, eta_n: Float64Array) -> IntArray:
    """Unanimous votes (Eq. 3 and 4): scores (M, K) and thresholds (K,) → int64 (M,), 1, 0 or -1.

    Eq. 4 is printed with η^p, which would leave nothing unknown to a single classifier; Eq. 6 makes η^n for it. Where a
    classifier's η^p lies below its η^n a sample can have all votes for both labels: that is no consensus, hence -1.
    So a sample whose scores all rise never goes back in the order 0, -1, 1.
    """
    anomalous = (scores > eta_p).all(axis=1)
    normal = (scores < eta_n).all(axis=1)
    return np.where(anomalous == normal, UNKNOWN, np.where(anomalous, ANOMALOUS, NORMAL)).astype(np.int64)


def partial_matching(known: Float64Array, simulated: Float64Array, side: Literal["above", "below"]) -> float:
    """The threshold η whose simulated scores above (Eq. 5) or below (Eq. 6) it are spread most like `known`.

    Candidates are the distinct simulated scores that leave at least 5 % of the samples, and at least three, on that
    side (all but one where there are fewer than four): a distribution can be matched by a point only by chance. Of
    equal Wasserstein distances the least η counts.

    Args:
        known: scores of labelled samples of one class, (N,), N at least 1.
        simulated: scores of simulated anomalies, (M,).
        side: which part of `simulated` is matched; scores equal to η belong to neither.

    Returns:
        η; where no candidate leaves enough samples +inf for "above" and -inf for "below", that is nobody.
    """
    m = len(simulated)
    enough = max(1, min(max(MIN_MATCHED, math.ceil(MIN_MATCHED_SHARE * m)), m - 1))
    best, eta = math.inf, math.inf if side == "above" else -math.inf
    for candidate in np.unique(simulated):
        matched = simulated[simulated > candidate] if side == "above" else simulated[simulated < candidate]
        if len(matched) < enough:
            continue
        distance = float(wasserstein_distance(known, matched))
        if distance < best:
            best, eta = distance, float(candidate)
    return eta


def _upper(scores: Float64Array) -> float:
    """The least of the scores that at least 95 % of them do not exceed."""
    return float(np.quantile(scores, NORMAL_QUANTILE, method="inverted_cdf"))


def _scores_of_unseen(classifier: OneClassClassifier, normal: Float64Array, subset: Float64Array) -> Float64Array:
    """What the labelled normals would score if they were new, (N,)."""
    if len(normal) == 1:
        return np.array([math.inf])
    if len(normal) >= CROSS_FIT_BELOW:
        return classifier.scores(normal)
    fold = np.arange(len(normal)) % FOLDS
    scores = np.empty(len(normal))
    for left_out in np.unique(fold):
        without = OneClassClassifier.fit(normal[fold != left_out], subset)
        scores[fold == left_out] = without.scores(normal[fold == left_out])
    return scores


def _varying(samples: Float64Array) -> BoolArray:
    """Which features differ between samples by more than rounding, bool (D,)."""
    return np.asarray(np.ptp(samples, axis=0) > 1e-6 * (1e-6 + np.abs(samples).max(axis=0)))


def _checked(what: str, features: FloatArray) -> Float64Array:
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or 0 in found.shape:
        raise DataError(
            f"pseudo-labels: found {what} features of shape {found.shape}, expected (samples, features), at least one "
            "of each; add pictures"
        )
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found).all(axis=1)).sum())
        raise DataError(
            f"pseudo-labels: found values that are no numbers in {bad} of {len(found)} {what} samples, expected finite "
            "features; lower the learning rate if the encoder trains"
        )
    return found


def _check_same_dims(normal: Float64Array, other: Float64Array, what: str) -> None:
    if normal.shape[1] != other.shape[1]:
        raise DataError(
            f"pseudo-labels: found {other.shape[1]} features in {what} samples, expected {normal.shape[1]} as in "
            "normal ones; pool both from the same levels"
        )
