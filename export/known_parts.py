"""Known parts: pictures whose label is known to a bundle, found again by their SHA-256."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mapl_edge.bundle import DEFECTS, Bundle
from mapl_edge.dataset import check_folder, picture_paths
from mapl_edge.errors import BundleError, DataError
from mapl_edge.files import new_file, sha256_of
from mapl_edge.picture import PICTURE_SUFFIXES, picture_from_file


@dataclass(frozen=True, slots=True)
class Part:
    """One picture file: what people call it, where it lies, the SHA-256 of its bytes."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class KnownParts:
    """The parts that the limits in force came from, and every labelled defect.

    Attributes:
        missing: names of those whose picture was not found.
    """

    good: tuple[Part, ...]
    defects: tuple[Part, ...]
    missing: tuple[str, ...]


def part_from_file(path: Path, name: str | None = None) -> Part:
    """A picture on disk.

    Raises:
        PictureError: it cannot be read.
    """
    picture_from_file(path)
    return Part(name or path.name, path, sha256_of(path))


def known_parts(bundle: Bundle, good: dict[str, str], defects: dict[str, str], folders: Sequence[Path]) -> KnownParts:
    """Look for pictures: defects in the bundle itself first, the rest by name and digest in folders, all levels deep.

    Args:
        bundle: whose defects/ holds what was labelled on the station.
        good, defects: SHA-256 by name, as calibration.yaml has them.
        folders: to look in.

    Raises:
        BundleError: a picture in defects/ is not what its name says.
        DataError: a folder does not exist.
    """
    labelled = labelled_defects(bundle)
    here = {part.digest for part in labelled}
    wanted_names = {Path(name).name for name in (*good, *defects)}
    files: dict[str, list[Path]] = {}
    for folder in folders:
        check_folder(folder)
        for path in picture_paths(folder, recursive=True):
            if path.name in wanted_names:
                files.setdefault(path.name, []).append(path)
    found_good, missing_good = _found(good.items(), files)
    found_bad, missing_bad = _found([(n, d) for n, d in defects.items() if d not in here], files)
    return KnownParts(found_good, labelled + found_bad, missing_good + missing_bad)


def labelled_defects(bundle: Bundle) -> tuple[Part, ...]:
    """What lies in defects/.

    Raises:
        BundleError: a file is not what its name says.
    """
    folder, found = bundle.path / DEFECTS, []
    for path in picture_paths(folder) if folder.is_dir() else []:
        if sha256_of(path) != path.stem:
            raise BundleError(f"{path}: was changed (its SHA-256 is not its name); remove it, or copy it again")
        found.append(Part(f"{DEFECTS}/{path.stem[:12]}", path, path.stem))
    return tuple(found)


def keep_defect(bundle: Bundle, part: Part) -> Part:
    """Copy a picture into the bundle's defects/; harmless if it is there already.

    Raises:
        DataError: training saw it as a good part, or it was taught.
        OutputError: the disk refuses.
    """
    if part.digest in bundle.manifest.trained_on:
        raise DataError(f"{part.path}: was trained on or taught as a good part; undo that first")
    suffix = part.path.suffix.lower()
    assert suffix in PICTURE_SUFFIXES
    kept = bundle.path / DEFECTS / f"{part.digest}{suffix}"
    if not kept.exists():
        with new_file(kept) as work:
            shutil.copyfile(part.path, work)
    return Part(f"{DEFECTS}/{part.digest[:12]}", kept, part.digest)


def _found(wanted: Iterable[tuple[str, str]], files: dict[str, list[Path]]) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    found, missing = [], []
    for name, digest in wanted:
        path = next((each for each in files.get(Path(name).name, []) if sha256_of(each) == digest), None)
        if path is None:
            missing.append(name)
        else:
            found.append(Part(name, path, digest))
    return tuple(found), tuple(missing)
