"""Sets of real parts at any angle: turned copies of data sets, to measure on what nothing was tuned to.

    python bench/turned.py --data data --out turned [--sets bottle magnetic_tile] [--seed 0]
    python bench/accuracy.py --data turned --out results --sets bottle magnetic_tile --contenders ours patchcore

From each picture of train/good and test/* a square is cut, as wide as its shorter side, turned by any angle about its
middle; where a corner leaves the picture, that is mirrored. The middle lies on the defect where one is drawn (as near
as the square stays inside the picture), else anywhere. Masks are cut alike (nearest). The same seed turns alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.dataset import BadPictures, good_samples, labelled_samples
from mapl_edge.files import new_folder


def main() -> None:
    """Write the sets that there are, each whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.sets or sorted(path.name for path in args.data.iterdir() if (path / "train" / "good").is_dir()):
        count = turned_set(args.data / name, args.out / name, args.seed)
        print(f"{args.out / name}: {count} pictures")


def turned_set(data: Path, out: Path, seed: int = 0) -> int:
    """Write a turned copy of one set in MVTec layout; how many pictures it has.

    Raises:
        DataError: `data` is not such a set.
        OutputError: `out` exists, or the disk refuses.
    """
    samples = [*good_samples(data), *labelled_samples(data)]
    rng = np.random.default_rng(seed)
    with new_folder(out, "train") as work:
        for sample, picture in BadPictures().read(samples):
            mask = None if sample.is_good else sample.mask(picture.shape[:2], picture.shape[:2])
            found, drawn = turned(picture, mask, rng)
            _write(work / sample.path.relative_to(data).with_suffix(".png"), found)
            if drawn is not None:
                _write(work / "ground_truth" / sample.label / f"{sample.path.stem}_mask.png", 255 * drawn)
    return len(samples)


def turned(
    picture: UInt8Array, mask: UInt8Array | None, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array | None]:
    """A turned square of a picture, uint8 (H, W, 3), and of where its defect is, uint8 (H, W), 0 or 1."""
    height, width = picture.shape[:2]
    side = min(height, width)
    low, high = np.full(2, side / 2), np.array([width, height]) - side / 2
    middle = rng.uniform(low, high)
    if mask is not None and mask.any():
        middle = np.clip([places.mean() for places in np.nonzero(mask)[::-1]], low, high)
    by = cv2.getRotationMatrix2D(tuple(middle - 0.5), rng.uniform(0, 360), 1.0)
    by[:, 2] += side / 2 - middle
    found, drawn = (
        None
        if each is None
        else np.asarray(cv2.warpAffine(each, by, (side, side), flags=how, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
        for each, how in ((picture, cv2.INTER_LINEAR), (mask, cv2.INTER_NEAREST))
    )
    assert found is not None
    return found, drawn


def _write(path: Path, image: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"cannot write {path}")


if __name__ == "__main__":
    main()
