"""Dataset: folders of pictures, labelled by where they lie.

Two layouts are understood. A plain folder holds pictures of good parts. The MVTec layout has `train/good`,
`test/good`, `test/<defect>` and `ground_truth/<defect>/<name>_mask.png`; a few real defects may be in `train/<defect>`.
Everything is sorted, so that a seed means the same everywhere; labels are folder names, never substrings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.errors import DataError, PictureError
from mapl_edge.picture import PICTURE_SUFFIXES, picture_from_file

logger = logging.getLogger(__name__)

GOOD = "good"
MAX_SHAPE_DIFFERENCE = 0.02  # of a mask's ratio of sides from its picture's; rounding needs some


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        path: of the picture.
        label: "good" or the defect's name.
        mask_path: where the defect is, if somebody drew it.
        root: the folder that `name` is relative to.
    """

    path: Path
    label: str
    mask_path: Path | None
    root: Path

    @property
    def name(self) -> str:
        """The path inside its folder, with forward slashes."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def is_good(self) -> bool:
        """Whether the part is good."""
        return self.label == GOOD

    def mask(self, size_hw: tuple[int, int], picture_hw: tuple[int, int] | None = None) -> UInt8Array | None:
        """Where the defect is in the whole picture; `mapl_edge.prepare.prepared_mask` knows the region of interest.

        Args:
            size_hw: height and width to resize the drawing to.
            picture_hw: those of the picture, to check that the drawing has its shape; None: any will do.

        Returns:
            uint8 (H, W), 0 or 1, resized by nearest; zeros for a good part and for an empty drawing; None where nobody
            drew the defect.

        Raises:
            PictureError: the drawing cannot be read, or its sides' ratio differs from the picture's by more than 2 %.
        """
        if self.is_good:
            return np.zeros(size_hw, np.uint8)
        if self.mask_path is None:
            return None
        drawn = picture_from_file(self.mask_path).max(axis=2)
        if picture_hw is not None:
            _check_shape(self.mask_path, drawn.shape, picture_hw)
        resized = cv2.resize(drawn, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(resized > 0, np.uint8)


@dataclass
class BadPictures:
    """What to do with pictures that cannot be used: stop at the first (default), or count them and go on."""

    skip: bool = False
    errors: list[PictureError] = field(default_factory=list)

    def report(self, error: PictureError) -> None:
        """Raise `error`, or remember it if bad pictures are skipped."""
        if not self.skip:
            raise PictureError(error.path, f"{error.problem}, or pass --skip-bad") from error
        self.errors.append(error)

    def read(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, UInt8Array]]:
        """Yield each usable sample with its picture, uint8 (H, W, 3) BGR."""
        for sample in samples:
            try:
                image = picture_from_file(sample.path)
            except PictureError as exc:
                self.report(exc)
                continue
            yield sample, image


def good_samples(data: Path) -> list[Sample]:
    """The good parts to train or calibrate with: `data/train/good`, or `data` itself when it is a plain folder.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    check_folder(data)
    folder = data / "train" / GOOD
    if not folder.is_dir():
        if (data / "train").is_dir() or (data / "test").is_dir():
            raise DataError(f"{data}: has train/ or test/ but no train/good; put the pictures of good parts there")
        folder = data / GOOD if (data / GOOD).is_dir() else data
    samples = [Sample(path, GOOD, None, data) for path in picture_paths(folder)]
    if not samples:
        inside = sorted(child.name for child in folder.iterdir() if child.is_dir())
        found = f"only folders ({', '.join(inside[:5])})" if inside else "no picture"
        raise DataError(
            f"{folder}: found {found}, expected pictures of good parts ({_suffixes()}) here or in train/good"
        )
    return samples


def labelled_samples(data: Path) -> list[Sample]:
    """The labelled parts to measure with: `data/test/<label>`, with masks from `data/ground_truth`.

    Raises:
        DataError: there is no test folder, no good part or no defect in it.
    """
    check_folder(data)
    test = data / "test"
    if not (test / GOOD).is_dir():
        raise DataError(
            f"{data}: expected test/good and test/<defect> to measure with, found no test/good; "
            "label some pictures by folder"
        )
    samples = []
    for folder in _label_folders(test):
        masks = data / "ground_truth" / folder.name
        for path in picture_paths(folder):
            samples.append(Sample(path, folder.name, None if folder.name == GOOD else _mask_in(masks, path), test))
    if not any(s.is_good for s in samples) or all(s.is_good for s in samples):
        n_good = sum(s.is_good for s in samples)
        raise DataError(
            f"{test}: found {n_good} good and {len(samples) - n_good} defective pictures, expected both; "
            "add pictures to test/good and test/<defect>"
        )
    return samples


