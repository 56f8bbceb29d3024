"""Training: what it may see, what it decides, what it repeats, how it fails."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mapl_edge.calibrate import limit_from_normals
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import BadPictures, Sample, good_samples, labelled_samples
from mapl_edge.errors import BundleError, DataError, PictureError
from mapl_edge.files import sha256_of
from mapl_edge.model import train as train_module
from mapl_edge.model.checkpoint import Checkpoint, checkpoint_from_folder, readings
from mapl_edge.model.memory import ImageMemory, PatchMemory
from mapl_edge.model.train import (
    MIN_GOOD,
    _real_defects,
    contract_that_fits,
    memory_choices,
    split_of,
    texture_pictures,
    train,
)
from mapl_edge.model.validation import DistanceScore, Validation
from mapl_edge.testing import SyntheticLine

VAEGAN: dict[str, Any] = {"encoder": "vaegan", "steps": 2}


def config_with(**changes: Any) -> TrainConfig:
    """The tiny training with other settings."""
    return TrainConfig.model_validate(TINY.model_dump() | changes)


def bad_samples(data: Path) -> list[Sample]:
    """Ten defective parts with their masks."""
    return [sample for sample in labelled_samples(data) if not sample.is_good]


@given(st.integers(MIN_GOOD, 500), st.integers(0, 1000))
def test_split_uses_every_picture_once(n: int, seed: int) -> None:
    """A picture that calibrates must not train."""
    split = split_of(n, seed)

    assert sorted([*split.train, *split.validation, *split.calibration]) == list(range(n))
    assert min(len(split.validation), len(split.calibration)) >= 1
    assert len(split.train) >= 2
    assert 0.17 * n - 1 <= len(split.calibration) <= 0.3 * n + 1


@pytest.mark.parametrize(
    ("n", "held_out", "kept", "above"),
    [(196, 39, False, 0), (197, 59, True, 0), (309, 62, True, 0), (310, 93, True, 1), (500, 100, True, 1)],
)
def test_enough_are_held_out_for_the_promise_that_is_wished_for(n: int, held_out: int, kept: bool, above: int) -> None:
    """What `calibrate` wants by default can be had of these; with fewer than 197 a fifth is held out."""
    found = limit_from_normals(range(len(split_of(n, 0).calibration)))

    assert found.n_good == held_out
    assert (found.achieved <= found.max_false_reject) is kept
    assert found.n_above == above


def test_the_same_seed_gives_the_same_model(line_data: Path, checkpoint: Checkpoint) -> None:
    """To the last bit, weights and memory."""
    again = train(good_samples(line_data), TINY)

    for name, value in checkpoint.detector.state_dict().items():
        assert torch.equal(value, again.detector.state_dict()[name]), name
    assert again.record.history == checkpoint.record.history


def test_another_seed_gives_another_model(line_data: Path, checkpoint: Checkpoint) -> None:
    """Otherwise the test above could not fail."""
    other = train(good_samples(line_data), config_with(seed=4, steps=1))

    ours, theirs = other.detector.state_dict(), checkpoint.detector.state_dict()
    assert not torch.equal(ours["memory.columns"], theirs["memory.columns"])
    assert not torch.equal(ours["decoder.head.weight"], theirs["decoder.head.weight"])


def test_training_moves_the_head_and_leaves_the_encoder(checkpoint: Checkpoint) -> None:
    """Frozen means frozen, batch statistics included."""
    fresh = train_module.pretrained_encoder("efficientnet_lite0").state_dict()

    for name, value in checkpoint.detector.encoder.state_dict().items():
        assert torch.equal(value, fresh[name]), name
    assert checkpoint.record.history[-1]["l1"] < checkpoint.record.history[0]["l1"]
    checkpoint.detector.check_fresh()


def test_an_image_memory_holds_the_features_of_its_pictures(line_data: Path) -> None:
    """No stale bank: what is stored is what the encoder says now, and each picture finds itself."""
    checkpoint = train(good_samples(line_data), config_with(memory="image", steps=1))
    memory = checkpoint.detector.memory

    _, _, nearest = readings(checkpoint.detector, checkpoint.memory_pictures)

    assert isinstance(memory, ImageMemory)
    assert len(checkpoint.memory_pictures) == checkpoint.record.memory_samples == memory.size == 5
    assert nearest.tolist() == list(range(5))
    with torch.no_grad():
        features = checkpoint.detector.encode(torch.from_numpy(checkpoint.memory_pictures))
    flat = torch.cat([level.flatten(1) for level in features], dim=1)
    assert torch.allclose(flat, memory.bank, rtol=1e-3, atol=1e-3)


def test_a_patch_memory_holds_features_of_its_pictures(checkpoint: Checkpoint) -> None:
    """Each column whose picture is not a disturbed copy is found in the picture that it names."""
    memory = checkpoint.detector.memory
    assert isinstance(memory, PatchMemory)
    with torch.no_grad():
        features = checkpoint.detector.encode(torch.from_numpy(checkpoint.memory_pictures))
    middles = features[1].permute(0, 2, 3, 1).flatten(1, 2)  # (K, places, C)
    first = 4 * features[0].shape[1]

    found = [
        bool((middles[source] - column[first : first + middles.shape[2]]).abs().amax(1).min() < 1e-2)
        for column, source in zip(memory.columns, memory.source, strict=True)
    ]

    assert memory.size == checkpoint.record.memory_samples == 100
    assert len(checkpoint.memory_pictures) == 32, "what validated is remembered too"
    assert np.mean(found) > 0.4


def test_the_calibration_share_is_never_seen(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the memory, not by a batch, not by validation: blacken these pictures, and nothing changes."""
    samples = good_samples(line_data)
    held_out = set(split_of(len(samples), TINY.seed).calibration.tolist())
    real = train_module.prepare
    calls: list[int] = []

    def blackened(image: np.ndarray, contract: InputContract) -> np.ndarray:
        calls.append(1)
        return real(image, contract) * np.uint8(len(calls) - 1 not in held_out)

    config = config_with(steps=2)
    plain = train(samples, config)
    monkeypatch.setattr(train_module, "prepare", blackened)

    other = train(samples, config)

    assert len(calls) == 40
    for name, value in plain.detector.state_dict().items():
        assert torch.equal(value, other.detector.state_dict()[name]), name


