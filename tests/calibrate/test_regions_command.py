"""Pixel limit, masks and limits of one's own, from the command line to the verdict."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from glare import GLARE, with_glare
from typer.testing import CliRunner, Result

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate import limit_from_normals, promise_of_any_limit
from mapl_edge.calibration import write_calibration
from mapl_edge.cli import app
from mapl_edge.dataset import good_samples
from mapl_edge.errors import BundleError, ContractMismatch, MaplEdgeError, OptionError
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime import FusedEngine
from mapl_edge.runtime.inspector import look

ENGINE = ["--engine", "onnxruntime-fp32-fused"]
CORNER = [[list(point) for point in polygon] for polygon in GLARE]


def call(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def station(folder: Path, **camera: object) -> Path:
    """A station file with these keys of the camera."""
    path = folder / "station.yaml"
    path.write_text(yaml.safe_dump({"camera": camera}))
    return path


def verdicts(result: Result) -> list[dict[str, object]]:
    """What run said."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_pixel_limit_is_an_order_statistic_of_the_good_parts(
    bundle: Bundle, engine: FusedEngine, calibration_data: Path
) -> None:
    """Without a filter a picture's level is its map's maximum; the promise is the one of the score limit."""
    flags = ["--good", calibration_data, "--max-false-reject", 0.2, "--regions", "--json"]
    highest = [
        float(look(engine, bundle.contract, picture_from_file(sample.path)).map.max())
        for sample in good_samples(calibration_data)
    ]

    told = json.loads(call("calibrate", bundle.path, *flags).stdout)

    written = open_bundle(bundle.path).calibration
    expected = limit_from_normals(highest, 0.2)
    assert written.limits.pixel is not None
    assert written.limits.pixel.limit == told["pixel"]["limit"] == pytest.approx(expected.limit, abs=1e-6)
    assert written.pixel_promise == expected.promise
    assert written.limits.fail == told["limit"]


def test_at_most_so_many_calibration_pictures_have_a_region(bundle: Bundle, calibration_data: Path) -> None:
    """With a filter too: as many as lie above the limit, and each verdict tells where."""
    shape = ["--min-area-px", 30, "--min-length-px", 8]
    call("calibrate", bundle.path, "--good", calibration_data, "--max-false-reject", 0.3, "--regions", *shape)
    promised = open_bundle(bundle.path).calibration.pixel_promise
    assert promised is not None

    found = verdicts(call("run", bundle.path, "--source", calibration_data, *ENGINE))

    assert 0 < sum(bool(v["regions"]) for v in found) == promised.n_above
    for verdict in found:
        for region in verdict["regions"]:  # type: ignore[attr-defined]
            assert verdict["verdict"] == "FAIL"
            assert list(region) == ["box_xywh", "polygon", "area_px", "peak"]
            x, y, w, h = region["box_xywh"]
            assert 0 <= x < x + w <= 96
            assert 0 <= y < y + h <= 96
            assert region["area_px"] >= 30


def test_masks_go_through_calibrate_run_and_evaluate(
    bundle: Bundle, calibration_data: Path, line_data: Path, tmp_path: Path
) -> None:
    """The limits know the masks; without them, or with others, no verdict is given."""
    bundle = with_glare(bundle)
    config = station(tmp_path, ignore=CORNER)
    assert call("calibrate", bundle.path, "--good", calibration_data, "--config", config).exit_code == 0
    written = open_bundle(bundle.path).calibration
    assert written.masks
    assert written.picture_hw == (96, 96)
    assert 0 < min(written.scores) < max(written.scores) < 1, "the glare has 1"

    ran = call("run", bundle.path, "--source", calibration_data, "--config", config, *ENGINE)
    found = verdicts(ran)

    assert re.search(r"^masks: 1\.\d% of the picture is ignored$", ran.stderr, re.MULTILINE)
    assert sorted(v["score"] for v in found) == sorted(written.scores)  # type: ignore[type-var]
    evaluated = call("evaluate", bundle.path, line_data, "--config", config, "--json")
    judged = verdicts(call("run", bundle.path, "--source", line_data / "test", "--config", config, *ENGINE))
    by_name = {p["picture"].removeprefix("test/"): p["score"] for p in json.loads(evaluated.stdout)["pictures"]}
    assert {v["picture"]: v["score"] for v in judged} == by_name
    for other in ({}, {"ignore": [[[0, 0], [12, 0], [12, 10], [0, 9]]]}, {"inspect": CORNER}):
        result = call("run", bundle.path, "--source", calibration_data, "--config", station(tmp_path, **other))
        assert isinstance(result.exception, ContractMismatch), other
        assert "the limits were made with masks" in str(result.exception)


def test_limits_without_masks_refuse_a_station_with_masks(
    bundle: Bundle, calibration_data: Path, tmp_path: Path
) -> None:
    """They were made from scores that ignore nothing."""
    result = call("run", bundle.path, "--source", calibration_data, "--config", station(tmp_path, ignore=CORNER))

    assert isinstance(result.exception, ContractMismatch)
    assert "made with no masks" in str(result.exception)