def bad_samples(data: Path, tell: Callable[[str], None] = logger.warning) -> list[Sample]:
    """Pictures of defective parts in a folder and below; the folder that a picture lies in is its label.

    `data/good` is left out, and `tell` gets a line that says so.

    Raises:
        DataError: there is no picture, or a folder says that its parts are good.
    """
    check_folder(data)
    paths = picture_paths(data, recursive=True)
    good = {path for path in paths if path.relative_to(data).parts[:-1] == (GOOD,)}
    if 0 < len(good) < len(paths):
        tell(f"left out {data / GOOD}: its {len(good)} pictures are good parts by its name")
        paths = [path for path in paths if path not in good]
    if not paths:
        raise DataError(f"{data}: found no picture, expected pictures of defective parts ({_suffixes()})")
    for path in paths:
        if path.parent.name == GOOD:
            raise DataError(
                f"{path.parent}: holds good parts by its name, but was given as defective; name a folder of defects"
            )
    return [Sample(path, path.parent.name, None, data) for path in paths]


def samples_of(folders: Sequence[Path], samples_in: Callable[[Path], list[Sample]]) -> list[Sample]:
    """The parts of all these folders, each file once; where there are several, named from the one that holds them all.

    Raises:
        DataError: as `samples_in`, of any folder.
    """
    found = [sample for folder in folders for sample in samples_in(folder)]
    if len(folders) < 2:
        return found
    root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    moved = [replace(sample, path=Path(os.path.abspath(sample.path)), root=root) for sample in found]
    return list({sample.path: sample for sample in moved}.values())


def folder_samples(data: Path) -> list[Sample]:
    """Every picture in a folder and below, labelled by the folder that it lies in.

    Raises:
        DataError: there is no picture.
    """
    check_folder(data)
    samples = [Sample(path, path.parent.name, None, data) for path in picture_paths(data, recursive=True)]
    if not samples:
        raise DataError(f"{data}: found no picture, expected some ({_suffixes()})")
    return samples


def check_good_by_name(data: Path) -> None:
    """Raise DataError when a folder is one of `test/<defect>` or `train/<defect>`, beside `good`."""
    folder = data.resolve()
    if folder.name != GOOD and folder.parent.name in ("test", "train") and (folder.parent / GOOD).is_dir():
        raise DataError(f"{data}: holds defective parts by its place beside {GOOD}, but was given as good")


def defect_samples(data: Path) -> list[Sample]:
    """The few real defects to train with: `data/train/<defect>`, every folder there but `good`, sorted.

    A picture's mask is looked for in `data/ground_truth/train/<defect>`, as `<name>_mask.png` or `<name>.png`. Only
    where no picture in `data/test/<defect>` has the same name it may also lie in `data/ground_truth/<defect>`; else
    that mask belongs to the test's picture, and the sample has none.

    Returns:
        The samples; none where `data/train` is missing (a plain folder) or holds nothing but `good`.

    Raises:
        DataError: `data` is no folder.
    """
    check_folder(data)
    train = data / "train"
    samples: list[Sample] = []
    for folder in _label_folders(train) if train.is_dir() else ():
        if folder.name == GOOD:
            continue
        test = data / "test" / folder.name
        tested = {path.stem for path in picture_paths(test)} if test.is_dir() else set()
        n_ambiguous = 0
        for path in picture_paths(folder):
            mask = _mask_in(data / "ground_truth" / "train" / folder.name, path)
            shared = _mask_in(data / "ground_truth" / folder.name, path) if mask is None else None
            if shared is not None and path.stem in tested:
                n_ambiguous += 1
            else:
                mask = mask or shared
            samples.append(Sample(path, folder.name, mask, data))
        if n_ambiguous:
            logger.warning(
                "%s: %d pictures are used without a mask, since test/%s has pictures of the same names; "
                "put their masks into ground_truth/train/%s",
                *(folder, n_ambiguous, folder.name, folder.name),
            )
    return samples


def picture_paths(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, sorted by path; hidden files are left out."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()  # a dangling link is a picture that cannot be read, and gets told
    )


def check_folder(folder: Path) -> None:
    """Raise DataError unless `folder` is a folder."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; expected pictures of good parts, or train/good and test/<label>")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder of pictures")


def _label_folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _mask_in(folder: Path, picture: Path) -> Path | None:
    for name in (f"{picture.stem}_mask.png", f"{picture.stem}.png"):
        path = folder / name
        if path.is_file():
            return path
    return None


def _check_shape(mask: Path, drawn_hw: tuple[int, ...], picture_hw: tuple[int, int]) -> None:
    (mask_h, mask_w), (h, w) = drawn_hw, picture_hw
    difference = abs(mask_w * h / (mask_h * w) - 1)
    if difference > MAX_SHAPE_DIFFERENCE:
        raise PictureError(
            mask,
            f"found a mask of {mask_w}x{mask_h} px for a picture of {w}x{h} px, expected the same shape at any size; "
            "draw it on the whole picture or remove it",
        )


def _suffixes() -> str:
    return " ".join(sorted(PICTURE_SUFFIXES))
