"""Does the promise hold? Coverage of `limit_from_normals` by simulation, for any n and distribution of scores.

    python bench/coverage.py [--draws 2000] [--max-false-reject 0.05] [--confidence 0.95]

Each draw is n scores of good parts; the true share of good parts above the limit is known from the distribution. A row
holds when at least `confidence` of the draws keep the bound that was stated for them, within three standard errors of
the simulation. `slack` is by how many order statistics the limit is looser than the exact bound (scipy's) allows.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from rich.console import Console
from rich.table import Table

from mapl_edge.calibrate.limits import limit_from_normals

DISTRIBUTIONS = {
    "normal": scipy.stats.norm(),
    "lognormal": scipy.stats.lognorm(1.0),
    "uniform": scipy.stats.uniform(),
    "pareto": scipy.stats.pareto(2.0),
}
SIZES = (30, 60, 100, 300, 1000)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What `draws` draws of n scores showed.

    Attributes:
        achieved: the bound that was stated.
        kept: share of draws whose true share of rejects is within it.
        least: what `kept` must reach: the confidence less three standard errors of the simulation.
        slack: order statistics by which the limit is looser than the exact bound allows.
    """

    distribution: str
    n: int
    achieved: float
    kept: float
    least: float
    slack: int

    @property
    def holds(self) -> bool:
        """The promise was kept, and not by being loose."""
        return self.kept >= self.least and self.slack <= 1


def coverage(distribution: str, n: int, draws: int, share: float, confidence: float, seed: int = 0) -> Coverage:
    """Simulate."""
    law = DISTRIBUTIONS[distribution]
    rng = np.random.default_rng([seed, n, list(DISTRIBUTIONS).index(distribution)])
    kept = 0
    for _ in range(draws):
        limit = limit_from_normals(law.rvs(n, random_state=rng), share, confidence)
        kept += law.sf(limit.limit) <= limit.achieved
    r = np.arange(n - 1)
    exact = int((scipy.stats.beta.ppf(confidence, r + 1, n - r) <= share).sum()) - 1
    least = confidence - 3 * math.sqrt(confidence * (1 - confidence) / draws)
    return Coverage(distribution, n, limit.achieved, kept / draws, least, max(0, exact) - limit.n_above)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row for each distribution and n; 1 unless all hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--max-false-reject", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, default=0.95)
    options = parser.parse_args(arguments)
    table = Table("scores", "n", "bound stated", "kept by", "must be", "slack", "holds")
    rows = [
        coverage(name, n, options.draws, options.max_false_reject, options.confidence)
        for name in DISTRIBUTIONS
        for n in SIZES
    ]
    for row in rows:
        holds = "yes" if row.holds else "NO"
        table.add_row(
            row.distribution, f"{row.n}", f"{row.achieved:.4f}", f"{row.kept:.4f}", f"{row.least:.4f}",
            f"{row.slack}", holds,
        )  # fmt: skip
    Console(width=100).print(table)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
