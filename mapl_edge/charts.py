"""Charts: one statistic of a line, part after part, against all parts before; false alarms at a known rate.

A part's conformal p-value is its rank among all parts before it, ties broken by chance. While the parts are
exchangeable these p-values are independent and uniform, whatever the distribution and however few parts there were at
calibration (Vovk, Gammerman and Shafer 2005, theorem 8.1), so the limits hold with no baseline to estimate.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from enum import Enum
from statistics import NormalDist

from mapl_edge.errors import DataError
from mapl_edge.run_length import cusum_limit, ewma_limit

EWMA_WEIGHT = 0.005
"""It averages 2 / 0.005 = 400 parts, as many as a large calibration has; the error of that cannot be averaged away."""
CUSUM_K = 0.5
"""Half of the change that it is the quickest to see: a standard deviation among good parts."""
BINS = 10
BIN_MEMORY = 500  # parts that the distribution test bets by
BIN_PRIOR = 20.0  # parts' worth of belief in each bin that nothing drifts
KEPT = 20_000  # values to rank among; above that a random half of them is forgotten
NORMAL = NormalDist()


class Chart(str, Enum):
    """Which chart alarmed."""

    EWMA = "ewma"
    CUSUM = "cusum"
    DISTRIBUTION = "distribution"


class Ranks:
    """Values to p-values in (0, 1): near 0 lower than nearly all before, near 1 higher."""

    def __init__(self, baseline: Iterable[float], seed: int = 0) -> None:
        """Start from the values of parts that are known to be in order; there may be none."""
        self._seen = array("d", sorted(baseline))
        self._chance = random.Random(seed)
        self._share = 1.0

    def p_value(self, value: float) -> float:
        """Of a value among those seen before."""
        below = bisect_left(self._seen, value)
        equal = bisect_right(self._seen, value) - below
        p = (below + self._chance.random() * (equal + 1)) / (len(self._seen) + 1)
        return min(max(p, 1e-12), 1 - 1e-12)

    def learn(self, value: float) -> None:
        """Let later values be ranked among this one too."""
        if self._share < 1.0 and self._chance.random() >= self._share:
            return
        self._seen.insert(bisect_right(self._seen, value), value)
        if len(self._seen) > KEPT:
            self._seen = self._half()
            self._share /= 2

    def _half(self) -> array[float]:
        """So many of them by chance, in their order (Knuth, algorithm S).

        One at a time: as a list they would be 20,000 objects for a moment, and what they leave free is scattered.
        """
        kept, wanted = array("d"), KEPT // 2
        for left, value in zip(range(len(self._seen), 0, -1), self._seen, strict=True):
            if self._chance.random() * left < wanted:
                kept.append(value)
                wanted -= 1
        return kept

    def __len__(self) -> int:
        return len(self._seen)


class Charts:
    """EWMA, CUSUM and a distribution test of one statistic.

    - EWMA (Roberts 1959): the weighted mean of the newest values, for slow drift: from a quarter of a standard
      deviation on. A CUSUM with k = 1/8 sees the same as early.
    - CUSUM (Page 1954), two-sided: for steps of about a standard deviation and more.
    - distribution: the p-values need not only be centred but uniform. It bets on the histogram of the latest ones; the
      bet is fair while nothing drifts, so the Shiryaev-Roberts sum of all bets minus the number of parts is a
      martingale, and the mean run length is at least the limit (Vovk et al. 2021, "Retrain or not retrain").
    """

    def __init__(self, baseline: Iterable[float], run_length: float, seed: int = 0) -> None:
        """Start.

        Args:
            baseline: values at calibration, in any order.
            run_length: parts between false alarms of each chart.
            seed: of the chance that breaks ties; its own for each statistic.

        Raises:
            DataError: a value is not finite.
        """
        baseline = tuple(baseline)
        for value in baseline:
            _check(value)
        self._ranks = Ranks(baseline, seed)
        self.limits = {
            Chart.EWMA: ewma_limit(EWMA_WEIGHT, run_length),
            Chart.CUSUM: cusum_limit(CUSUM_K, run_length),
            Chart.DISTRIBUTION: math.log(run_length),
        }
        self.restart()

    def restart(self) -> None:
        """Begin the charts anew; what was learnt stays."""
        self._parts, self._mean, self._up, self._down, self._sum = 0, 0.0, 0.0, 0.0, 0.0
        self._bins = [0.0] * BINS

    def add(self, value: float) -> dict[Chart, float]:
        """Where the charts stand after one more part; above `limits`, by amount, is an alarm.

        Raises:
            DataError: the value is not finite.
        """
        _check(value)
        p = self._ranks.p_value(value)
        self._ranks.learn(value)
        z = NORMAL.inv_cdf(p)
        self._parts += 1
        self._mean += EWMA_WEIGHT * (z - self._mean)
        self._up = max(0.0, self._up + z - CUSUM_K)
        self._down = max(0.0, self._down - z - CUSUM_K)
        self._bet(min(int(p * BINS), BINS - 1))
        spread = math.sqrt(EWMA_WEIGHT / (2 - EWMA_WEIGHT))
        return {
            Chart.EWMA: self._mean / spread,
            Chart.CUSUM: self._up if self._up >= self._down else -self._down,
            Chart.DISTRIBUTION: math.log(self._sum),
        }

    def alarms(self, standing: dict[Chart, float]) -> list[Chart]:
        """The charts that are beyond their limits."""
        return [chart for chart, value in standing.items() if beyond(chart, value, self.limits[chart])]

    def _bet(self, cell: int) -> None:
        belief = (self._bins[cell] + BIN_PRIOR) / (sum(self._bins) + BINS * BIN_PRIOR)
        self._sum = (1 + self._sum) * belief * BINS
        keep = 1 - 1 / BIN_MEMORY
        self._bins = [count * keep for count in self._bins]
        self._bins[cell] += 1


def beyond(chart: Chart, value: float, limit: float) -> bool:
    """The distribution test has one side, as the logarithm of a sum; the others have two."""
    return value > limit if chart is Chart.DISTRIBUTION else abs(value) > limit


def _check(value: float) -> None:
    if not math.isfinite(value):
        raise DataError(f"a value is {value}; charts take finite numbers: look at the engine, or calibrate again")