def test_a_frame_of_another_size_is_an_error_verdict(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """The masks would lie elsewhere on it."""
    bundle = with_glare(bundle)
    config = station(tmp_path, ignore=CORNER, health=False)  # which would tell the size first
    call("calibrate", bundle.path, "--good", calibration_data, "--config", config)

    (found,) = verdicts(call("run", bundle.path, "--source", "line:?parts=1&size=64", "--config", config, *ENGINE))

    assert found["verdict"] == "ERROR"
    assert "the masks are for 96x96 px" in str(found["error"])


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ({"ignore": [[[0, 0], [97, 0], [0, 9]]]}, "lies outside the camera picture of 96x96 px"),
        ({"ignore": [[[0, 0], [96, 0], [96, 96], [0, 96]]]}, "leave nothing to inspect"),
        ({"ignore": [[[0, 0], [9, 9], [9, 0], [0, 9]]]}, "crosses itself"),
        ({"ignore": [[[0, 0], [9, 9]]]}, "has 2 points"),
        ({"ignore": "small.png"}, "the mask is 32x32 px, the camera picture 96x96 px"),
        ({"inspect": "broken.png"}, "is not a picture"),
        ({"inspect": "missing.png"}, "cannot be read"),
    ],
    ids=["outside", "nothing-left", "crossing", "two-points", "size", "broken", "missing"],
)
def test_bad_masks_are_one_line_and_nothing_is_written(
    camera: dict[str, object], says: str, bundle: Bundle, calibration_data: Path, tmp_path: Path
) -> None:
    """The limits in force stay."""
    cv2.imwrite(str(tmp_path / "small.png"), np.full((32, 32), 255, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    before = bundle.calibration_path.read_bytes()
    config = station(tmp_path, **camera)

    result = call("calibrate", bundle.path, "--good", calibration_data, "--config", config)

    assert isinstance(result.exception, MaplEdgeError)
    assert says.replace("is not a picture", "not a picture") in str(result.exception)
    assert "\n" not in str(result.exception)
    assert bundle.calibration_path.read_bytes() == before


def test_limits_of_ones_own_are_a_new_version_with_a_note(bundle: Bundle) -> None:
    """Who and when, what was before, and what such limits can promise: less than those chosen unseen."""
    before = open_bundle(bundle.path).calibration

    result = call("calibrate", bundle.path, "--set", "fail=2.5,review=2", "--json")

    now = open_bundle(bundle.path).calibration
    assert (now.limits.fail, now.limits.review, now.rule, now.version) == (2.5, 2.0, "own", before.version + 1)
    assert now.note == f"set by hand: fail=2.5, review=2 (before: fail={before.limits.fail:.6g})"
    assert now.promise == promise_of_any_limit(before.scores, 2.5, 0.95)
    assert now.promise.achieved > before.promise.achieved
    assert now.created_at > before.created_at
    assert json.loads(result.stdout)["note"] == now.note
    history = open_bundle(bundle.path).calibration_history
    assert history[-2] == before


def test_limits_that_reject_all_known_good_parts_are_told_with_the_way_back(bundle: Bundle) -> None:
    """They are in force, since a person may mean it, but nobody overlooks it."""
    highest = max(open_bundle(bundle.path).calibration.scores)

    result = call("calibrate", bundle.path, "--set", "fail=-1e9", "--json")

    told, said = json.loads(result.stdout), " ".join(result.stderr.split())
    assert "20 of 20 good parts of the calibration are rejected" in said
    assert "WARNING: every good part of the calibration is rejected, 20 of 20" in said
    assert f"mapl-edge calibrate {bundle.path} --rollback 1" in said
    assert told["warning"] in said
    sane = call("calibrate", bundle.path, "--set", f"fail={highest}", "--json")
    assert json.loads(sane.stdout)["warning"] is None


@pytest.mark.parametrize("text", ["fail=much", "limit=2", "fail=1,review=2", "fail=nan", "pixel=0.5", ""])
def test_limits_that_make_no_sense_are_not_put_in_force(text: str, bundle: Bundle) -> None:
    """By the flag's name."""
    before = bundle.calibration_path.read_bytes()

    result = call("calibrate", bundle.path, "--set", text)

    assert isinstance(result.exception, OptionError)
    assert str(result.exception).startswith("--set: ")
    assert bundle.calibration_path.read_bytes() == before


def test_limits_that_keep_no_scores_can_promise_nothing(bundle: Bundle) -> None:
    """They come from an older version."""
    old = open_bundle(bundle.path).calibration.model_copy(update={"scores": ()})
    write_calibration(old, bundle.calibration_path)

    assert isinstance(call("calibrate", bundle.path, "--set", "fail=2").exception, BundleError)


def test_what_if_and_rollback_keep_the_pixel_limit(bundle: Bundle, calibration_data: Path, tmp_path: Path) -> None:
    """A part that a region failed stays FAIL whatever the score limit."""
    call("calibrate", bundle.path, "--good", calibration_data, "--max-false-reject", 0.3, "--regions")
    out = tmp_path / "v.jsonl"
    call("run", bundle.path, "--source", calibration_data, "--out", out, *ENGINE)
    failed = sum(bool(json.loads(line)["regions"]) for line in out.read_text().splitlines())

    for over in (out, calibration_data):
        told = json.loads(call("calibrate", bundle.path, "--what-if", "fail=1e9", "--over", over, "--json").stdout)
        assert told["after"]["FAIL"] == failed > 0
    call("calibrate", bundle.path, "--set", "fail=1e9")

    limits = open_bundle(bundle.path).calibration.limits
    assert limits.pixel is not None
    assert call("calibrate", bundle.path, "--rollback", 1).exit_code == 0
    assert open_bundle(bundle.path).calibration.limits.pixel is None
