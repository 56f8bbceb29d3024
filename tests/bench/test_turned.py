"""Turned sets: every picture with its defect, whole, and the same for the same seed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import turned
from mapl_edge.dataset import good_samples, labelled_samples
from mapl_edge.errors import OutputError


def put(path: Path, image: np.ndarray) -> None:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Tall dark pictures; the defect is a white disk, drawn in its mask, near one end."""
    folder = tmp_path / "data"
    dark = np.full((300, 100, 3), 40, np.uint8)
    for place in ("train/good", "test/good"):
        put(folder / place / "0.png", dark)
    disk = cv2.circle(np.zeros((300, 100), np.uint8), (30, 250), 8, 255, -1)
    put(folder / "test/spot/0.png", np.maximum(dark, disk[..., None]))
    put(folder / "test/hidden/0.png", dark)  # nobody drew where
    put(folder / "ground_truth/spot/0_mask.png", disk)
    return folder


def test_a_turned_set_has_every_picture_and_the_defect_where_it_is_drawn(data: Path, tmp_path: Path) -> None:
    """Squares of the shorter side; the disk, which no turn changes, is white where the mask says and nowhere else."""
    assert turned.turned_set(data, tmp_path / "out") == 4

    found = labelled_samples(tmp_path / "out")
    assert [sample.name for sample in found] == [sample.name for sample in labelled_samples(data)]
    assert len(good_samples(tmp_path / "out")) == 1
    (spot,) = [sample for sample in found if sample.label == "spot"]
    picture = cv2.imread(str(spot.path))
    mask = spot.mask(picture.shape[:2], picture.shape[:2])
    assert picture.shape == (100, 100, 3)
    assert mask.sum() == pytest.approx(np.pi * 8**2, rel=0.1)
    white = picture[..., 0] > 147
    assert np.count_nonzero(white != (mask > 0)) < 20  # along its edge
    assert [sample.mask_path for sample in found if sample.label == "hidden"] == [None]


def test_each_picture_is_turned_by_its_own_angle_and_the_same_seed_turns_alike() -> None:
    """A bar through the middle comes out at any angle."""
    bar = np.zeros((101, 101, 3), np.uint8)
    bar[:, 48:53] = 255

    first, again = (
        [turned.turned(bar, None, rng)[0] for _ in range(3)] for rng in (np.random.default_rng(s) for s in (1, 1))
    )

    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == first[1]).all()


def test_what_is_there_is_not_replaced(data: Path, tmp_path: Path) -> None:
    """Nor half written."""
    turned.turned_set(data, tmp_path / "out")

    with pytest.raises(OutputError, match="exists"):
        turned.turned_set(data, tmp_path / "out")
