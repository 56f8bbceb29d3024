"""Training: what it may see, what it repeats, how it fails."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from mapl_edge.dataset import BadPictures, good_samples
from mapl_edge.errors import BundleError, DataError, PictureError, TrainingError
from mapl_edge.files import sha256_of
from mapl_edge.model import train as train_module
from mapl_edge.model.checkpoint import Checkpoint, checkpoint_from_folder, readings
from mapl_edge.model.train import learning_rate_factor, split_of, texture_pictures, train


@given(st.integers(4, 500), st.integers(0, 1000))
def test_split_uses_every_picture_once(n: int, seed: int) -> None:
    """A picture that calibrates must not train."""
    split = split_of(n, seed)

    assert sorted([*split.train, *split.validation, *split.calibration]) == list(range(n))
    assert min(len(split.train), len(split.validation), len(split.calibration)) >= 1


def test_the_same_seed_gives_the_same_model(line_data: Path, checkpoint: Checkpoint) -> None:
    """To the last bit, weights and memory."""
    again = train(good_samples(line_data), TINY)

    for name, value in checkpoint.detector.state_dict().items():
        assert torch.equal(value, again.detector.state_dict()[name]), name


def test_another_seed_gives_another_model(line_data: Path, checkpoint: Checkpoint) -> None:
    """Otherwise the test above could not fail."""
    other = train(good_samples(line_data), TINY.model_copy(update={"seed": 4, "steps": 1}))

    assert not torch.equal(other.detector.memory.bank, checkpoint.detector.memory.bank)


def test_training_moves_the_head_and_leaves_the_encoder(checkpoint: Checkpoint) -> None:
    """Frozen means frozen, batch statistics included."""
    fresh = train_module.pretrained_encoder("efficientnet_lite0").state_dict()

    for name, value in checkpoint.detector.encoder.state_dict().items():
        assert torch.equal(value, fresh[name]), name
    assert checkpoint.record.history[-1]["l1"] < checkpoint.record.history[0]["l1"]


def test_memory_holds_the_features_of_its_pictures(checkpoint: Checkpoint) -> None:
    """No stale bank: what is stored is what the encoder says now."""
    _, _, nearest = readings(checkpoint.detector, checkpoint.memory_pictures)
    features = checkpoint.detector.encode(torch.from_numpy(checkpoint.memory_pictures))

    assert nearest.tolist() == list(range(len(checkpoint.memory_pictures)))
    flat = torch.cat([level.flatten(1) for level in features], dim=1)
    assert torch.allclose(flat, checkpoint.detector.memory.bank, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("damaged", ["model.json", "weights.safetensors", "pictures.npz"])
def test_a_damaged_model_folder_is_refused(model_folder: Path, tmp_path: Path, damaged: str) -> None:
    """One line that names the folder, not a traceback of some library."""
    for file in model_folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.name == damaged else data)

    with pytest.raises(BundleError, match="train again"):
        checkpoint_from_folder(tmp_path)


def test_fewer_normals_than_memory_samples_shrink_the_memory(line_data: Path) -> None:
    """With five pictures there are three to train on, and so three in the memory."""
    small = train(good_samples(line_data)[:5], TINY.model_copy(update={"steps": 1}))

    assert small.detector.memory.samples == small.record.memory_samples == 3


def test_too_few_pictures_are_refused(line_data: Path) -> None:
    """Nothing can be held out of three."""
    with pytest.raises(DataError, match="found 3 usable pictures"):
        train(good_samples(line_data)[:3], TINY)


def test_a_bad_picture_stops_or_is_counted(line_data: Path, tmp_path: Path) -> None:
    """Named by default, skipped on request."""
    for sample in good_samples(line_data)[:6]:
        (tmp_path / sample.path.name).write_bytes(sample.path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    config = TINY.model_copy(update={"steps": 1})

    with pytest.raises(PictureError, match=r"broken\.png"):
        train(good_samples(tmp_path), config)
    bad = BadPictures(skip=True)
    model = train(good_samples(tmp_path), config, bad)

    assert len(bad.errors) == model.record.summary["pictures"]["skipped"] == 1


def test_a_loss_that_is_no_number_stops_at_its_step(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on would write a model of NaN."""
    monkeypatch.setattr(train_module, "focal_loss", lambda logits, mask, gamma: logits.sum() * float("nan"))

    with pytest.raises(TrainingError, match="nan at step 1"):
        train(good_samples(line_data)[:8], TINY)


def test_learning_rate_warms_up_and_falls() -> None:
    """Warm-up over a tenth, cosine to a hundredth (§3.3)."""
    factors = [learning_rate_factor(step, 100) for step in range(100)]

    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


def test_textures_are_large_enough(tmp_path: Path) -> None:
    """A smaller texture is enlarged, so that any crop of the model's size fits."""
    import cv2

    for i, size in enumerate([(40, 200), (300, 30), (64, 96)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((*size, 3), np.uint8))

    textures = texture_pictures(tmp_path, (64, 96))

    assert all(t.shape[0] >= 64 and t.shape[1] >= 96 for t in textures)


def test_an_empty_texture_folder_is_refused(tmp_path: Path) -> None:
    """Silently training without the wanted textures would be found out months later."""
    with pytest.raises(DataError, match="found no picture"):
        texture_pictures(tmp_path, (64, 64))
