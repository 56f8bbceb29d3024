"""Sources by one URI grammar: files give everything, bad names are told apart, bad pictures become blanks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.errors import CameraUnreachable, ConfigError, MaplEdgeError
from mapl_edge.frame import Frame
from mapl_edge.runtime.sources import Blank, redact, source_from_uri
from mapl_edge.testing import ManualClock, SyntheticLine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different kinds in two sub-folders, and one that is broken."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "b" / "grey.png"), np.full((40, 50), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "a" / "colour.png"), np.full((60, 30, 3), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "a" / "deep.png"), np.full((20, 20), 257 * 5, np.uint16))
    (tmp_path / "b" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return tmp_path


def test_a_folder_gives_every_picture_in_order(folder: Path) -> None:
    """Sorted by path; a broken one keeps its place and number as a blank."""
    shots = list(source_from_uri(str(folder), ManualClock()).shots())

    assert [shot.name for shot in shots] == ["a/colour.png", "a/deep.png", "b/broken.jpg", "b/grey.png"]
    assert [shot.seq for shot in shots] == [0, 1, 2, 3]
    assert isinstance(shots[2], Blank)
    assert "truncated" in shots[2].problem
    assert [int(s.image[0, 0, 0]) for s in shots if isinstance(s, Frame)] == [7, 5, 9]


def test_a_dangling_link_is_a_blank(folder: Path) -> None:
    """A picture that vanished must not vanish from the record too."""
    (folder / "gone.png").symlink_to(folder / "nowhere.png")

    last = list(source_from_uri(str(folder), ManualClock()).shots())[-1]

    assert isinstance(last, Blank)
    assert "cannot be read" in last.problem


def test_a_single_picture_and_a_file_uri(folder: Path) -> None:
    """file: and a bare path are the same."""
    for uri in (str(folder / "a" / "colour.png"), f"file:{folder}/a/colour.png", f"file://{folder}/a/colour.png"):
        (shot,) = source_from_uri(uri, ManualClock()).shots()

        assert shot.name == "colour.png"


def test_a_video_gives_every_frame_and_ends(tmp_path: Path) -> None:
    """Motion JPEG written by OpenCV, read by FFmpeg."""
    path = tmp_path / "parts.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(7):
        writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    writer.release()

    shots = list(source_from_uri(str(path), ManualClock()).shots())

    assert [shot.seq for shot in shots] == list(range(7))
    assert shots[6].name == "parts.avi#6"
    means = [float(s.image.mean()) for s in shots if isinstance(s, Frame)]
    assert means == pytest.approx([30 * i for i in range(7)], abs=3)


def test_the_line_gives_its_parts() -> None:
    """With the same truth as the line itself."""
    source = source_from_uri("line:?parts=4&seed=2&start=10&defects=1&size=64", ManualClock())
    line = SyntheticLine(seed=2, defect_rate=1.0, size_hw=(64, 64))

    shots = list(source.shots())

    assert not source.live
    for i, shot in enumerate(shots):
        part = line.part(10 + i)
        assert isinstance(shot, Frame)
        assert shot.name == f"{10 + i:06d}-{part.defect}"
        assert np.array_equal(shot.image, part.image)


def test_stamps_come_from_the_clock() -> None:
    """So that tests can own time."""
    clock = ManualClock()
    shots = source_from_uri("line:?parts=2&size=64", clock).shots()

    first = next(shots)
    clock.advance(1.5)
    second = next(shots)

    assert second.t_mono - first.t_mono == 1.5
    assert (second.captured_at - first.captured_at).total_seconds() == 1.5


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("", CameraUnreachable, "the source is empty"),
        ("99", CameraUnreachable, "camera 99 cannot be opened"),
        ("/no/such/place", CameraUnreachable, "no such file or folder"),
        ("ftp://user:secret@host/x", CameraUnreachable, "scheme 'ftp' is not known"),
        ("line:?prats=3", ConfigError, "did you mean 'parts'"),
        ("line:?parts=0&defects=2", ConfigError, "parts.*defects"),
        ("line:?pose=upside", ConfigError, "pose"),
    ],
    ids=["nothing", "no camera", "no file", "scheme", "line key", "line values", "line pose"],
)
def test_a_wrong_uri_says_what_is_wrong(uri: str, error: type[MaplEdgeError], says: str) -> None:
    """At once, and never with the password."""
    with pytest.raises(error, match=says) as caught:
        source_from_uri(uri, ManualClock())

    assert "secret" not in str(caught.value)


def test_an_empty_folder_and_a_text_file_are_refused(tmp_path: Path) -> None:
    """A source that silently gives nothing looks like a line that stands still."""
    with pytest.raises(CameraUnreachable, match="no picture in this folder"):
        source_from_uri(str(tmp_path), ManualClock())
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(CameraUnreachable, match="not a video"):
        source_from_uri(str(tmp_path / "notes.txt"), ManualClock())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [("rtsp://a:b@h/1", "rtsp://a:***@h/1"), ("rtsp://h/1", "rtsp://h/1"), ("folder", "folder")],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    """Logs travel."""
    assert redact(uri) == shown
