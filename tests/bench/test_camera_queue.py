"""The queue alone, against what it must be where that can be told by hand."""

import numpy as np
import pytest

from camera_queue import STATIONS, _Camera, latencies_ms, station_ms


@pytest.mark.parametrize("station", STATIONS[:3])
def test_cameras_that_come_in_turn_never_wait(station: str) -> None:
    """Each has the engine to itself."""
    found = station_ms(station, np.arange(4) / 4, 5.0, lambda: 20.0)

    assert found == pytest.approx([20.0] * 300)


def test_a_slow_camera_out_of_its_turn_makes_others_wait() -> None:
    """By at most one call, as a call is not broken off."""
    found = station_ms("one slow", np.arange(4) / 4, 5.0, lambda: 20.0)

    assert max(found) > 21.0
    assert max(found) <= 40.0


def test_two_that_come_at_once_go_one_after_the_other() -> None:
    """The earliest capture, and so the earliest deadline, first; each takes its newest frame when it is free."""
    cameras = [_Camera(np.array([0.0, 30.0, 60.0])), _Camera(np.array([1.0]))]

    assert latencies_ms(cameras, lambda: 50.0) == [[50.0, 120.0, 140.0], [99.0]]
