"""The steps of training: when they end, how they go on after an interruption, how they fail."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from torch import Tensor

from mapl_edge.config import TrainConfig
from mapl_edge.dataset import Sample, good_samples, labelled_samples
from mapl_edge.errors import OutputError, TrainingError
from mapl_edge.model import optimise as optimise_module
from mapl_edge.model import train as train_module
from mapl_edge.model.bank import Bank
from mapl_edge.model.checkpoint import Checkpoint, readings
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import empty_encoder
from mapl_edge.model.labeler import PseudoLabeler
from mapl_edge.model.optimise import AVERAGED, KEPT, LEAST, Averaged, Convergence, Labelling, learning_rate_factor
from mapl_edge.model.train import train

VAEGAN: dict[str, Any] = {"encoder": "vaegan", "refresh_every": 3, "validate_every": 2}


def config_with(**changes: Any) -> TrainConfig:
    """The tiny training with other settings."""
    return TrainConfig.model_validate(TINY.model_dump() | changes)


def assert_same_model(one: Checkpoint, other: Checkpoint) -> None:
    """Weights, memory, units and history, to the last bit."""
    assert one.record.history == other.record.history
    for name, value in one.detector.state_dict().items():
        assert torch.equal(value, other.detector.state_dict()[name]), name


def tiny_detector(**changes: Any) -> Detector:
    """An untrained one of the tiny training."""
    config = config_with(memory="patch", position_weight=0.0, **changes)
    torch.manual_seed(0)
    encoder = empty_encoder(config.encoder)
    return Detector(encoder, empty_memory(config, encoder.channels, 4), config)


def test_the_head_is_the_mean_of_its_latest_steps() -> None:
    """All steps count alike at first, and later ones the more the later they are."""
    detector = tiny_detector()
    few = 20
    averaged = Averaged(detector, round(few / AVERAGED))
    weight = next(detector.decoder.parameters())
    seen = {}

    for step in range(few + 10):
        with torch.no_grad():
            weight.fill_(step**2)
        averaged.update(detector)
        if step >= few - 1:
            with averaged.within(detector), torch.no_grad():
                seen[step] = float(weight.mean())

    expected = np.mean([step**2 for step in range(few)])
    assert seen[few - 1] == pytest.approx(expected, rel=1e-4)
    for step in range(few, few + 10):
        expected += (step**2 - expected) / few
    assert seen[few + 9] == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        assert float(weight.mean()) == pytest.approx((few + 9) ** 2)  # its own again


def test_a_short_training_keeps_its_last_step() -> None:
    """The first of few steps have learned nothing yet."""
    detector = tiny_detector()
    averaged = Averaged(detector, 8)
    weight = next(detector.decoder.parameters())

    for step in range(8):
        with torch.no_grad():
            weight.fill_(step)
        averaged.update(detector)

    with averaged.within(detector), torch.no_grad():
        assert float(weight.mean()) == 7


def test_the_mean_leaves_alone_what_no_step_moves() -> None:
    """Encoder, memory and units are not averaged; with an encoder that trains nothing is."""
    frozen, live = (Averaged(tiny_detector(**of), 100) for of in ({}, {"encoder": "vaegan"}))

    assert {name.split(".")[0] for name in frozen.mean} == {"fusion", "decoder", "predictor"}
    assert not live.mean


class Killed(Exception):  # noqa: N818 - an event, not a mistake
    """What stands for the power cut."""


def killed_at(step: int) -> Callable[[str, int, int], None]:
    """Progress that ends the run after this step."""

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == step:
            raise Killed

    return progress


class Steps:
    """Progress that keeps the steps it was told of."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == "training":
            self.done.append(done)


