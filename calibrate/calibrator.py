"""Calibrate a bundle from pictures of good parts that training never saw."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.limits import MIN_NORMALS, NormalLimit, limit_from_normals
from mapl_edge.calibration import Calibration, Limits, calibration_from_file, write_calibration
from mapl_edge.dataset import BadPictures, Sample
from mapl_edge.engine import Reading
from mapl_edge.errors import BundleError, DataError
from mapl_edge.files import sha256_of
from mapl_edge.verdict import utc_text


def calibrate_bundle(
    bundle: Bundle,
    samples: Sequence[Sample],
    look: Callable[[UInt8Array], Reading],
    max_false_reject: float = 0.05,
    confidence: float = 0.95,
    bad: BadPictures | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[NormalLimit, int]:
    """Score good parts, set the limit, write calibration.yaml.

    Pictures that training saw are left out: their scores are lower than those of new parts, and a limit from them
    would promise what it cannot keep.

    Args:
        bundle: an open bundle; its calibration.yaml is written whole or not at all.
        samples: good parts.
        look: camera picture, uint8 (H, W, 3) BGR → reading.
        max_false_reject, confidence: the promise wished for, see `limit_from_normals`.
        bad: what to do with unusable pictures.
        progress: called as progress(what, done, total).

    Returns:
        The limit, and how many pictures were left out because training saw them.

    Raises:
        DataError: fewer than ten pictures remain; names one that was trained on, if that is why.
    """
    trained_on = set(bundle.manifest.trained_on)
    digests = {sample.path: sha256_of(sample.path) for sample in samples if sample.path.is_file()}
    fresh = [sample for sample in samples if digests.get(sample.path) not in trained_on]
    seen = len(samples) - len(fresh)
    if seen and len(fresh) < MIN_NORMALS:
        example = next(sample.path for sample in samples if sample not in fresh)
        raise DataError(
            f"training saw {seen} of these {len(samples)} pictures (such as {example}), {len(fresh)} remain, "
            f"expected at least {MIN_NORMALS}; give pictures of good parts that were not trained on"
        )
    scores, used = [], []
    for done, (sample, image) in enumerate((bad or BadPictures()).read(fresh), start=1):
        scores.append(look(image).score)
        used.append(sample)
        progress("scoring good parts", done, len(fresh))
    limit = limit_from_normals(scores, max_false_reject, confidence)
    write_calibration(
        Calibration(
            version=_previous_version(bundle) + 1,
            created_at=utc_text(datetime.now(timezone.utc)),
            created_by=_user(),
            model_digest=bundle.digest,
            limits=Limits(fail=limit.limit),
            promise=limit.promise,
            pictures={sample.name: digests[sample.path] for sample in used},
        ),
        bundle.calibration_path,
    )
    return limit, seen


def _previous_version(bundle: Bundle) -> int:
    try:
        return calibration_from_file(bundle.calibration_path).version
    except BundleError:  # none yet, or one that nobody can read: this one replaces it
        return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
