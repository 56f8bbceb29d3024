"""Evaluate: metrics of the right things, on known answers."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.calibrate import evaluate
from mapl_edge.calibration import Limits
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, labelled_samples
from mapl_edge.engine import Reading
from mapl_edge.errors import BackendError
from mapl_edge.interference import Interference
from mapl_edge.prepare import prepare
from mapl_edge.verdict import Outcome

CONTRACT = InputContract(size_hw=(32, 32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good and three bad pictures: a bright square at a known place; the third defect has no mask."""
    for name, square in {
        "good/0": None,
        "good/1": None,
        "spot/0": (4, 4),
        "spot/1": (20, 10),
        "unmasked/0": (8, 8),
    }.items():
        picture = np.full((32, 32, 3), 50, np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        if square:
            y, x = square
            picture[y : y + 6, x : x + 6] = 250
            mask[y : y + 6, x : x + 6] = 255
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "test" / f"{name}.png"), picture)
        if square and not name.startswith("unmasked"):
            path = tmp_path / "ground_truth" / f"{name}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
    return tmp_path


def perfect(image: UInt8Array) -> Reading:
    """A model that sees brightness."""
    anomaly_map = image[:, :, 0].astype(np.float32) / 255
    return Reading(float(anomaly_map.max()), anomaly_map, 0)


def test_a_perfect_model_scores_one_everywhere(data: Path) -> None:
    """Counts, verdicts, and every metric at its best."""
    result = evaluate(labelled_samples(data), perfect, CONTRACT, Limits(fail=0.5))

    assert (result.n_good, result.n_bad, result.n_skipped) == (2, 3, 0)
    figures = result.as_json()
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"):
        assert figures[name] == pytest.approx(1.0), name
    assert [p.outcome for p in result.pictures] == [Outcome.PASS] * 2 + [Outcome.FAIL] * 3
    assert (result.n_false_rejects, result.n_missed) == (0, 0)


def test_every_metric_has_its_interval(data: Path) -> None:
    """Also where only defects with a mask count: those are drawn among themselves."""
    rng = np.random.default_rng(0)

    def noisy(image: UInt8Array) -> Reading:
        anomaly_map = (image[:, :, 0] / 255 + rng.normal(0, 0.4, image.shape[:2])).astype(np.float32)
        return Reading(float(anomaly_map.max() + rng.normal()), anomaly_map, 0)

    figures = evaluate(labelled_samples(data), noisy, CONTRACT).as_json()

    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"):
        low, high = figures["intervals"][name]
        assert 0 <= low <= figures[name] + 1e-3, name
        assert figures[name] - 1e-3 <= high <= 1, name


def test_a_perfect_auroc_has_a_bound_that_bootstrap_lacks(data: Path) -> None:
    """Two good parts and three defects are two independent pairs: 0.05 ** (1 / 2). A tie is no perfect order."""
    figures = evaluate(labelled_samples(data), perfect, CONTRACT).as_json()
    tied = evaluate(labelled_samples(data), lambda image: Reading(1.0, perfect(image).map, 0), CONTRACT)

    assert figures["intervals"]["image_auroc"] == [1.0, 1.0]
    assert figures["image_auroc_at_least"] == pytest.approx(0.05**0.5)
    assert tied.image_auroc_at_least is None


def test_wrong_limits_are_counted_both_ways(data: Path) -> None:
    """Good parts rejected and defects missed, at limits that are too low and too high."""
    samples = labelled_samples(data)

    low, high, none = (
        evaluate(samples, perfect, CONTRACT, limits) for limits in (Limits(fail=0), Limits(fail=1), None)
    )
    assert (low.n_false_rejects, low.n_missed) == (2, 0)
    assert (high.n_false_rejects, high.n_missed) == (0, 3)
    assert (none.n_false_rejects, none.n_missed) == (0, 0)