def test_record_names_every_picture_by_digest(line_data: Path, checkpoint: Checkpoint) -> None:
    """Calibration refuses what training saw, by these digests."""
    record = checkpoint.record
    digests = {s.name: sha256_of(s.path) for s in good_samples(line_data)}

    assert record.trained_on | record.held_out == digests
    assert not record.trained_on.keys() & record.held_out.keys()
    assert not any("test" in name for name in record.trained_on)


def test_a_model_folder_round_trips(model_folder: Path, checkpoint: Checkpoint) -> None:
    """What is read back answers exactly alike."""
    again = checkpoint_from_folder(model_folder)

    scores, maps, _ = readings(checkpoint.detector, checkpoint.golden_pictures)
    same_scores, same_maps, _ = readings(again.detector, again.golden_pictures)
    assert np.array_equal(scores, same_scores)
    assert np.array_equal(maps, same_maps)
    assert again.record == checkpoint.record
    for pictures in ("memory_pictures", "golden_pictures", "simulated_pictures"):
        assert np.array_equal(getattr(again, pictures), getattr(checkpoint, pictures))


@pytest.mark.parametrize("damaged", ["model.json", "weights.safetensors", "pictures.npz"])
def test_a_damaged_model_folder_is_refused(model_folder: Path, tmp_path: Path, damaged: str) -> None:
    """One line that names the folder, not a traceback of some library."""
    for file in model_folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.name == damaged else data)

    with pytest.raises(BundleError, match="train again"):
        checkpoint_from_folder(tmp_path)


