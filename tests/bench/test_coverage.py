"""The bench that proves the promise, small."""

import pytest

import coverage as bench


@pytest.mark.parametrize("name", sorted(bench.DISTRIBUTIONS))
@pytest.mark.parametrize("n", [30, 150])
def test_the_promise_is_kept_and_not_by_being_loose(name: str, n: int) -> None:
    """Any distribution, too few pictures for the wish or enough."""
    row = bench.coverage(name, n, draws=300, share=0.05, confidence=0.95)

    assert row.holds
    assert row.slack == 0


def test_a_promise_that_is_broken_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit two order statistics lower must not pass the bench."""
    honest = bench.limit_from_normals

    def too_tight(scores, *wish):  # type: ignore[no-untyped-def]
        limit = honest(scores, *wish)
        return type(limit)(**{f: getattr(limit, f) for f in limit.__slots__} | {"limit": sorted(scores)[-4]})

    monkeypatch.setattr(bench, "limit_from_normals", too_tight)

    assert not bench.coverage("normal", 100, draws=200, share=0.05, confidence=0.95).holds