def handed_to_optimise(samples: list[Sample], config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `train` prepares for the steps: detector, encode, bank, batches."""
    found: dict[str, Any] = {}

    def stop(detector: Any, encode: Any, bank: Any, batches: Any, *rest: Any) -> None:
        found.update(detector=detector, encode=encode, bank=bank, batches=batches)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "optimise", stop)
        with pytest.raises(Killed):
            train(samples, config)
    return found


@pytest.mark.parametrize(
    ("patience", "losses", "scores", "converged_at"),
    [
        pytest.param(2, [1.0, 0.9, 0.8, 0.7], [0.5] * 4, None, id="loss-falls"),
        pytest.param(2, [1.0] * 4, [0.5, 0.6, 0.7, 0.8], None, id="score-rises"),
        pytest.param(2, [1.0, 1.0, 1.0, 1.0], [0.5] * 4, 3, id="neither"),
        pytest.param(2, [1.0, 0.995, 0.991, 0.99], [0.5] * 4, 3, id="less-than-a-hundredth-is-no-fall"),
        pytest.param(2, [1.0, 0.98, 0.96, 0.94], [0.9, 0.8, 0.7, 0.6], None, id="loss-falls-while-score-does"),
        pytest.param(2, [1.0, 2.0, 1.5, 0.9], [0.5] * 4, 3, id="compared-with-the-least-ever"),
        pytest.param(2, [1.0, 1.0, 0.5, 0.5], [0.5] * 4, None, id="patience-starts-anew"),
        pytest.param(1, [1.0, 1.0], [0.5] * 2, 2, id="no-patience"),
        pytest.param(6, [1.0] * 7, [0.5] * 7, 7, id="six"),
        pytest.param(6, [1.0] * 6, [0.5] * 6, None, id="five-are-not-six"),
        pytest.param(2, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 3, id="nothing-is-found"),
    ],
)
def test_convergence(patience: int, losses: list[float], scores: list[float], converged_at: int | None) -> None:
    """§2.6.3: it has converged once neither loss nor score got better so many times running."""
    monitor = Convergence(patience)

    answers = [monitor.update(loss, score) for loss, score in zip(losses, scores, strict=True)]

    assert (answers.index(True) + 1 if True in answers else None) == converged_at


def test_training_stops_when_it_has_converged(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the last step; the record says so."""
    monkeypatch.setattr(Convergence, "update", lambda self, loss, score: True)
    steps = Steps()

    checkpoint = train(good_samples(line_data), TINY, progress=steps)

    assert checkpoint.record.summary["steps"] == 4
    assert checkpoint.record.summary["stopped_early"]
    assert steps.done == [1, 2, 3, 4, 8], "and the bar is full"


def test_the_model_is_that_of_the_best_validation(
    line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later steps may be worse."""
    given = iter([0.5, 0.9, 0.4, 0.3])
    real = optimise_module.Validation.score

    def score(self: Any, detector: Detector) -> dict[str, float]:
        return real(self, detector) | {"validation_score": next(given, 0.0)}

    monkeypatch.setattr(optimise_module.Validation, "score", score)
    state = tmp_path / "state"

    checkpoint = train(good_samples(line_data), config_with(validate_every=2), state=state)

    saved = torch.load(state, weights_only=True)
    assert checkpoint.record.summary["best_step"] == 4
    weights = checkpoint.detector.state_dict()
    moved = [name for name in weights if name.startswith("decoder.") and name.endswith("weight")]
    assert all(torch.equal(weights[name], saved["best"][name]) for name in moved)
    assert not all(torch.equal(weights[name], saved["detector"][name]) for name in moved)


def test_of_equally_good_steps_the_latest_counts(
    line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an easy part all validations are perfect; the record must tell the step whose weights these are."""
    real, state = optimise_module.Validation.score, tmp_path / "state"
    monkeypatch.setattr(
        optimise_module.Validation, "score", lambda self, detector: real(self, detector) | {"validation_score": 0.5}
    )

    checkpoint = train(good_samples(line_data)[:8], config_with(steps=4, validate_every=2), state=state)

    latest = torch.load(state, weights_only=True)["averaged"]["decoder.head.weight"]
    assert torch.equal(checkpoint.detector.state_dict()["decoder.head.weight"], latest)
    assert checkpoint.record.summary["best_step"] == 4


def test_learning_rate_warms_up_and_falls() -> None:
    """Warm-up over a tenth, cosine to a hundredth (§3.3)."""
    factors = [learning_rate_factor(step, 100) for step in range(100)]

    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"validate_every": 2, "batch_size": 8}, id="frozen-and-labelled"),
        pytest.param({"validate_every": 2, "memory": "image", "position_weight": None}, id="image-memory"),
        pytest.param(VAEGAN, id="vaegan"),
        pytest.param({"validate_every": 2, "pseudo_labeler": False, "distance": False}, id="bare"),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_model(changes: dict[str, Any], line_data: Path, tmp_path: Path) -> None:
    """As if nothing had happened, to the last bit; no more than one interval is done again."""
    config, samples, state = config_with(**changes), good_samples(line_data), tmp_path / "state"
    uninterrupted = train(samples, config)

    with pytest.raises(Killed):
        train(samples, config, progress=killed_at(7), state=state)
    steps = Steps()
    resumed = train(samples, config, progress=steps, state=state)

    assert steps.done == [6, 7, 8]
    assert_same_model(resumed, uninterrupted)
    assert [p.name for p in tmp_path.iterdir()] == ["state"], "nothing half-written beside it"


