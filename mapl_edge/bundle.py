"""Bundle: what travels to the edge. A folder whose every file is named with its SHA-256 in manifest.json.

    part.mapl/
      manifest.json      schema, family, contract, memory, digests, tool versions, training summary
      manifest.sha256    its own digest, as `sha256sum -c` reads it
      manifest.sig       a signature of the manifest, if somebody signed it (mapl_edge.signature)
      model.onnx         fused graph: uint8 NHWC in; score, map, nearest out
      encoder.onnx       split graphs: features and what to search for; FAISS index of the memory; features and
      memory.faiss         what was found in, score, map, nearest out
      decoder.onnx
      golden.npz         prepared pictures with the reference's raw scores and maps
      memory/NNN.jpg     the memory's normal pictures, to show beside a reject
      validation/*.jpg   held-out normals and simulated defects on them: what a lower precision costs
      teach/             good parts taught later, and what of the bundle they replaced (mapl_edge.export.teach)
      engines/NAME/      engines made for a library, device or precision (mapl_edge.engine_record); not in the manifest
      defects/           pictures labelled as defects on the station, each named by its SHA-256; not in the manifest
      calibration.yaml   thresholds; not in the manifest

What is not in the manifest may come and go; the model and its digest stay. Nothing is unpickled. A file is opened only
after its digest was checked.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mapl_edge.arrays import BoolArray, FloatArray, UInt8Array
from mapl_edge.calibration import UNREADABLE, Calibration, calibration_from_file, history_from_file
from mapl_edge.contract import InputContract
from mapl_edge.errors import BundleError, ContractMismatch, Uncalibrated
from mapl_edge.files import files_below, sha256_of, unfinished
from mapl_edge.picture import picture_from_file

BUNDLE_SCHEMA = 2
MANIFEST = "manifest.json"  # makes a folder a bundle
MODEL_JSON = "model.json"  # makes a folder a model, see mapl_edge.model.checkpoint
SEAL = "manifest.sha256"
SIGNATURE = "manifest.sig"
MODEL, ENCODER, DECODER = "model.onnx", "encoder.onnx", "decoder.onnx"
MEMORY = "memory.faiss"
ENGINES = "engines"
VALIDATION = "validation"
GOLDEN = "golden.npz"
CALIBRATION = "calibration.yaml"
DEFECTS = "defects"
TEACH = "teach"  # a record and its arrays for each lesson, and what the bundle was before the first


class MemorySummary(BaseModel):
    """What the model compares with: `samples` whole normal pictures (Eq. 7), or so many patches of them.

    `search` tells of the split graphs' index, see `mapl_edge.search.SearchSummary`; empty in the first bundles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str = "image"
    samples: int
    search: dict[str, Any] = {}


