"""Calibration: only pictures that training never saw, and a file that is whole or absent."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate import Wish, calibrate_bundle, calibrate_parts
from mapl_edge.camera_health import measure, reference_from_measures
from mapl_edge.dataset import good_samples, labelled_samples
from mapl_edge.errors import DataError
from mapl_edge.files import sha256_of
from mapl_edge.runtime import FusedEngine
from mapl_edge.runtime.inspector import look


def test_calibration_records_what_it_rests_on(bundle: Bundle, engine: FusedEngine, calibration_data: Path) -> None:
    """Limit, promise and the digest of every picture, bound to this bundle."""
    samples = good_samples(calibration_data)
    scores = [look(engine, bundle.contract, image).score for image in map(read, samples)]

    limit, seen = calibrate_bundle(bundle, samples, partial(look, engine, bundle.contract))

    written = open_bundle(bundle.path).calibration
    assert written.limits.fail == limit.limit == max(scores)
    assert written.version == 2, "the bundle's first calibration came with it"
    assert written.pictures == {s.name: sha256_of(s.path) for s in samples}
    assert (written.promise.n_good, seen) == (20, 0)


def test_pictures_that_training_saw_are_left_out(
    bundle: Bundle, engine: FusedEngine, line_data: Path, calibration_data: Path
) -> None:
    """Their scores are too low; by digest, whatever they are called."""
    mixed = [*good_samples(line_data), *good_samples(calibration_data)]

    limit, seen = calibrate_bundle(bundle, mixed, partial(look, engine, bundle.contract))

    assert seen == len(bundle.manifest.trained_on) == 32
    assert limit.n_good == 20 + 8, "the eight that training held out may calibrate"


def test_only_trained_pictures_are_refused_by_name(bundle: Bundle, engine: FusedEngine, line_data: Path) -> None:
    """And the old calibration stays."""
    before = bundle.calibration_path.read_bytes()

    with pytest.raises(DataError, match=r"training saw 32 of these 40 pictures \(such as .*\.png\), 8 remain"):
        calibrate_bundle(bundle, good_samples(line_data), partial(look, engine, bundle.contract))

    assert bundle.calibration_path.read_bytes() == before


def read(sample):  # type: ignore[no-untyped-def]
    """The sample's picture."""
    from mapl_edge.picture import picture_from_file

    return picture_from_file(sample.path)


def test_calibrating_takes_the_cameras_reference(
    bundle: Bundle, engine: FusedEngine, calibration_data: Path, line_data: Path
) -> None:
    """From good parts that count for the limit, and from no defect."""
    good = good_samples(calibration_data)
    defects = [sample for sample in labelled_samples(line_data) if not sample.is_good]

    calibrate_parts(bundle, good, defects, partial(look, engine, bundle.contract), Wish())

    camera = open_bundle(bundle.path).calibration.camera
    assert camera == reference_from_measures([measure(read(sample)) for sample in good])


def test_a_calibration_without_a_reference_reads_on(bundle: Bundle) -> None:
    """Written before there were references."""
    content = next(iter(yaml.safe_load_all(bundle.calibration_path.read_text()))) | {"schema_version": 2}
    del content["camera"]
    bundle.calibration_path.write_text(yaml.safe_dump(content))

    assert open_bundle(bundle.path).calibration.camera is None
