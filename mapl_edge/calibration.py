"""Calibration: the thresholds of one bundle and what they promise. It lies beside the model, never in it.

calibration.yaml is a YAML stream. Its first document is in force; behind it lie the earlier ones, newest first, as they
were written, byte for byte. So nothing is ever taken out of the history, and a station reads only the first.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mapl_edge.camera_health import CameraReference
from mapl_edge.errors import BundleError
from mapl_edge.files import files_errors, new_file
from mapl_edge.place import PlaceReference

UNREADABLE = "calibration.yaml.unreadable-*"  # what nobody could read when limits were set anew
CALIBRATION_SCHEMA = 4  # raised with every key: a version that does not know one says so, and not that it is wrong
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C ten times as fast; some builds lack it
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
HEADER = "# Thresholds of this bundle, written by `mapl-edge calibrate`. The first document is in force.\n"


class RegionFilter(BaseModel):
    """What a region must have at least to count, in pixels of the camera picture: area, length, width.

    Length and width are the largest and the smallest distance of two parallel lines that hold it between them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_area_px: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    min_length_px: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    min_width_px: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class PixelLimit(RegionFilter):
    """A part is FAIL that has a region in which the anomaly map lies above `limit` and that passes the filter."""

    limit: Annotated[float, Field(allow_inf_nan=False)]


class Limits(BaseModel):
    """Scores above `fail` are FAIL, above `review` REVIEW, the rest PASS; without `pixel` regions do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fail: Annotated[float, Field(allow_inf_nan=False)]
    review: Annotated[float, Field(allow_inf_nan=False)] | None = None
    pixel: PixelLimit | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Limits:
        if self.review is not None and self.review > self.fail:
            raise ValueError(f"review ({self.review}) must not lie above fail ({self.fail})")
        return self


class Promise(BaseModel):
    """What the fail limit promises: at most `max_false_reject` of good parts are rejected, with `confidence`.

    `achieved` is the bound that these pictures support; where it is larger than the wish, more pictures are needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_false_reject: float
    confidence: float
    achieved: float
    n_good: int
    n_above: int
    n_needed: int

    def __str__(self) -> str:
        kept = (
            f"with {self.n_good} good parts and {self.n_above} above the limit, at most {at_most(self.achieved)} of "
            f"good parts are rejected ({100 * self.confidence:g}% confidence)"
        )
        if self.achieved <= self.max_false_reject:
            return kept
        more = self.n_needed - self.n_good
        return f"{kept}; for {percent(self.max_false_reject)} you need {self.n_needed} ({more} more)"


class Misses(BaseModel):
    """Defective parts that pass: `n_missed` of `n_bad`, at most the share `bound` with `confidence`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_bad: int
    n_missed: int
    bound: float
    confidence: float

    def __str__(self) -> str:
        return (
            f"{self.n_missed} of {self.n_bad} defects pass, at most {at_most(self.bound)} of such defects "
            f"({100 * self.confidence:g}% confidence)"
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """What one miss and one false reject cost, and the share of defects on the line (None: as among these parts)."""

    miss: float
    false_reject: float
    defect_rate: float | None = None


class Calibration(BaseModel):
    """What calibration.yaml holds.

    Attributes:
        rule: how the fail limit was chosen: promise (from good parts alone), f1, recall, cost, or own (by a person).
        target_recall, costs: what rules recall and cost aimed at; None in older files.
        review_promise: what the review limit promises: the share of good parts that do not PASS.
        pixel_promise: what the pixel limit promises: the share of good parts that have a region.
        masks: digest of the masks that were on the pictures (`mapl_edge.masks`); empty: none.
        picture_hw: height and width of the camera pictures that the masks are for.
        misses: what the fail limit does to defects; None where no defects were given.
        model_digest: digest of the bundle that the limits belong to.
        pictures: SHA-256 of each picture file of a good part that the limits came from, by name.
        defects: the same of defective parts.
        scores: raw scores of the good parts, in the order of `pictures`; empty in files of schema 1.
        levels: of their regions (`mapl_edge.gauge.Mark`), likewise; empty without a pixel limit and in older files.
        defect_scores, defect_levels: the same of the defective parts, in the order of `defects`.
        engine: name of the engine that gave the scores, such as onnxruntime-fp32-fused; empty where nobody said.
        camera: what good pictures of this camera measure; None in files of schema 2 and older.
        baseline: statistics of the good parts by name (`mapl_edge.part_statistics`), in the order of `scores`; what
            drift is measured from; empty in older files.
        place: where a good part lay, for the statistics `shift_x` and `shift_y`; None in older files.
        note: why there is this version, where it does not come from pictures of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = CALIBRATION_SCHEMA
    version: int = 1
    created_at: str
    created_by: str
    model_digest: str
    limits: Limits
    promise: Promise
    rule: str = "promise"
    target_recall: float | None = None
    costs: Costs | None = None
    review_promise: Promise | None = None
    pixel_promise: Promise | None = None
    masks: str = ""
    picture_hw: tuple[int, int] | None = None
    misses: Misses | None = None
    pictures: dict[str, str]
    defects: dict[str, str] = {}
    scores: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    levels: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    defect_scores: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    defect_levels: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    engine: str = ""
    camera: CameraReference | None = None
    baseline: dict[str, tuple[Annotated[float, Field(allow_inf_nan=False)], ...]] = {}
    place: PlaceReference | None = None
    note: str = ""

    @model_validator(mode="after")
    def _one_value_a_part(self) -> Calibration:
        for name, column in self.baseline.items():
            if len(column) != len(self.scores):
                raise ValueError(f"baseline {name} holds {len(column)} values, expected {len(self.scores)}")
        for name, parts in (("levels", self.scores), ("defect_scores", self.defects), ("defect_levels", self.defects)):
            found = getattr(self, name)
            if found and len(found) != len(parts):
                raise ValueError(f"{name} holds {len(found)} values, expected {len(parts)}")
        return self

    def note_on(self, engine: str) -> str | None:
        """What people should know where another engine runs than the one calibrated with; None: nothing."""
        if not self.engine or self.engine == engine or _precision(self.engine) == _precision(engine):
            return None
        return (
            f"the limits were calibrated with {self.engine}, {engine} runs: scores of another precision differ a "
            f"little; to be exact, calibrate with --engine {engine}"
        )