class Manifest(BaseModel):
    """What manifest.json holds.

    Attributes:
        trained_on: SHA-256 of every picture file that training saw, weights, memory or choice of step.
        held_out: SHA-256 of the good pictures that training set aside for calibration, by name.
        files: SHA-256 of every other file in the bundle, by its path inside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = BUNDLE_SCHEMA
    family: Literal["mapl"]
    created_at: str
    contract: InputContract
    memory: MemorySummary
    tools: dict[str, str]
    training: dict[str, Any]
    trained_on: tuple[str, ...]
    held_out: dict[str, str]
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise ValueError(f"path {name!r} leaves the bundle")
        return files


@dataclass(frozen=True, slots=True)
class Golden:
    """Prepared pictures and what the reference said of them.

    Attributes:
        pictures: uint8 (N, H, W, 3).
        scores, maps: float32 (N,), (N, H, W).
        pattern: what `prepare` made of `mapl_edge.parity.pattern`, uint8 (H, W, 3); None in the first bundles.
    """

    pictures: UInt8Array
    scores: FloatArray
    maps: FloatArray
    pattern: UInt8Array | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose digests were checked when it was opened."""

    path: Path
    manifest: Manifest
    digest: str

    @property
    def notes(self) -> list[str]:
        """What this bundle lacks because an older version wrote it, for people."""
        found = self.manifest.schema_version
        if found == BUNDLE_SCHEMA:
            return []
        return [
            f"{self.path}: schema {found} is read as {BUNDLE_SCHEMA}, without split graphs and validation pictures; "
            "export the model again to have them"
        ]

    @property
    def is_split(self) -> bool:
        """Whether it has split graphs too."""
        return ENCODER in self.manifest.files

    @property
    def model_path(self) -> Path:
        """The fused ONNX graph."""
        return self.path / MODEL

    @property
    def memory_path(self) -> Path:
        """The FAISS index of the split graphs."""
        return self.path / MEMORY

    @property
    def search_reach(self) -> float | None:
        """How far a search in that index reaches, see `mapl_edge.search.SearchSummary`; None leaves it to FAISS."""
        return self.manifest.memory.search.get("reach")

    @property
    def taught(self) -> frozenset[str]:
        """SHA-256 of the good parts that were taught; see `mapl_edge.export.lessons`."""
        records = [name for name in self.manifest.files if Path(name).match(f"{TEACH}/*.json") and name.count("/") == 1]
        return frozenset(
            digest for name in records for digest in json.loads((self.path / name).read_bytes())["parts"].values()
        )

    @property
    def contract(self) -> InputContract:
        """How pictures are prepared for this model."""
        return self.manifest.contract

    @property
    def calibration_path(self) -> Path:
        """Where the thresholds lie."""
        return self.path / CALIBRATION

    @cached_property
    def calibration(self) -> Calibration:
        """The thresholds.

        Raises:
            Uncalibrated: there are none yet.
            ContractMismatch: they belong to another bundle, or were made with pictures of another size.
        """
        if not self.calibration_path.is_file():
            raise Uncalibrated(
                f"{self.path}: no thresholds yet (calibration.yaml is missing); "
                f"run: mapl-edge calibrate {self.path} --good FOLDER_OF_GOOD_PARTS"
            )
        calibration = calibration_from_file(self.calibration_path)
        if calibration.model_digest != self.digest:
            raise ContractMismatch(
                f"{self.calibration_path}: was made for bundle {calibration.model_digest[:12]}, this one is "
                f"{self.digest[:12]}; run: mapl-edge calibrate {self.path} --good FOLDER_OF_GOOD_PARTS"
            )
        if calibration.place is not None:
            calibration.place.check(self.contract.size_hw)
        return calibration

    @property
    def calibration_history(self) -> tuple[Calibration, ...]:
        """Every calibration that this folder had, oldest first; earlier ones may be of another bundle.

        Raises:
            Uncalibrated, ContractMismatch: as `calibration`.
        """
        _ = self.calibration
        return history_from_file(self.calibration_path)

    @property
    def calibration_digest(self) -> str:
        """SHA-256 of calibration.yaml, in hex."""
        return sha256_of(self.calibration_path)

    def golden(self) -> Golden:
        """The golden pictures with the reference's answers."""
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                prepared = arrays.get("pattern")
                golden = Golden(arrays["pictures"], arrays["scores"], arrays["maps"], prepared)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            raise BundleError(f"{self.path}: {GOLDEN} cannot be read ({exc}); export again") from exc
        n, size_hw = len(golden.scores), self.contract.size_hw
        if golden.pictures.shape != (n, *size_hw, 3) or golden.maps.shape != (n, *size_hw):
            raise BundleError(f"{self.path}: {GOLDEN} does not fit the contract's size; export again")
        return golden

    def memory_picture(self, index: int) -> UInt8Array:
        """The normal sample with this index, prepared: uint8 (H, W, 3), BGR."""
        width = 2 if self.manifest.schema_version == 1 else 3
        return picture_from_file(self.path / f"memory/{index:0{width}d}.jpg")

    def memory_pictures(self) -> UInt8Array:
        """All normal samples, prepared: uint8 (K, H, W, 3), BGR."""
        return _pictures(self.path, sorted(name for name in self.manifest.files if name.startswith("memory/")))

    def validation(self) -> tuple[UInt8Array, BoolArray]:
        """Prepared pictures that training never saw, uint8 (N, H, W, 3), and which have a simulated defect, bool (N,).

        Raises:
            BundleError: there are none.
        """
        names = sorted(name for name in self.manifest.files if name.startswith(f"{VALIDATION}/"))
        if not names:
            raise BundleError(f"{self.path}: has no validation pictures; export the model again, or train it again")
        return _pictures(self.path, names), np.array(["defect" in name for name in names])


