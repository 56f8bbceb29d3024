"""The ways that bench/latency.py compares get the same frames, each with the extras that it names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import latency


def test_every_way_is_timed_on_every_frame(
    calibrated: Path, calibration_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the bare engine to everything on; each frame has its verdict, and none is the camera's fault."""
    options = ["--source", str(calibration_data), "--frames", "7", "--fps", "100", "--json"]
    monkeypatch.setattr(sys, "argv", ["latency.py", str(calibrated), *options])
    latency.main()
    found = json.loads(capsys.readouterr().out)

    assert {latency.BARE, *latency.WAYS} < set(found)
    assert sum(found["verdicts"].values()) == 7 + 1  # one to warm up
    assert set(found["verdicts"]) <= {"PASS", "FAIL"}
    for name in latency.WAYS:
        assert 0 < found[name]["beside_p50"] < found[name]["p50"]


def test_everything_is_every_extra() -> None:
    """An extra that is left out would look cheap."""
    assert latency.WAYS[latency.ALL] == frozenset().union(*latency.WAYS.values())
    assert latency.WAYS[latency.PLAIN] == frozenset()
