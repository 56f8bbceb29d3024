"""Folders of pictures: which are taken, in which order, and what they are called."""

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.dataset import BadPictures, Sample, defect_samples, good_samples, labelled_samples, picture_paths
from mapl_edge.errors import DataError, PictureError


def put(path: Path, pixels: np.ndarray | None = None) -> Path:
    """Write a picture, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 24, 3), 90, np.uint8) if pixels is None else pixels)
    return path


def put_mvtec(data: Path) -> Path:
    """The smallest MVTec layout: two good parts to train on, one good and two defects to measure with."""
    for name in ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/dent/000.png"):
        put(data / name)
    put(data / "test/scratch/007.png")
    return data


def names(samples: list[Sample]) -> list[str]:
    """The samples' names, in order."""
    return [sample.name for sample in samples]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["train/good/1.png", "test/good/2.png"], ["train/good/1.png"], id="mvtec"),
        pytest.param(["2.png", "1.jpg"], ["1.jpg", "2.png"], id="plain-folder"),
        pytest.param(["good/1.png", "dent/2.png"], ["good/1.png"], id="good-sub-folder"),
        pytest.param(["good/1.png", "3.png"], ["good/1.png"], id="good-sub-folder-beside-pictures"),
        pytest.param(["10.png", "9.png", "a.PNG", "B.png"], ["10.png", "9.png", "B.png", "a.PNG"], id="sorted"),
        pytest.param(["1.png", ".2.png", "._1.png"], ["1.png"], id="hidden-files-are-left-out"),
        pytest.param(["1.png", "deeper/2.png"], ["1.png"], id="sub-folders-are-left-out"),
    ],
)
def test_good_parts_are_found(files: list[str], expected: list[str], tmp_path: Path) -> None:
    """Training takes good parts and nothing else, in an order that a seed can rely on."""
    for name in files:
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("shift 2")

    samples = good_samples(tmp_path)

    assert names(samples) == expected
    assert all(sample.is_good and sample.mask_path is None for sample in samples)


def missing(folder: Path) -> None:
    """Leave the folder out."""


def a_file(folder: Path) -> None:
    """Put a file where the folder should be."""
    folder.write_text("")


def empty(folder: Path) -> None:
    """An empty folder."""
    folder.mkdir()


def only_text(folder: Path) -> None:
    """A folder with a file that is no picture."""
    folder.mkdir()
    (folder / "notes.txt").write_text("")


def only_folders(folder: Path) -> None:
    """A folder of folders, none of them called good."""
    put(folder / "dent" / "1.png")


def train_without_good(folder: Path) -> None:
    """MVTec layout, but the good parts are called otherwise."""
    put(folder / "train" / "ok" / "1.png")


def no_defect(folder: Path) -> None:
    """MVTec layout without a defect."""
    put(folder / "test" / "good" / "1.png")


def only_defects(folder: Path) -> None:
    """MVTec layout whose test/good is empty."""
    put(folder / "test" / "dent" / "1.png")
    (folder / "test" / "good").mkdir()


NO_GOOD_PARTS = {
    missing: "no such folder; expected",
    a_file: "is a file, expected a folder",
    empty: "found no picture, expected pictures of good parts",
    only_text: "found no picture, expected pictures of good parts",
    only_folders: r"found only folders \(dent\), expected pictures of good parts",
    train_without_good: "has train/ or test/ but no train/good; put",
}
NOT_BOTH_CLASSES = {
    missing: "no such folder",
    a_file: "is a file, expected a folder",
    empty: "found no test/good; label some pictures by folder",
    no_defect: "found 1 good and 0 defective pictures, expected both",
    only_defects: "found 0 good and 1 defective pictures, expected both",
}


@pytest.mark.parametrize("arrange", NO_GOOD_PARTS, ids=lambda arrange: arrange.__name__)
def test_folder_without_good_parts_is_refused(arrange: Callable[[Path], None], tmp_path: Path) -> None:
    """The message says what was found and where the pictures belong."""
    arrange(tmp_path / "part")

    with pytest.raises(DataError, match=rf"{tmp_path}/part.*{NO_GOOD_PARTS[arrange]}"):
        good_samples(tmp_path / "part")


@pytest.mark.parametrize("arrange", NOT_BOTH_CLASSES, ids=lambda arrange: arrange.__name__)
def test_folder_without_both_classes_is_refused(arrange: Callable[[Path], None], tmp_path: Path) -> None:
    """With one class nothing can be measured; a number would lie."""
    arrange(tmp_path / "part")

    with pytest.raises(DataError, match=rf"{tmp_path}/part.*{NOT_BOTH_CLASSES[arrange]}"):
        labelled_samples(tmp_path / "part")