def memory_name(index: int) -> str:
    """Where in a bundle the normal picture with this index lies."""
    return f"memory/{index:03d}.jpg"


def validation_name(index: int, anomalous: bool) -> str:
    """Where in a bundle a validation picture lies."""
    return f"{VALIDATION}/{index:03d}-{'defect' if anomalous else 'good'}.jpg"


def open_bundle(path: Path) -> Bundle:
    """Read the manifest and check every file against it.

    Raises:
        BundleError: it is no bundle, of a newer schema, a file is missing, changed or not listed.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        what = "no such folder" if not path.exists() else "no manifest.json in it" if path.is_dir() else "is a file"
        raise BundleError(f"{path}: {what}, expected a bundle; make one with mapl-edge export MODEL --out part.mapl")
    try:
        return _checked(path, manifest_path.read_bytes())
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read ({exc.strerror}); check permissions and disk") from exc


def _checked(path: Path, raw: bytes) -> Bundle:
    digest = hashlib.sha256(raw).hexdigest()
    seal = path / SEAL
    manifest = _manifest_from_json(raw, path)
    if not seal.is_file() or seal.read_text(encoding="utf-8", errors="replace") != _seal(digest):
        raise BundleError(f"{path}: {MANIFEST} or {SEAL} was changed (they do not agree); export or copy again")
    split = set() if manifest.schema_version == 1 else {ENCODER, DECODER, MEMORY}
    for name in sorted(({MODEL, GOLDEN} | split) - manifest.files.keys()):
        raise BundleError(f"{path}: {name} is not in the manifest, so this is no bundle; export again")
    present = _files_in(path)
    for name in sorted(manifest.files.keys() - present):
        raise BundleError(f"{path}: {name} is missing; copy the whole folder again")
    for name in sorted(present - manifest.files.keys()):
        raise BundleError(f"{path}: {name} is not listed in the manifest; remove it or export again")
    for name, listed in manifest.files.items():
        if (path / name).is_symlink() or sha256_of(path / name) != listed:
            raise BundleError(
                f"{path}: {name} was changed (its SHA-256 differs from the manifest); export or copy again"
            )
    return Bundle(path, manifest, digest)


def write_manifest(folder: Path, known: Mapping[str, str] = MappingProxyType({}), **fields: Any) -> Bundle:
    """List every file in `folder` with its digest, as the last step of writing a bundle.

    Args:
        folder: of the bundle.
        known: SHA-256 of files that were checked already, by their path inside; they are not read again.
        fields: all others of `Manifest`.
    """
    files = {name: known.get(name) or sha256_of(folder / name) for name in sorted(_files_in(folder))}
    manifest = Manifest(files=files, **fields)
    raw = (json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
    digest = hashlib.sha256(raw).hexdigest()
    (folder / MANIFEST).write_bytes(raw)
    (folder / SEAL).write_text(_seal(digest), encoding="utf-8")
    return Bundle(folder, manifest, digest)


def _files_in(folder: Path) -> set[str]:
    """What the manifest must list: all but itself, its seal and signature, and what may change."""
    files = {name for name in files_below(folder) if not name.startswith((f"{ENGINES}/", f"{DEFECTS}/"))}
    changing = (SIGNATURE, CALIBRATION)  # also while somebody writes them, or was killed in the middle
    written = {name for name in files if any(fnmatch(name, unfinished(each)) for each in changing)}
    aside = {name for name in files if fnmatch(name, UNREADABLE)}
    return files - written - aside - {MANIFEST, SEAL, *changing}


def _pictures(folder: Path, names: list[str]) -> UInt8Array:
    return np.stack([picture_from_file(folder / name) for name in names])


def _seal(digest: str) -> str:
    return f"{digest}  {MANIFEST}\n"


def _manifest_from_json(raw: bytes, path: Path) -> Manifest:
    try:
        content = json.loads(raw)
        found = content["schema_version"]
        if isinstance(found, int) and found > BUNDLE_SCHEMA:
            raise BundleError(
                f"{path}: schema {found} is newer than this version reads ({BUNDLE_SCHEMA}); "
                "update mapl-edge on this machine, or export with an older one"
            )
        return Manifest.model_validate(content)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: manifest.json is wrong at {where}: {first['msg']}; export again") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BundleError(f"{path}: manifest.json cannot be read ({exc}); export or copy again") from exc
