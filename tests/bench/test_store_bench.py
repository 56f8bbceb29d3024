"""The store's bench measures what it says."""

from pathlib import Path

from store import ACKNOWLEDGED, measure


def test_every_verdict_is_counted(tmp_path: Path) -> None:
    """It balances its own account; how fast is not asserted here."""
    figures = measure(tmp_path, 300)

    assert figures["verdicts"] == 300
    assert ACKNOWLEDGED > 0
    assert all(value > 0 for value in figures.values())