def _precision(engine: str) -> str:
    """fp32 of onnxruntime-fp32-fused."""
    return engine.partition("-")[2].partition("-")[0]


def at_most(bound: float) -> str:
    """An upper bound for people, never less than it is: 5.1% for 0.05033."""
    digits = 1 if bound >= 0.001 else 1 - math.floor(math.log10(100 * bound)) if bound > 0 else 1
    return percent(math.ceil(100 * bound * 10**digits - 1e-6) / 10**digits / 100)


def percent(share: float) -> str:
    """A share for people: 4.9%, and 0.05% rather than 0.1%."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.2g}%"


def calibration_from_file(path: Path) -> Calibration:
    """Read what is in force in calibration.yaml.

    Raises:
        BundleError: it is not YAML, of a newer schema, or a value is wrong.
    """
    return next(documents_of(path))


def history_from_file(path: Path) -> tuple[Calibration, ...]:
    """Every calibration that was ever in force, oldest first; the last one is.

    Raises:
        BundleError: as `calibration_from_file`, also where an older one cannot be read.
    """
    return tuple(documents_of(path))[::-1]


def documents_of(path: Path) -> Iterator[Calibration]:
    """The newest first, each read only when it is asked for: a history does not slow a station's start."""
    try:
        found = False
        for content in yaml.load_all(path.read_text(encoding="utf-8"), _LOADER):
            found = True
            newer = isinstance(content, dict) and int(content.get("schema_version", 0)) > CALIBRATION_SCHEMA
            if newer:
                raise BundleError(
                    f"{path}: schema {content['schema_version']} is newer than this version reads "
                    f"({CALIBRATION_SCHEMA}); update mapl-edge, or calibrate again"
                )
            yield Calibration.model_validate(content)
        if not found:
            raise ValueError("it is empty")
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(str(part) for part in error["loc"]) or "the document"
        raise BundleError(f"{path}: cannot be read ({where}: {error['msg']}); run mapl-edge calibrate again") from exc
    except (OSError, yaml.YAMLError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        first = str(exc).splitlines()[0]
        raise BundleError(f"{path}: cannot be read ({first}); run mapl-edge calibrate again") from exc


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Put a calibration in force, before those that are in calibration.yaml already; whole or not at all.

    A file whose first document nobody can read is put aside first, as `UNREADABLE` with a number.

    Raises:
        OutputError: the disk refuses.
    """
    content = calibration.model_dump(mode="json") | {"schema_version": CALIBRATION_SCHEMA}
    text = HEADER + yaml.dump(content, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    try:
        calibration_from_file(path)
        older = path.read_text(encoding="utf-8")
    except BundleError:
        older = ""
        _put_aside(path)
    if older:
        older = older if older.startswith("---") else f"---\n{older}"
    with new_file(path, overwrite=True) as work:
        work.write_text(text + older, encoding="utf-8")


def _put_aside(path: Path) -> None:
    numbers = (path.with_name(UNREADABLE.replace("*", str(number))) for number in count(1))
    with files_errors(path):
        if path.exists():
            shutil.copyfile(path, next(other for other in numbers if not other.exists()))
