"""Calibration: the thresholds of one bundle and what they promise. It lies beside the model, never in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mapl_edge.errors import BundleError
from mapl_edge.files import new_file

CALIBRATION_SCHEMA = 1


class Limits(BaseModel):
    """Scores above `fail` are FAIL, above `review` REVIEW, the rest PASS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fail: Annotated[float, Field(allow_inf_nan=False)]
    review: Annotated[float, Field(allow_inf_nan=False)] | None = None

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
            f"with {self.n_good} good parts and {self.n_above} above the limit, at most {self.achieved:.1%} of good "
            f"parts are rejected ({self.confidence:.0%} confidence)"
        )
        if self.achieved <= self.max_false_reject:
            return kept
        return f"{kept}; for {self.max_false_reject:.1%} you need {self.n_needed}"


class Calibration(BaseModel):
    """What calibration.yaml holds.

    Attributes:
        model_digest: digest of the bundle that the limits belong to.
        pictures: SHA-256 of each picture file that the limits came from, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = CALIBRATION_SCHEMA
    version: int = 1
    created_at: str
    created_by: str
    model_digest: str
    limits: Limits
    promise: Promise
    pictures: dict[str, str]


def calibration_from_file(path: Path) -> Calibration:
    """Read calibration.yaml.

    Raises:
        BundleError: it is not YAML, of a newer schema, or a value is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        newer = isinstance(content, dict) and int(content.get("schema_version", 0)) > CALIBRATION_SCHEMA
        if newer:
            raise BundleError(
                f"{path}: schema {content['schema_version']} is newer than this version reads ({CALIBRATION_SCHEMA}); "
                "update mapl-edge, or calibrate again"
            )
        return Calibration.model_validate(content)
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(str(part) for part in error["loc"]) or "the document"
        raise BundleError(f"{path}: cannot be read ({where}: {error['msg']}); run mapl-edge calibrate again") from exc
    except (OSError, yaml.YAMLError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        first = str(exc).splitlines()[0]
        raise BundleError(f"{path}: cannot be read ({first}); run mapl-edge calibrate again") from exc


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write calibration.yaml whole or not at all, replacing the older one."""
    text = yaml.safe_dump(calibration.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with new_file(path, overwrite=True) as work:
        work.write_text("# Thresholds of this bundle, written by `mapl-edge calibrate`.\n" + text, encoding="utf-8")
