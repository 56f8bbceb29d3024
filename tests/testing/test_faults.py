"""Faults come as ordered: the same for the same seed, in the line itself, over HTTP and in a folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.errors import CameraUnreachable, ConfigError
from mapl_edge.frame import Frame
from mapl_edge.runtime.sources import Blank, source_from_uri
from mapl_edge.testing import Faults, LineServing, ManualClock, MjpegServer, SyntheticLine
from mapl_edge.testing.line_server import serve_folder


def test_shares_are_kept_and_follow_the_seed() -> None:
    """Over many frames; another seed loses others."""
    lost = [[Faults.from_text("drop:0.1", seed).fate(i).lost for i in range(2000)] for seed in (1, 1, 2)]

    assert lost[0] == lost[1] != lost[2]
    assert 150 < sum(lost[0]) < 250


def test_ranges_hold_both_ends() -> None:
    """Frames 3 to 5."""
    faults = Faults.from_text("freeze:3-5,unplug:7-8,wrong_colour:1-1,slow:0.25")
    fates = [faults.fate(i) for i in range(10)]

    assert [fate.shown for fate in fates] == [0, 1, 2, 2, 2, 2, 6, 7, 8, 9]
    assert [i for i, fate in enumerate(fates) if fate.unplugged] == [7, 8]
    assert [i for i, fate in enumerate(fates) if fate.swapped] == [1]
    assert {fate.late_s for fate in fates} == {0.25}


def test_a_burst_comes_five_at_once() -> None:
    """With the last of the five."""
    fates = [Faults.from_text("burst:5-9").fate(i) for i in range(12)]

    assert [fate.due for fate in fates] == [0, 1, 2, 3, 4, 9, 9, 9, 9, 9, 10, 11]


def test_jitter_is_another_lateness_for_each_frame() -> None:
    """Evenly up to its bound, on top of what is slow; the same for the same seed."""
    late_s = [[Faults.from_text("jitter:0.2,slow:0.1", seed).fate(i).late_s for i in range(500)] for seed in (1, 1, 2)]

    assert late_s[0] == late_s[1] != late_s[2]
    assert 0.1 <= min(late_s[0]) < 0.11
    assert 0.29 < max(late_s[0]) <= 0.3
    assert np.mean(late_s[0]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("kind", ["drop", "freeze", "burst", "corrupt"])
def test_without_a_number_a_twentieth_is_hit(kind: str) -> None:
    """About; a kind alone is the shortest rehearsal."""
    faults = Faults.from_text(kind)
    fates = [faults.fate(i) for i in range(4000)]
    hit = sum(f.lost or f.corrupt or f.shown != i or f.due != i // 5 * 5 + i % 5 for i, f in enumerate(fates))

    assert 120 < hit < 280


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drip:0.1", "'drip' is no fault; expected drop, freeze"),
        ("drop:2", "expected a share from 0 to 1"),
        ("freeze:9-3", "the first frame comes after the last"),
        ("unplug", "such as unplug:100-150"),
        ("slow", "such as slow:0.02"),
        ("jitter", "such as jitter:0.02"),
        ("drop,drop:0.5", "drop is there twice"),
    ],
)
def test_a_wrong_fault_is_told(text: str, says: str) -> None:
    """By the grammar, and as a mistake of the URI."""
    with pytest.raises(ValueError, match=says):
        Faults.from_text(text)
    with pytest.raises(ConfigError, match=f"faults: .*{says}"):
        source_from_uri(f"line:?faults={text}")


def test_the_line_as_a_source_has_faults() -> None:
    """A lost part is a gap in seq, a corrupt one a blank."""
    uri = "line:?parts=8&size=64&defects=0&faults=drop:0-0,freeze:2-2,unplug:3-3,wrong_colour:4-4,corrupt:5-5"
    line = SyntheticLine(defect_rate=0.0, size_hw=(64, 64))
    shots = list(source_from_uri(uri, ManualClock()).shots())

    assert [shot.seq for shot in shots] == [1, 2, 4, 5, 6, 7]
    assert isinstance(shots[3], Blank)
    images = {shot.seq: shot.image for shot in shots if isinstance(shot, Frame)}
    assert np.array_equal(images[1], images[2])
    assert np.array_equal(images[4], line.part(4).image[:, :, ::-1])
    assert np.array_equal(images[6], line.part(6).image)


def test_a_folder_fills_with_whole_pictures(tmp_path: Path) -> None:
    """What a fault loses is not there; nothing half-written is left."""
    serving = LineServing(SyntheticLine(size_hw=(64, 64)), Faults.from_text("drop:1-2"), fps=1000)

    written = serve_folder(serving, tmp_path, 5)

    assert written == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.jpg", "000003.jpg", "000004.jpg"]
    assert all(cv2.imread(str(path)) is not None for path in tmp_path.iterdir())


def test_an_unplugged_server_takes_no_calls() -> None:
    """And serves at the same port afterwards."""
    with MjpegServer(LineServing(SyntheticLine(size_hw=(64, 64)), fps=50)) as server:
        server.unplug()
        with pytest.raises(CameraUnreachable, match="nothing listens"):
            source_from_uri(server.url)
        server.plug()
        source = source_from_uri(server.url)
        assert next(iter(source.shots())).seq >= 0
        source.close()