def test_labelled_parts_are_found_in_order(tmp_path: Path) -> None:
    """Sorted by label, then by name: every run reads them alike."""
    samples = labelled_samples(put_mvtec(tmp_path))

    assert names(samples) == ["dent/000.png", "good/000.png", "scratch/007.png"]
    assert [sample.label for sample in samples] == ["dent", "good", "scratch"]


def test_label_is_the_folder_and_not_a_part_of_the_path(tmp_path: Path) -> None:
    """`not_good` is a defect, also on a path with "good" in it and for a file called good.png."""
    data = tmp_path / "good" / "all_good_parts"
    for name in ("good/bad.png", "not_good/good.png", "goodish/0.png"):
        put(data / "test" / name)

    samples = labelled_samples(data)

    assert {sample.name: sample.is_good for sample in samples} == {
        "good/bad.png": True,
        "not_good/good.png": False,
        "goodish/0.png": False,
    }


def test_hidden_folder_is_no_defect(tmp_path: Path) -> None:
    """Editors and file managers leave .thumbnails and .ipynb_checkpoints behind; their pictures are not parts."""
    put(put_mvtec(tmp_path) / "test" / ".ipynb_checkpoints" / "000-checkpoint.png")

    assert {sample.label for sample in labelled_samples(tmp_path)} == {"good", "dent", "scratch"}


def test_recursive_search_finds_deeper_pictures(tmp_path: Path) -> None:
    """Texture folders such as DTD have one folder per kind; hidden ones are left out."""
    for name in ("b/1.png", "a/c/2.jpg", "0.png", ".trash/3.png"):
        put(tmp_path / name)

    found = picture_paths(tmp_path, recursive=True)

    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["0.png", "a/c/2.jpg", "b/1.png"]


@pytest.mark.parametrize("name", ["000_mask.png", "000.png"])
def test_mask_is_found_by_both_names(name: str, tmp_path: Path) -> None:
    """MVTec writes 000_mask.png, other sets 000.png."""
    data = put_mvtec(tmp_path)
    mask = put(data / "ground_truth" / "dent" / name)
    put(data / "ground_truth" / "scratch" / "000_mask.png")  # of another picture

    assert [sample.mask_path for sample in labelled_samples(data)] == [mask, None, None]


def test_few_real_defects_are_found_in_order(tmp_path: Path) -> None:
    """Sorted by label, then by name; good parts, hidden folders and loose files are none."""
    for name in ("scratch/1.png", "dent/2.png", "dent/1.jpg", "good/1.png", ".trash/1.png", "loose.png"):
        put(tmp_path / "train" / name)
    (tmp_path / "train" / "empty").mkdir()
    put(tmp_path / "test/dent/9.png")

    samples = defect_samples(tmp_path)

    assert names(samples) == ["train/dent/1.jpg", "train/dent/2.png", "train/scratch/1.png"]
    assert [sample.label for sample in samples] == ["dent", "dent", "scratch"]
    assert not any(sample.is_good for sample in samples)
    assert names(good_samples(tmp_path)) == ["train/good/1.png"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["train/good/1.png", "test/dent/1.png"], id="only-good"),
        pytest.param(["1.png", "2.png"], id="plain-folder"),
        pytest.param(["good/1.png", "dent/1.png"], id="plain-folder-with-sub-folders"),
    ],
)
def test_without_real_defects_there_are_none(files: list[str], tmp_path: Path) -> None:
    """The usual case is no mistake; test defects are never trained on."""
    for name in files:
        put(tmp_path / name)

    assert defect_samples(tmp_path) == []


def test_real_defects_of_a_missing_folder_are_a_mistake(tmp_path: Path) -> None:
    """A typing error must not read as "no defects"."""
    with pytest.raises(DataError, match="no such folder"):
        defect_samples(tmp_path / "botle")


@pytest.mark.parametrize(
    ("masks", "test_picture", "expected"),
    [
        pytest.param([], None, None, id="no-mask"),
        pytest.param(["scratch/000_mask.png"], None, "scratch/000_mask.png", id="mvtec-name"),
        pytest.param(["scratch/000.png"], None, "scratch/000.png", id="plain-name"),
        pytest.param(["scratch/000_mask.png"], "scratch/001.png", "scratch/000_mask.png", id="test-has-other-names"),
        pytest.param(["scratch/000_mask.png"], "dent/000.png", "scratch/000_mask.png", id="other-test-defect"),
        pytest.param(["scratch/000_mask.png"], "scratch/000.png", None, id="test-has-the-name"),
        pytest.param(["scratch/000_mask.png"], "scratch/000.jpg", None, id="test-has-the-name-as-jpg"),
        pytest.param(["train/scratch/000_mask.png"], "scratch/000.png", "train/scratch/000_mask.png", id="of-its-own"),
        pytest.param(
            ["train/scratch/000.png", "scratch/000_mask.png"], None, "train/scratch/000.png", id="its-own-goes-first"
        ),
        pytest.param(
            ["train/scratch/001.png", "scratch/000_mask.png"], "scratch/000.png", None, id="anothers-is-not-taken"
        ),
        pytest.param(["train/000_mask.png"], None, None, id="not-beside-the-folders"),
    ],
)
def test_real_defect_gets_its_own_mask_or_none(
    masks: list[str], test_picture: str | None, expected: str | None, tmp_path: Path
) -> None:
    """train/scratch/000.png and test/scratch/000.png are two parts: one's mask is wrong on the other."""
    put(tmp_path / "train/scratch/000.png")
    if test_picture:
        put(tmp_path / "test" / test_picture)
    for mask in masks:
        put(tmp_path / "ground_truth" / mask)

    (sample,) = defect_samples(tmp_path)

    assert sample.mask_path == (expected and tmp_path / "ground_truth" / expected)