@pytest.mark.parametrize(("schema", "lacks"), [(3, ("level_slope", "level_range", "pool_share")), (4, ("pool_share",))])
def test_an_older_model_scores_as_it_did(
    model_folder: Path, tmp_path: Path, schema: int, lacks: tuple[str, ...]
) -> None:
    """No level that explains, all pooled values alike: limits that were set for it stay right."""
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "weights.safetensors")
    kept = {name: value for name, value in weights.items() if name not in {f"evidence.{one}" for one in lacks}}
    save_file(kept, tmp_path / "weights.safetensors")
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"schema_version": 5', f'"schema_version": {schema}'))
    present = checkpoint_from_folder(model_folder)
    assert present.detector.evidence is not None
    if "level_slope" in lacks:
        present.detector.evidence.level_slope.zero_()
    present.detector.evidence.pool_share.fill_(1 / 6)

    older = checkpoint_from_folder(tmp_path)

    assert len(kept) == len(weights) - len(lacks)
    scores = [readings(one.detector, present.golden_pictures)[0] for one in (older, present)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("schema", "says"), [(1, "schema 1 is older than .*; train again"), (99, "schema 99 is newer than .*; update")]
)
def test_a_model_of_another_schema_is_refused(model_folder: Path, tmp_path: Path, schema: int, says: str) -> None:
    """Last year's models have other weights; next year's other meanings."""
    text = (model_folder / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"schema_version": 5', f'"schema_version": {schema}'))

    with pytest.raises(BundleError, match=says):
        checkpoint_from_folder(tmp_path)


def test_an_encoder_that_moved_after_the_memory_was_filled_is_refused(line_data: Path, tmp_path: Path) -> None:
    """A stale bank: it would still give scores, and all of them wrong."""
    checkpoint = train(good_samples(line_data)[:10], config_with(**VAEGAN))
    checkpoint.detector.check_fresh()
    checkpoint.save(tmp_path)
    assert checkpoint_from_folder(tmp_path).record == checkpoint.record
    with torch.no_grad():
        next(checkpoint.detector.encoder.parameters()).view(-1)[0] += 1e-4

    with pytest.raises(BundleError, match="stale"):
        checkpoint.detector.check_fresh()
    checkpoint.save(tmp_path)
    with pytest.raises(BundleError, match=r"stale bank.*train again"):
        checkpoint_from_folder(tmp_path)


def test_fewer_normals_than_memory_samples_shrink_the_memory(line_data: Path) -> None:
    """With five pictures there are three to train on, and so three in the memory; a note tells it."""
    small = train(good_samples(line_data)[:5], config_with(steps=1, memory="image"))

    assert small.detector.memory.size == small.record.memory_samples == len(small.memory_pictures) == 3
    assert any("3 pictures" in note for note in small.record.summary["notes"])


def test_fewer_patches_than_wanted_shrink_the_memory(line_data: Path) -> None:
    """Three pictures, one of them once more, disturbed, of 96 patches each."""
    small = train(good_samples(line_data)[:5], config_with(steps=1, memory_patches=100_000))

    assert small.detector.memory.size == small.record.memory_samples == 96 * 4
    assert any("384 patches" in note for note in small.record.summary["notes"])


@pytest.mark.parametrize("count", range(1, MIN_GOOD))
def test_too_few_pictures_are_refused(line_data: Path, count: int) -> None:
    """Nothing can be held out of three."""
    with pytest.raises(DataError, match=f"found {count} usable pictures of good parts, expected at least 4"):
        train(good_samples(line_data)[:count], TINY)


@pytest.mark.parametrize("memory", ["image", "patch"])
@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "vaegan"])
def test_four_pictures_are_enough(line_data: Path, encoder: str, memory: str) -> None:
    """Two to compare with each other, one to validate, one to calibrate."""
    small = train(good_samples(line_data)[:4], config_with(encoder=encoder, memory=memory, steps=2))

    assert small.record.summary["pictures"] | {"skipped": 0} == {
        "train": 2, "validation": 1, "held_out": 1, "defective": 0, "skipped": 0,
    }  # fmt: skip
    scores, maps, _ = readings(small.detector, small.golden_pictures)
    assert np.isfinite(scores).all()
    assert np.isfinite(maps).all()


