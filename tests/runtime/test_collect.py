"""Pictures from the very camera, into a data set that training takes."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.arrays import UInt8Array
from mapl_edge.dataset import good_samples
from mapl_edge.errors import DataError, OutputError
from mapl_edge.frame import Frame
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime import source_from_uri
from mapl_edge.runtime.collect import collect, label_folder
from mapl_edge.testing import ManualClock, SyntheticLine
from mapl_edge.testing.faults import spoiled

LINE = SyntheticLine(size_hw=(96, 96))


class Pictures:
    """A source of these pictures, all of one moment."""

    live = False

    def __init__(self, images: list[UInt8Array]) -> None:
        self._images, self._clock = images, ManualClock()
        self.closed = False

    def shots(self) -> Iterator[Frame]:
        """See `Source`."""
        for seq, image in enumerate(self._images):
            yield Frame(image, seq, self._clock.monotonic(), self._clock.utc())

    def close(self) -> None:
        """See `Source`."""
        self.closed = True


def test_every_picture_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    """PNG, in order of their names, in the folder that training reads."""
    images = [LINE.good(i).image for i in range(12)]
    source = Pictures(images)

    done = collect(source, label_folder(tmp_path / "part"), 12)

    samples = good_samples(tmp_path / "part")
    assert (done.saved, done.ended, source.closed) == (12, False, True)
    assert {sample.path.parent for sample in samples} == {tmp_path / "part" / "train" / "good"}
    for sample, image in zip(samples, images, strict=True):
        np.testing.assert_array_equal(picture_from_file(sample.path), image)


def test_an_existing_set_is_continued_and_never_overwritten(tmp_path: Path) -> None:
    """Even when two captures run in the same millisecond."""
    folder = label_folder(tmp_path)
    collect(Pictures([LINE.good(i).image for i in range(3)]), folder, 3)
    before = {path: path.read_bytes() for path in folder.iterdir()}

    collect(Pictures([LINE.good(i).image for i in range(3, 7)]), folder, 4)

    assert {path: path.read_bytes() for path in before} == before
    assert len(list(folder.iterdir())) == 7


def test_pictures_too_like_the_last_one_are_left_out(tmp_path: Path) -> None:
    """Three of each part, with a little noise between them."""
    rng = np.random.default_rng(0)
    images = [cv2.add(LINE.good(i // 3).image, rng.integers(0, 2, (96, 96, 3), np.uint8)) for i in range(12)]

    done = collect(Pictures([np.asarray(image, np.uint8) for image in images]), tmp_path / "a", 4, min_change=2.0)

    assert (done.saved, done.alike) == (4, 6)


def test_stopping_keeps_what_is_there(tmp_path: Path) -> None:
    """Ctrl-C after the third of a live camera."""
    stop = threading.Event()
    source = source_from_uri("line:?size=96&fps=50")

    def progress(what: str, done: int, total: int) -> None:
        if done == 3:
            stop.set()

    done = collect(source, tmp_path / "a", 50, stop=stop, progress=progress)

    assert (done.saved, done.ended) == (3, True)
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_a_stop_ends_a_camera_that_gives_nothing(tmp_path: Path) -> None:
    """No picture ever comes; whoever stops need not wait for one."""
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()

    done = collect(source_from_uri("line:?size=96&fps=0.01"), tmp_path / "a", 5, stop=stop)

    assert (done.saved, done.ended) == (0, True)


def test_a_source_that_ends_early_is_told(tmp_path: Path) -> None:
    """Two pictures where five were wanted, and one that cannot be read."""
    done = collect(source_from_uri("line:?parts=3&size=96&faults=corrupt:1-1"), tmp_path / "a", 5)

    assert (done.saved, done.unreadable, done.ended) == (2, 1, True)


@pytest.mark.parametrize(
    ("kind", "images"),
    [
        ("black", [LINE.good(0).image // 40]),
        ("over-exposed", [np.full((96, 96, 3), 253, np.uint8)]),
        ("blurred", [np.asarray(cv2.GaussianBlur(LINE.good(0).image, (0, 0), 8), np.uint8)]),
        ("identical", [LINE.good(0).image] * 2),
        ("changed", [*(LINE.good(i).image for i in range(10)), spoiled(LINE.good(10).image, "dark")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_nobody_should_train_on_is_told(tmp_path: Path, kind: str, images: list[UInt8Array]) -> None:
    """Once for each kind; the picture is written all the same."""
    told: list[str] = []

    done = collect(Pictures(images), tmp_path / "a", len(images), tell=told.append)

    assert dict(done.troubles) == {kind: 1}
    assert done.saved == len(images)
    assert len(told) == 1
    assert told[0].startswith(f"warning: picture {len(images) - 1} ")


def test_healthy_pictures_raise_no_doubt(tmp_path: Path) -> None:
    """Also beyond the first ten, and with defects."""
    told: list[str] = []
    images = [LINE.good(i).image for i in range(10)] + [LINE.part(i).image for i in range(10, 40)]

    done = collect(Pictures(images), tmp_path / "a", 40, tell=told.append)

    assert told == []
    assert not done.troubles


def test_a_continued_set_is_compared_with_its_own_pictures(tmp_path: Path) -> None:
    """The lens was knocked over night."""
    collect(Pictures([LINE.good(i).image for i in range(10)]), tmp_path / "a", 10)

    done = collect(Pictures([spoiled(LINE.good(10).image, "dark")]), tmp_path / "a", 1, tell=lambda line: None)

    assert dict(done.troubles) == {"changed": 1}


@pytest.mark.parametrize("label", ["", ".", "..", "a/b", "/tmp", ".hidden"])
def test_a_label_is_a_plain_name(tmp_path: Path, label: str) -> None:
    """It becomes a folder inside the data set, and nowhere else."""
    with pytest.raises(DataError, match="expected a plain name"):
        label_folder(tmp_path, label)


@pytest.mark.parametrize("inside", ["", "good"])
def test_a_plain_folder_of_pictures_is_not_hidden_by_a_train_folder(tmp_path: Path, inside: str) -> None:
    """Training would read train/good and forget them."""
    collect(Pictures([LINE.good(0).image]), tmp_path / inside, 1)

    with pytest.raises(DataError, match="training would not see"):
        label_folder(tmp_path)


def test_a_full_disk_says_so_and_keeps_what_is_there(tmp_path: Path) -> None:
    """Whole pictures, no crumbs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(OutputError, match=r"the disk is full; .*; \d+ pictures before it are kept"):
            collect(Pictures([LINE.good(i).image for i in range(20)]), disk / "a", 20)

        left = sorted((disk / "a").iterdir())
        assert left
        for path in left:
            assert picture_from_file(path).shape == (96, 96, 3)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