def test_a_run_with_real_defects_goes_on_too(line_data: Path, tmp_path: Path) -> None:
    """They have vectors of their own in the labeler's memory."""
    defects = [sample for sample in labelled_samples(line_data) if not sample.is_good]
    config, samples, state = config_with(validate_every=2), good_samples(line_data), tmp_path / "state"

    with pytest.raises(Killed):
        train(samples, config, progress=killed_at(5), state=state, defects=defects)

    assert_same_model(train(samples, config, state=state, defects=defects), train(samples, config, defects=defects))


def test_a_finished_run_is_not_trained_again(line_data: Path, tmp_path: Path) -> None:
    """Killed while exporting, say: the state has the end."""
    config, samples, state = TINY, good_samples(line_data), tmp_path / "state"
    first = train(samples, config, state=state)
    steps = Steps()

    again = train(samples, config, progress=steps, state=state)

    assert steps.done == [8]
    assert_same_model(again, first)


def test_a_converged_run_is_not_trained_on(line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state says that it has converged."""
    config, samples, state = TINY, good_samples(line_data), tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setattr(Convergence, "update", lambda self, loss, score: True)
        first = train(samples, config, state=state)

    again = train(samples, config, state=state)

    assert again.record.summary["stopped_early"]
    assert_same_model(again, first)


CHILD = """
import json, sys, time
from pathlib import Path
from mapl_edge.config import TrainConfig
from mapl_edge.dataset import good_samples
from mapl_edge.model.train import train

state = Path(sys.argv[2])

def progress(what, done, total):
    if what == "training":
        if state.exists():
            time.sleep(0.5)  # time to be killed in
        print(done, flush=True)

config = TrainConfig.model_validate(json.loads(sys.argv[3]))
train(good_samples(Path(sys.argv[1])), config, progress=progress, state=state)
"""


def test_a_killed_process_goes_on_to_the_same_model(line_data: Path, tmp_path: Path) -> None:
    """SIGKILL, as the kernel sends it when memory is short: no handler runs, no file is closed."""
    config, samples, state = config_with(**VAEGAN), good_samples(line_data), tmp_path / "state"
    root = str(Path(train_module.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(line_data), str(state), json.dumps(config.model_dump(mode="json"))],
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        until = time.monotonic() + 120
        while not state.exists() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        words, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, "it had ended before"
    last = int(words.split()[-1])
    steps = Steps()

    resumed = train(samples, config, progress=steps, state=state)

    assert steps.done[0] >= max(2, last - 2)
    assert steps.done[-1] == 8
    assert_same_model(resumed, train(samples, config))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no state", id="text"),
        pytest.param(None, id="cut"),
        pytest.param([1, 2], id="list"),
        pytest.param({"run": "another"}, id="other-run"),
        pytest.param({}, id="nothing"),
    ],
)
def test_a_state_that_is_none_is_ignored(content: Any, line_data: Path, tmp_path: Path) -> None:
    """Training begins anew, and ends as ever."""
    config, samples, state = config_with(steps=2, validate_every=1), good_samples(line_data)[:8], tmp_path / "state"
    if content is None:
        train(samples, config, state=state)
        state.write_bytes(state.read_bytes()[:-1000])
    elif isinstance(content, bytes):
        state.write_bytes(content)
    else:
        torch.save(content, state)
    steps = Steps()

    checkpoint = train(samples, config, progress=steps, state=state)

    assert steps.done == [1, 2]
    assert torch.load(state, weights_only=True)["history"] == checkpoint.record.history


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 0.002}, {"steps": 3}, {"seed": 4}, {"memory_patches": 99}], ids=str
)
def test_a_state_of_other_settings_is_ignored(changes: dict[str, Any], line_data: Path, tmp_path: Path) -> None:
    """Going on from it would give a model that no settings give."""
    config, samples, state = config_with(steps=2, validate_every=1), good_samples(line_data)[:8], tmp_path / "state"
    train(samples, config, state=state)
    other = TrainConfig.model_validate(config.model_dump() | changes)
    steps = Steps()

    train(samples, other, progress=steps, state=state)

    assert steps.done[0] == 1


def test_a_state_of_other_pictures_is_ignored(line_data: Path, tmp_path: Path) -> None:
    """One more, or one that was replaced under its old name."""
    config, state = config_with(steps=2, validate_every=1), tmp_path / "state"
    folder = tmp_path / "good"
    folder.mkdir()
    samples = good_samples(line_data)
    for i in range(8):
        (folder / f"{i}.png").write_bytes(samples[i].path.read_bytes())
    train(good_samples(folder), config, state=state)
    (folder / "3.png").write_bytes(samples[20].path.read_bytes())
    steps = Steps()

    train(good_samples(folder), config, progress=steps, state=state)

    assert steps.done[0] == 1


def test_a_state_of_other_weights_textures_or_masks_is_ignored(line_data: Path, tmp_path: Path) -> None:
    """Files replaced under their old names: the head would have learned from features that are gone."""
    weights, textures, mask = tmp_path / "own.pth", tmp_path / "textures", tmp_path / "mask.png"
    textures.mkdir()
    defect = labelled_samples(line_data)[0]
    defect = Sample(defect.path, "own", mask, defect.root)

    def replace(seed: int, which: str) -> None:
        rng = np.random.default_rng(seed)
        if which in ("all", "weights"):
            torch.manual_seed(seed)
            torch.save(empty_encoder("vaegan").state_dict(), weights)
        if which in ("all", "textures"):
            cv2.imwrite(str(textures / "a.png"), rng.integers(0, 256, (100, 100, 3), dtype=np.uint8))
        if which in ("all", "mask"):
            cv2.imwrite(str(mask), np.pad(np.full((20, 20), 255, np.uint8), ((seed, 76 - seed), (9, 67))))

    replace(0, "all")
    config = config_with(encoder="vaegan", steps=2, validate_every=1, weights=weights, textures=textures)
    train(good_samples(line_data)[:8], config, state=tmp_path / "state", defects=[defect])
    begun = {}
    for which in ("nothing", "weights", "textures", "mask"):
        steps = Steps()
        replace(1, which)
        train(good_samples(line_data)[:8], config, progress=steps, state=tmp_path / "state", defects=[defect])
        begun[which] = steps.done[0]

    assert begun == {"nothing": 2, "weights": 1, "textures": 1, "mask": 1}


def test_a_state_that_cannot_be_saved_is_one_error(line_data: Path, tmp_path: Path) -> None:
    """Told at the first validation, with the reason."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(OutputError, match=r"cannot write .*state"):
        train(good_samples(line_data)[:8], config_with(steps=1), state=tmp_path / "file" / "state")


def nan_from(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The loss is no number from this step on."""
    real, calls = optimise_module.focal_loss, []

    def focal(logits: Tensor, mask: Tensor, gamma: float) -> Tensor:
        calls.append(1)
        return real(logits, mask, gamma) * (float("nan") if len(calls) >= first else 1.0)

    monkeypatch.setattr(optimise_module, "focal_loss", focal)


@pytest.mark.parametrize("step", [1, 4])
def test_a_loss_that_is_no_number_before_the_first_validation_stops(
    step: int, line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to keep yet; it says the step and what to do."""
    nan_from(monkeypatch, step)

    with pytest.raises(TrainingError, match=f"the loss is nan at step {step}; lower learning_rate"):
        train(good_samples(line_data)[:8], TINY, state=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("changes", [{}, VAEGAN | {"validate_every": 4}], ids=["frozen", "vaegan"])
def test_a_loss_that_is_no_number_later_keeps_the_best_model(
    changes: dict[str, Any], line_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of training is not thrown away; the summary says why it ended."""
    nan_from(monkeypatch, 6)
    state = tmp_path / "state"

    checkpoint = train(good_samples(line_data), config_with(**changes), state=state)

    summary, best = checkpoint.record.summary, torch.load(state, weights_only=True)["best"]
    assert summary["failure"].startswith("the loss is nan at step 6; ")
    assert (summary["best_step"], summary["steps"], summary["stopped_early"]) == (4, 4, False)
    for name, value in checkpoint.detector.state_dict().items():
        assert torch.isfinite(value.float()).all(), name
        if name.startswith(("encoder.", "fusion.", "decoder.", "predictor.")):
            assert torch.equal(value, best[name]), name


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_gradient_that_is_no_number_is_a_failure_too(
    step: int, line_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a finite loss: one step with it makes every weight NaN, be it the last one or just before a validation."""
    real, calls = optimise_module.focal_loss, []

    def focal(logits: Tensor, mask: Tensor, gamma: float) -> Tensor:
        calls.append(1)
        return real(logits, mask, gamma) + (torch.sqrt(logits.sum() * 0) if len(calls) == step else 0)

    monkeypatch.setattr(optimise_module, "focal_loss", focal)

    if step == 4:
        with pytest.raises(TrainingError, match="the gradient is nan at step 4; lower learning_rate"):
            train(good_samples(line_data)[:8], TINY)
        return
    checkpoint = train(good_samples(line_data)[:8], TINY)

    assert f"at step {step}" in checkpoint.record.summary["failure"]
    assert checkpoint.record.summary["best_step"] == 4
    assert all(torch.isfinite(value.float()).all() for value in checkpoint.detector.state_dict().values())


@pytest.mark.parametrize(
    ("changes", "filled_after"),
    [
        pytest.param({"steps": 4}, [0], id="frozen"),
        pytest.param(VAEGAN | {"steps": 10, "validate_every": 4}, [0, 3, 4, 6, 8, 9, 10], id="vaegan"),
        pytest.param(VAEGAN | {"steps": 4, "refresh_every": 100}, [0, 2, 4], id="vaegan-at-validations-only"),
    ],
)
def test_the_memory_is_filled_anew_on_schedule(
    changes: dict[str, Any], filled_after: list[int], line_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `refresh_every` steps and before each validation, where the encoder trains; else once."""
    steps, fills, real = Steps(), [], Bank.fill

    def fill(self: Bank, *arguments: Any) -> None:
        fills.append(steps.done[-1] if steps.done else 0)
        real(self, *arguments)

    monkeypatch.setattr(Bank, "fill", fill)

    train(good_samples(line_data)[:10], config_with(**changes), progress=steps)

    assert fills == filled_after


@pytest.mark.parametrize("memory", ["image", "patch"])
def test_the_memory_of_a_trained_encoder_is_what_it_says_now(memory: str, line_data: Path) -> None:
    """No stale bank: fill another memory from the same pictures with the final encoder, and compare."""
    config = config_with(**VAEGAN | {"memory": memory, "interference": False, "memory_samples": 4})
    checkpoint = train(good_samples(line_data), config)
    detector, pictures = checkpoint.detector, checkpoint.memory_pictures
    before = {name: value.clone() for name, value in detector.memory.state_dict().items()}
    answers = readings(detector, checkpoint.golden_pictures)

    with torch.no_grad():
        detector.fill_memory(detector.encoder(torch.from_numpy(pictures)), torch.arange(len(pictures)))

    assert len(pictures) == 4
    if memory == "image":
        assert torch.allclose(detector.get_buffer("memory.bank"), before["bank"], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(answers, readings(detector, checkpoint.golden_pictures), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    rows = {tuple(row) for row in before.get("columns", torch.zeros(0, 1)).numpy().round(2).tolist()}
    now = {
        tuple(row) for row in detector.state_dict().get("memory.columns", torch.zeros(0, 1)).numpy().round(2).tolist()
    }
    assert len(rows & now) >= 0.9 * len(rows)


def test_training_moves_a_trained_encoder(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight of it, by the losses of map and of q (Eq. 18)."""
    config, samples = config_with(**VAEGAN | {"steps": 2}), good_samples(line_data)[:10]
    start = handed_to_optimise(samples, config, monkeypatch)["detector"].encoder.state_dict()

    end = train(samples, config).detector.encoder.state_dict()

    still = [name for name, value in start.items() if torch.equal(value, end[name])]
    assert still == []


def test_q_gets_gradients_and_moves(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of what Eq. 18 optimises."""
    config, samples = config_with(steps=2), good_samples(line_data)[:10]
    found = handed_to_optimise(samples, config, monkeypatch)
    detector = found["detector"]
    before = {name: value.clone() for name, value in detector.predictor.state_dict().items()}

    loss, parts = optimise_module._losses(
        detector, found["encode"], found["batches"].at(1), found["bank"], Labelling(2, 0), config
    )
    loss.backward()  # type: ignore[no-untyped-call]
    trained = train(samples, config).detector.predictor.state_dict()

    assert parts["labelled"] > 0
    assert parts["pseudo_labelled"] == 0, "no labeler is fitted yet"
    for name, weight in detector.predictor.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
        assert not torch.equal(trained[name], before[name]), name


def test_without_the_pseudo_labeler_q_stays(line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 4's ablation: no loss of it, no decay of its weights; and no labeler is ever fitted."""
    config, samples = config_with(steps=2, pseudo_labeler=False), good_samples(line_data)[:10]
    before = handed_to_optimise(samples, config, monkeypatch)["detector"].predictor.state_dict()
    monkeypatch.setattr(PseudoLabeler, "fit", None)

    checkpoint = train(samples, config)

    assert not {"labelled", "pseudo_labelled"} & set(checkpoint.record.history[0])
    for name, value in checkpoint.detector.predictor.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["l1", "focal", "labelled", "pseudo_labelled"])
def test_every_loss_counts(name: str, line_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_all (Eq. 17) with the weights of Table 2: 0.6 L1 + 0.4 focal + L^u + L^l."""
    config, samples = config_with(batch_size=8), good_samples(line_data)
    found = handed_to_optimise(samples, config, monkeypatch)
    labelling = Labelling(2, 0)
    monkeypatch.setattr(Labelling, "labels", lambda self, vectors: torch.ones(len(vectors), dtype=torch.int64))

    _, parts = optimise_module._losses(
        found["detector"], found["encode"], found["batches"].at(1), found["bank"], labelling, config
    )

    expected = 0.6 * parts["l1"] + 0.4 * parts["focal"] + parts["labelled"] + parts["pseudo_labelled"]
    assert parts["loss"] == pytest.approx(expected, rel=1e-5)
    assert parts[name] > 0


def test_simulated_defects_are_pseudo_labelled_and_others_are_not(
    line_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelled normals and real defects have their label; the labeler speaks of the rest (§2.2)."""
    defects = [sample for sample in labelled_samples(line_data) if not sample.is_good]
    config, seen = config_with(batch_size=8, steps=1), []
    real = optimise_module.pseudo_labelled_loss

    def spied(scores: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels.tolist())
        return real(scores, labels)

    monkeypatch.setattr(optimise_module, "pseudo_labelled_loss", spied)
    monkeypatch.setattr(Labelling, "labels", lambda self, vectors: torch.arange(len(vectors)) % 2)

    train(good_samples(line_data), config, defects=defects)

    assert seen[0] == [-1, -1, -1, -1, 0, 1, 0, -1]


def vectors(n: int, shift: float, seed: int) -> Tensor:
    """n pooled vectors."""
    return torch.randn((n, 20), generator=torch.Generator().manual_seed(seed)) + shift


def test_labelling_waits_until_there_is_enough() -> None:
    """Sixteen of each kind; before that everything is unknown."""
    labelling = Labelling(2, 0)
    for n in range(LEAST - 1):
        labelling.keep(torch.cat([vectors(1, 0, n), vectors(1, 6, n)]), torch.tensor([0, -1]))
    labelling.fit()
    early = labelling.labels(vectors(5, 6, 99))
    labelling.keep(torch.cat([vectors(1, 0, 50), vectors(1, 6, 50)]), torch.tensor([0, -1]))

    labelling.fit()

    assert early.tolist() == [-1] * 5
    assert labelling.labels(vectors(5, 6, 99)).tolist() == [1] * 5


def test_labelling_keeps_the_latest_of_each_kind() -> None:
    """An encoder that trains makes old vectors wrong."""
    labelling = Labelling(2, 0)
    for n in range(KEPT + 10):
        labelling.keep(torch.full((3, 2), float(n)), torch.tensor([0, 1, -1]))

    for kept in (labelling.normal, labelling.real, labelling.simulated):
        assert len(kept) == KEPT
        assert float(kept[0][0]) == 10


@pytest.mark.parametrize(("real", "source"), [(LEAST - 1, "labelled normals"), (LEAST, "labelled positives")])
def test_few_real_defects_set_no_threshold(real: int, source: str) -> None:
    """Eq. 5 on a handful would find nearly all simulated ones anomalous."""
    labelling = Labelling(2, 0)
    labelling.keep(vectors(40, 0, 1), torch.zeros(40, dtype=torch.int64))
    labelling.keep(vectors(40, 4, 2), torch.full((40,), -1))
    labelling.keep(vectors(real, 8, 3), torch.ones(real, dtype=torch.int64))

    labelling.fit()

    assert labelling.labeler is not None
    assert labelling.labeler.thresholds_from == source


def test_history_has_every_loss_at_every_validation(line_data: Path) -> None:
    """Means over the steps since the last one; numbers that JSON can carry."""
    checkpoint = train(good_samples(line_data), config_with(steps=5, validate_every=2, batch_size=8))

    assert [entry["step"] for entry in checkpoint.record.history] == [2, 4, 5]
    for entry in checkpoint.record.history:
        assert {"l1", "focal", "labelled", "pseudo_labelled", "loss", "validation_score"} < set(entry)
        assert all(type(value) is float and math.isfinite(value) for value in entry.values())