def test_pixel_metrics_leave_out_defects_without_a_mask(data: Path) -> None:
    """Counting them as normal pixels would punish a model for being right; scikit-learn on the rest is the oracle."""
    rng = np.random.default_rng(0)
    maps: list[FloatArray] = []

    def noisy(image: UInt8Array) -> Reading:
        maps.append((image[:, :, 0] / 255 + rng.normal(0, 0.3, image.shape[:2])).astype(np.float32))
        return Reading(float(maps[-1].max()), maps[-1], 0)

    samples = labelled_samples(data)
    result = evaluate(samples, noisy, CONTRACT)
    masks = [sample.mask((32, 32)) for sample in samples]
    drawn = [mask for mask in masks if mask is not None]
    seen = [one for one, mask in zip(maps, masks, strict=True) if mask is not None]
    with_unmasked = [np.zeros((32, 32), np.uint8) if mask is None else mask for mask in masks]

    assert result.pixel_auroc == pytest.approx(roc_auc_score(np.ravel(drawn), np.ravel(seen)), abs=1e-9)
    assert result.pixel_auroc > roc_auc_score(np.ravel(with_unmasked), np.ravel(maps)) + 0.001


def test_without_any_mask_pixel_metrics_are_null(data: Path) -> None:
    """Null says "not measured"; 0 would say "bad"."""
    for path in (data / "ground_truth").rglob("*.png"):
        path.unlink()

    figures = evaluate(labelled_samples(data), perfect, CONTRACT).as_json()

    assert (figures["pixel_auroc"], figures["pixel_ap"], figures["aupro"]) == (None, None, None)
    assert [name for name, interval in figures["intervals"].items() if interval is None] == [
        "pixel_auroc", "pixel_ap", "aupro",
    ]  # fmt: skip
    assert figures["image_auroc"] == 1.0


def test_a_model_that_answers_nan_is_refused(data: Path) -> None:
    """AUROC of NaN would be some number."""
    with pytest.raises(BackendError, match="nan"):
        evaluate(
            labelled_samples(data), lambda image: Reading(math.nan, image[:, :, 0].astype(np.float32), 0), CONTRACT
        )


def test_interference_reaches_the_model_and_is_told(data: Path) -> None:
    """Each picture gets the noise of its place in the list, also when one before it is skipped."""
    disturb = Interference(seed=5)
    seen: dict[bytes, int] = {}

    def look(image: UInt8Array) -> Reading:
        seen[image.tobytes()] = len(seen)
        return perfect(image)

    whole = evaluate(labelled_samples(data), look, CONTRACT, interference=disturb)
    clean = evaluate(labelled_samples(data), perfect, CONTRACT)
    expected = [disturb.apply(image, i) for i, (_, image) in enumerate(BadPictures().read(labelled_samples(data)))]
    assert list(seen) == [image.tobytes() for image in expected]

    (data / "test" / "good" / "0.png").write_bytes(b"x")
    rest = evaluate(labelled_samples(data), look, CONTRACT, bad=BadPictures(skip=True), interference=disturb)

    assert [p.score for p in rest.pictures] == [p.score for p in whole.pictures[1:]]
    assert whole.as_json()["interference"] == {"noise_sigma": 10.0, "contrast": (0.8, 1.2), "seed": 5}
    assert clean.as_json()["interference"] is None


def test_bad_pictures_can_be_skipped_and_are_counted(data: Path) -> None:
    """The rest is still measured."""
    (data / "test" / "spot" / "9.png").write_bytes(b"x")

    result = evaluate(labelled_samples(data), perfect, CONTRACT, bad=BadPictures(skip=True))

    assert (result.n_skipped, result.n_bad) == (1, 3)


@pytest.mark.parametrize("mask_scale", [1, 2], ids=["drawn-on-the-picture", "drawn-at-twice-the-size"])
def test_masks_follow_the_region_of_interest(mask_scale: int, tmp_path: Path) -> None:
    """The model sees the crop; a mask of the whole picture would lie elsewhere and a perfect model score badly."""
    picture, mask = np.full((64, 96, 3), 50, np.uint8), np.zeros((64, 96), np.uint8)
    for folder in ("test/good", "test/spot", "ground_truth/spot"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "test/good/0.png"), picture)
    picture[40:46, 60:66], mask[40:46, 60:66] = 250, 255
    cv2.imwrite(str(tmp_path / "test/spot/0.png"), picture)
    large = mask.repeat(mask_scale, axis=0).repeat(mask_scale, axis=1)
    cv2.imwrite(str(tmp_path / "ground_truth/spot/0_mask.png"), large)
    contract = InputContract(size_hw=(32, 32), roi_xywh=(48, 24, 32, 32))

    result = evaluate(labelled_samples(tmp_path), lambda image: perfect(prepare(image, contract)), contract)

    assert (result.pixel_auroc, result.pixel_ap) == (1.0, 1.0)
