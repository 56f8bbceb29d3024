"""The bench of teaching measures what it says."""

from pathlib import Path

import cv2
import pytest

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.picture import picture_from_file
from mapl_edge.testing import SyntheticLine
from teach import measure, summary_of


def test_stages_make_up_the_whole(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """The bundle itself stays as it is; how fast is not asserted here."""
    SyntheticLine(seed=1, size_hw=(96, 96)).write_mvtec(tmp_path / "line", 1, 0, 0, start=5000)
    part = next((tmp_path / "line" / "train" / "good").iterdir())
    cv2.imwrite(str(part), picture_from_file(part) // 2)

    told = summary_of(measure(bundle.path, str(part), ["--calibration", str(calibration_data)], rounds=1))

    assert sum(told["stages_s"].values()) == pytest.approx(told["whole_s"], abs=0.05)
    assert told["known_parts"] == 20
    assert told["processor_s"] > 0
    assert open_bundle(bundle.path).digest == bundle.digest