def test_masks_that_belong_to_test_pictures_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever drew masks for these pictures learns why they are not used, once per folder."""
    for name in ("000", "001", "002"):
        put(tmp_path / "train/scratch" / f"{name}.png")
        put(tmp_path / "ground_truth/scratch" / f"{name}_mask.png")
    put(tmp_path / "test/scratch/000.png")
    put(tmp_path / "test/scratch/001.png")

    with caplog.at_level(logging.WARNING, logger="mapl_edge.dataset"):
        samples = defect_samples(tmp_path)

    assert [sample.mask_path is None for sample in samples] == [True, True, False]
    assert caplog.messages == [
        f"{tmp_path}/train/scratch: 2 pictures are used without a mask, since test/scratch has pictures of the same "
        "names; put their masks into ground_truth/train/scratch"
    ]


def drawing(value: int | tuple[int, int, int], hw: tuple[int, int] = (20, 24)) -> np.ndarray:
    """A mask whose left half is drawn with `value`."""
    pixels = np.zeros((*hw, 3) if isinstance(value, tuple) else hw, np.uint8)
    pixels[:, : hw[1] // 2] = value
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(drawing(255), id="white"),
        pytest.param(drawing(1), id="ones"),
        pytest.param(drawing((0, 0, 255)), id="red"),
        pytest.param(drawing(255, (40, 48)), id="twice-the-size"),
        pytest.param(drawing(255, (60, 24)), id="another-shape"),
    ],
)
def test_drawn_half_is_the_mask(pixels: np.ndarray, tmp_path: Path) -> None:
    """Whoever drew it and at what size: 1 where it is drawn, 0 elsewhere, never silently empty."""
    path = put(tmp_path / "000_mask.png", pixels)
    expected = np.zeros((20, 24), np.uint8)
    expected[:, :12] = 1

    mask = Sample(tmp_path / "000.png", "dent", path, tmp_path).mask((20, 24))

    assert mask is not None
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


def test_mask_is_resized_without_grey_edges(tmp_path: Path) -> None:
    """Nearest, so that every drawn pixel becomes a whole block."""
    drawn = np.random.default_rng(0).integers(0, 2, (16, 20), np.uint8)
    path = put(tmp_path / "000_mask.png", 255 * drawn)

    mask = Sample(tmp_path / "000.png", "dent", path, tmp_path).mask((48, 40))

    assert np.array_equal(mask, drawn.repeat(3, axis=0).repeat(2, axis=1))


def test_good_part_has_an_empty_mask(tmp_path: Path) -> None:
    """Its pixels are all normal; that is knowledge, not a gap."""
    mask = Sample(tmp_path / "000.png", "good", None, tmp_path).mask((32, 64))

    assert mask is not None
    assert mask.shape == (32, 64)
    assert not mask.any()


def test_defect_that_nobody_drew_has_no_mask(tmp_path: Path) -> None:
    """Zeros would claim that the defect is nowhere."""
    assert Sample(tmp_path / "000.png", "dent", None, tmp_path).mask((32, 32)) is None


def samples_with_a_bad_one(folder: Path) -> list[Sample]:
    """Three pictures, the middle one empty."""
    put(folder / "1.png")
    (folder / "2.png").write_bytes(b"")
    put(folder / "3.png")
    return good_samples(folder)


def test_first_bad_picture_stops_by_default(tmp_path: Path) -> None:
    """A truncated set should be noticed before an hour of training."""
    samples = samples_with_a_bad_one(tmp_path)

    with pytest.raises(PictureError, match=r"2\.png: the file is empty"):
        list(BadPictures().read(samples))


def test_skipped_pictures_are_kept_in_mind(tmp_path: Path) -> None:
    """--skip-bad goes on and can tell afterwards what was left out."""
    bad = BadPictures(skip=True)

    read = [sample.name for sample, _ in bad.read(samples_with_a_bad_one(tmp_path))]

    assert read == ["1.png", "3.png"]
    assert [Path(error.path).name for error in bad.errors] == ["2.png"]