@pytest.mark.parametrize("interference", [False, True], ids=["undisturbed", "disturbed"])
@pytest.mark.parametrize("memory", ["image", "patch"])
@pytest.mark.parametrize("picture", ["part", "grey"])
def test_identical_normals_train_without_nan(
    tmp_path: Path, line_data: Path, picture: str, memory: str, interference: bool
) -> None:
    """Deviations of nought everywhere: a stuck camera, or a folder of copies. Also where nothing is in the picture."""
    part = good_samples(line_data)[0].path.read_bytes()
    for i in range(8):
        if picture == "part":
            (tmp_path / f"{i}.png").write_bytes(part)
        else:
            cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((96, 64, 3), 128, np.uint8))

    model = train(good_samples(tmp_path), config_with(memory=memory, interference=interference, steps=4, batch_size=8))

    scores, maps, _ = readings(model.detector, model.golden_pictures)
    assert model.record.summary["failure"] is None
    for name, value in model.detector.state_dict().items():
        assert torch.isfinite(value.float()).all(), name
    assert all(math.isfinite(value) for entry in model.record.history for value in entry.values())
    assert np.isfinite(scores).all()
    assert np.isfinite(maps).all()


def test_a_bad_picture_stops_or_is_counted(line_data: Path, tmp_path: Path) -> None:
    """Named by default, skipped on request."""
    for sample in good_samples(line_data)[:6]:
        (tmp_path / sample.path.name).write_bytes(sample.path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    config = config_with(steps=1)

    with pytest.raises(PictureError, match=r"broken\.png"):
        train(good_samples(tmp_path), config)
    bad = BadPictures(skip=True)
    model = train(good_samples(tmp_path), config, bad)

    assert len(bad.errors) == model.record.summary["pictures"]["skipped"] == 1


def test_a_bad_picture_is_counted_once_where_it_decides_the_shape(line_data: Path, tmp_path: Path) -> None:
    """Pictures are looked at before they are read for good."""
    for sample in good_samples(line_data)[:6]:
        (tmp_path / sample.path.name).write_bytes(sample.path.read_bytes())
    (tmp_path / "000.png").write_bytes(b"no picture")
    bad = BadPictures(skip=True)

    model = train(good_samples(tmp_path), config_with(**VAEGAN, fit_aspect=True), bad)

    assert len(bad.errors) == model.record.summary["pictures"]["skipped"] == 1


def test_real_defects_are_learned_from_and_named(line_data: Path, checkpoint: Checkpoint) -> None:
    """They are trained on, so calibration and evaluation must be able to tell."""
    defects = bad_samples(line_data)

    model = train(good_samples(line_data), TINY, defects=defects)

    assert model.record.summary["pictures"]["defective"] == 10
    assert {s.name: sha256_of(s.path) for s in defects}.items() <= model.record.trained_on.items()
    assert not torch.equal(
        model.detector.state_dict()["decoder.head.weight"], checkpoint.detector.state_dict()["decoder.head.weight"]
    )


def test_a_broken_mask_is_skipped_like_a_broken_picture(line_data: Path, tmp_path: Path) -> None:
    """With --skip-bad the part is left out and counted; without, training stops and says so."""
    broken = tmp_path / "mask.png"
    broken.write_bytes(b"no picture")
    good = labelled_samples(line_data)[-1]
    samples = [good, replace(good, mask_path=broken)]
    skipping = BadPictures(skip=True)

    used, defects = _real_defects(samples, TINY.contract, skipping)

    assert (used, len(defects)) == ([good], 1)
    assert [error.path for error in skipping.errors] == [str(broken)]
    with pytest.raises(PictureError, match="skip-bad"):
        _real_defects(samples, TINY.contract, BadPictures())


def test_real_defects_are_prepared_with_their_masks(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn ones with the mask, others without; what lies beside the region of interest is no defect there."""
    good, defects = good_samples(line_data), bad_samples(line_data)
    undrawn = Sample(defects[0].path, defects[0].label, None, defects[0].root)
    seen: list[Any] = []
    real = train_module.Batches

    def spied(pictures: Any, train: Any, defects: Any, simulator: Any, config: Any) -> Any:
        seen[:] = defects
        return real(pictures, train, defects, simulator, config)

    monkeypatch.setattr(train_module, "Batches", spied)

    train(good, config_with(steps=1), defects=[*defects, undrawn])
    drawn = [None if defect.mask is None else bool(defect.mask.any()) for defect in seen]
    whole = list(seen)
    contract = {"size_hw": (32, 32), "roi_xywh": (0, 0, 16, 16)}
    corner = train(good, config_with(**VAEGAN, contract=contract, memory_patches=10), defects=[*defects, undrawn])

    assert drawn == [True] * 10 + [None]
    assert all(defect.picture.shape == (96, 64, 3) and defect.mask.shape == (96, 64) for defect in whole[:10])
    inside = sum(bool(s.mask((96, 96))[:16, :16].any()) for s in defects)  # type: ignore[index]
    assert corner.record.summary["pictures"]["defective"] == inside + 1
    assert inside < 10


@pytest.mark.parametrize(
    ("wanted", "shapes", "roi", "expected"),
    [
        pytest.param((256, 256), [(900, 900)], None, (256, 256), id="square"),
        pytest.param((256, 256), [(480, 512)], None, (256, 256), id="nearly-square"),
        pytest.param((256, 256), [(320, 806)], None, (160, 416), id="wide"),
        pytest.param((256, 256), [(806, 320)], None, (416, 160), id="tall"),
        pytest.param((256, 256), [(480, 640)], None, (224, 288), id="four-to-three"),
        pytest.param((256, 256), [(1080, 1920)], None, (192, 352), id="sixteen-to-nine"),
        pytest.param((128, 256), [(480, 640)], None, (160, 224), id="wanted-another-rectangle"),
        pytest.param((128, 256), [(500, 1000)], None, (128, 256), id="wanted-this-rectangle"),
        pytest.param((256, 256), [(900, 900)], (0, 0, 806, 320), (160, 416), id="region-of-interest"),
        pytest.param((256, 256), [(320, 806)], (9, 9, 300, 300), (256, 256), id="square-region"),
        pytest.param((256, 256), [(900, 900)] * 3 + [(100, 900)], None, (256, 256), id="median"),
    ],
)
def test_the_input_gets_the_pictures_shape(
    wanted: tuple[int, int],
    shapes: list[tuple[int, int]],
    roi: tuple[int, int, int, int] | None,
    expected: tuple[int, int],
) -> None:
    """Squeezed into a square a long part would lose its detail along one side."""
    contract = contract_that_fits(InputContract(size_hw=wanted, roi_xywh=roi), shapes)

    assert contract.size_hw == expected
    assert contract.roi_xywh == roi


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from([64, 96, 128, 256, 320, 512]))
def test_the_fitted_input_is_as_large_as_wanted(h: int, w: int, side: int) -> None:
    """Within a tenth, sides multiples of 32; and its ratio is never further from the picture's than a square's."""
    found = contract_that_fits(InputContract(size_hw=(side, side)), [(h, w)]).size_hw

    assert found[0] % 32 == found[1] % 32 == 0
    assert abs(found[0] * found[1] / side**2 - 1) <= 0.1 + 1e-9
    assert abs(math.log(found[0] / found[1] / (h / w))) <= abs(math.log(h / w)) + 1e-9


def test_training_fits_the_input_and_records_it(line_data: Path, tmp_path: Path) -> None:
    """Wide pictures, a wide input; the record has what was decided, so that a second training has nothing to decide."""
    for i in range(6):
        wide = np.random.default_rng(i).integers(0, 256, (50, 150, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), wide)
    config = config_with(**VAEGAN, contract={"size_hw": (64, 64)}, fit_aspect=True)

    model = train(good_samples(tmp_path), config)

    assert model.record.config.contract.size_hw == (32, 128)
    assert not model.record.config.fit_aspect
    assert model.golden_pictures.shape[1:] == (32, 128, 3)


@pytest.mark.parametrize(
    ("changes", "choices"),
    [
        ({"memory": "auto", "position_weight": None}, [("patch", 0.0), ("patch", 0.5), ("image", 0.0)]),
        ({"memory": "auto", "position_weight": 0.2}, [("patch", 0.2), ("image", 0.2)]),
        ({"memory": "image", "position_weight": None}, [("image", 0.0)]),
        ({"memory": "patch", "position_weight": None}, [("patch", 0.0), ("patch", 0.5)]),
        ({"memory": "patch", "position_weight": 3.0}, [("patch", 3.0)]),
    ],
    ids=str,
)
def test_what_the_settings_leave_open_is_tried(changes: dict[str, Any], choices: list[tuple[str, float]]) -> None:
    """And nothing else."""
    found = memory_choices(config_with(**changes))

    assert [(config.memory, config.position_weight) for config in found] == choices


@pytest.mark.parametrize(("pose", "given_px", "px"), [("fixed", None, 4.0), ("any", None, 0.0), ("any", 2.0, 2.0)])
def test_normals_are_moved_where_parts_agree_in_place(
    pose: Literal["fixed", "any"], given_px: float | None, px: float, tmp_path: Path
) -> None:
    """Unless the settings say how far; the record tells."""
    SyntheticLine(size_hw=(96, 96), pose=pose).write_mvtec(tmp_path / "line", 12, 0, 0)

    record = train(good_samples(tmp_path / "line"), config_with(moved_px=given_px, steps=1)).record

    assert record.config.moved_px == record.summary["moved_px"] == px


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "vaegan"])
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([0.5, 0.5, 0.9], ("image", 0.0), id="image"),
        pytest.param([0.9, 0.8, 0.5], ("patch", 0.0), id="patch-anywhere"),
        pytest.param([0.8, 0.9, 0.5], ("patch", 0.5), id="patch-in-its-place"),
        pytest.param([0.7, 0.7, 0.7], ("patch", 0.0), id="tie"),
        pytest.param([0.70, 0.72, 0.72], ("patch", 0.0), id="chance"),
        pytest.param([0.70, 0.75, 0.77], ("patch", 0.5), id="chance-above-the-second"),
    ],
)
def test_the_memory_is_decided_by_the_distance_on_held_out_normals(
    scores: list[float], expected: tuple[str, float], encoder: str, line_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is clearly best wins, and the record says which; its memory is what its settings would have given.

    The standard error of the difference from one to the next is 0.03 here.
    """
    chance = np.array([-1, 1]) * 0.03
    given_scores = (DistanceScore(score, score + k * chance) for k, score in enumerate([*scores, 0.0]))
    config = config_with(memory="auto", position_weight=None, steps=1, encoder=encoder)
    monkeypatch.setattr(Validation, "distance_score", lambda self: next(given_scores))

    model = train(good_samples(line_data)[:10], config)

    record = model.record
    assert (record.config.memory, record.config.position_weight) == expected
    assert (record.summary["memory"], record.summary["position_weight"]) == expected
    asked = train(good_samples(line_data)[:10], record.config)
    for name, value in model.detector.state_dict().items():
        assert torch.equal(value, asked.detector.state_dict()[name]), name


def test_the_papers_settings_train(line_data: Path) -> None:
    """Table 2, §2 and §3.3, tiny: no part of ours is needed."""
    config = TrainConfig.paper_settings(contract={"size_hw": (96, 64)}, steps=2, memory_samples=5, batch_size=4)

    model = train(good_samples(line_data)[:10], config)

    assert model.detector.evidence is None
    assert model.detector.memory.scope == "image"
    assert model.detector.decoder.stride == 1
    scores, maps, nearest = readings(model.detector, model.golden_pictures)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert maps.shape[1:] == (96, 64)
    assert set(nearest.tolist()) <= set(range(5))


def test_textures_are_large_enough(tmp_path: Path) -> None:
    """A smaller texture is enlarged, so that any crop of the model's size fits."""
    for i, size in enumerate([(40, 200), (300, 30), (64, 96)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((*size, 3), np.uint8))

    textures = texture_pictures(tmp_path, (64, 96))

    assert all(t.shape[0] >= 64 and t.shape[1] >= 96 for t in textures)


def test_an_empty_texture_folder_is_refused(tmp_path: Path) -> None:
    """Silently training without the wanted textures would be found out months later."""
    with pytest.raises(DataError, match="found no picture"):
        texture_pictures(tmp_path, (64, 64))
