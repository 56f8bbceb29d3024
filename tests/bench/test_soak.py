"""The soak goes the station's whole way, and each of its bars can be missed."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress

from mapl_edge.runtime.ledger import Ledger
from mapl_edge.verdict import Outcome
from soak import Sample, missed, soak

WARM = Sample(10, 100.0, 11, 4, own_mb=50.0)
ACCOUNT = Ledger("r", "c", 20, {Outcome.PASS: 20}, (), (), False)


def test_every_part_has_its_verdict_and_its_line(tmp_path: Path) -> None:
    """With engines that are late and raise, pictures that cannot be read and a camera that goes dark."""
    found = soak(2_100, 10.0, tmp_path, None, Progress(disable=True))

    assert [problem for problem in found["problems"] if not problem.startswith("memory")] == []
    verdicts = found["verdicts"]
    assert sum(verdicts.values()) == 2_100
    assert (verdicts["LATE"], verdicts["ERROR"]) == (found["late_results"], 2_100 // 1_013 + 6 + 2_100 // 1_009)
    assert min(verdicts["PASS"], verdicts["FAIL"]) > 50
    assert len(found["samples"]) == 11


@pytest.mark.parametrize(
    ("last", "account", "seqs", "says"),
    [
        (WARM, ACCOUNT, range(20), None),
        (replace(WARM, rss_mb=101.9), ACCOUNT, range(20), None),
        (replace(WARM, rss_mb=102.1), ACCOUNT, range(20), "memory grew by 2.1%"),
        (replace(WARM, rss_mb=70.0, own_mb=51.9), ACCOUNT, range(20), None),
        (replace(WARM, rss_mb=70.0, own_mb=52.1), ACCOUNT, range(20), "memory of its own grew by 2.1% of 100.0 MB"),
        (replace(WARM, descriptors=12), ACCOUNT, range(20), "descriptors: 11 at first, 12 at last"),
        (replace(WARM, threads=5), ACCOUNT, range(20), "threads: 4 at first, 5 at last"),
        (WARM, replace(ACCOUNT, triggers=21), range(20), "the account: run r"),
        (WARM, ACCOUNT, [*range(19), 18], "verdict lines"),
    ],
    ids=["holds", "breathes", "memory", "files go", "hidden", "descriptors", "threads", "account", "lines"],
)
def test_each_bar_can_be_missed(last: Sample, account: Ledger, seqs: list[int], says: str | None) -> None:
    """A bar that cannot fail tells nothing."""
    problems = missed(WARM, last, account, list(seqs), 20)

    assert len(problems) == (says is not None)
    assert says is None or problems[0].startswith(says)
