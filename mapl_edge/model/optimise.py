"""Optimise: the steps of training (Algorithm 1, Train_MAPL), the best of them, when to stop, and how to go on later."""

from __future__ import annotations

import copy
import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapl_edge.config import TrainConfig
from mapl_edge.errors import TrainingError
from mapl_edge.files import new_file
from mapl_edge.model.bank import Bank
from mapl_edge.model.batches import Batch, Batches, cut_out, square_side
from mapl_edge.model.decoder import upsample
from mapl_edge.model.detector import Detector
from mapl_edge.model.frozen import Encode
from mapl_edge.model.labeler import PseudoLabeler
from mapl_edge.model.losses import focal_loss, l1_loss, labelled_loss, pseudo_labelled_loss
from mapl_edge.model.predictor import pooled
from mapl_edge.model.validation import Validation

KEPT = 128  # pooled vectors of each kind that the pseudo-labeler is fitted on
LEAST = 16  # of each kind before it is fitted at all
LEAST_FALL = 0.01  # of the loss: less is no significant decline (§2.6.3)
MAX_NORM = 10.0  # of the gradient, clipped
AVERAGED = 1 / 20  # of all steps: the running mean of weights is over about so many of the latest ones


@dataclass(frozen=True)
class Optimised:
    """The detector holds the best step's weights.

    Attributes:
        history: one entry per validation: step, losses, validation scores.
        stopped_early: whether the convergence monitor ended it.
        failure: why it had to stop where loss or gradient was no longer a number; the weights are of the best step
            before.
    """

    history: list[dict[str, float]]
    stopped_early: bool
    failure: str | None = None


@dataclass
class Convergence:
    """Watches loss and validation score (§2.6.3): converged once neither got better `patience` times running."""

    patience: int
    least_loss: float = math.inf
    best_score: float = -math.inf
    stale: int = 0

    def update(self, loss: float, score: float) -> bool:
        """Whether training has converged, after another interval with this mean loss and validation score."""
        better = loss < self.least_loss * (1 - LEAST_FALL) or score > self.best_score
        self.least_loss, self.best_score = min(loss, self.least_loss), max(score, self.best_score)
        self.stale = 0 if better else self.stale + 1
        return self.stale >= self.patience


class Averaged:
    """A running mean of the head's weights over the latest steps: what validation sees and what is kept.

    The steps of small batches scatter around it (Polyak and Juditsky, 1992, "Acceleration of stochastic approximation
    by averaging"). Where the encoder trains too there is none: a mean head would not fit the encoder of the day.

    Args:
        detector: whose head it is.
        steps: of the whole training.

    Attributes:
        mean: of each floating-point entry of the head's state, by name.
        steps: how many it is made from.
    """

    def __init__(self, detector: Detector, steps: int) -> None:
        self._share = min(1.0, 1 / (AVERAGED * steps))
        head = () if detector.encoder.trainable else ("fusion.", "decoder.", "predictor.")
        state = detector.state_dict()
        self.mean = {name: v.clone() for name, v in state.items() if name.startswith(head) and v.is_floating_point()}
        self.steps = 0

    def update(self, detector: Detector) -> None:
        """Another step's weights."""
        self.steps += 1
        state = detector.state_dict()
        for name, mean in self.mean.items():
            mean.lerp_(state[name], max(self._share, 1 / self.steps))

    @contextmanager
    def within(self, detector: Detector) -> Iterator[None]:
        """The detector with the mean instead of its own weights."""
        state = detector.state_dict()
        own = {name: state[name].clone() for name in self.mean}
        detector.load_state_dict(self.mean, strict=False)
        try:
            yield
        finally:
            detector.load_state_dict(own, strict=False)


@dataclass
class Labelling:
    """The pseudo-labeler and the latest pooled vectors that it is fitted on.

    Attributes:
        normal, real, simulated: float32 (D,) each, of labelled normals, real defects and simulated ones.
    """

    classifiers: int
    seed: int
    normal: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))
    real: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))
    simulated: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))
    labeler: PseudoLabeler | None = None

    def keep(self, vectors: Tensor, labels: Tensor) -> None:
        """Remember a batch's pooled vectors (B, D) by its labels (B,)."""
        for vector, label in zip(vectors.detach(), labels.tolist(), strict=True):
            {0: self.normal, 1: self.real, -1: self.simulated}[label].append(vector)

    def fit(self) -> None:
        """Fit on what was kept, once there is enough of it."""
        if min(len(self.normal), len(self.simulated)) < LEAST:
            return
        normal, simulated = (torch.stack(list(kept)).numpy() for kept in (self.normal, self.simulated))
        # Few real defects make poor thresholds: with so few, Eq. 5 finds nearly all simulated ones anomalous.
        positive = torch.stack(list(self.real)).numpy() if len(self.real) >= LEAST else None
        self.labeler = PseudoLabeler.fit(normal, positive, simulated, self.classifiers, self.seed)

    def labels(self, vectors: Tensor) -> Tensor:
        """v (B,), 1, 0 or -1; all -1 before the first fit."""
        if self.labeler is None:
            return torch.full((len(vectors),), -1)
        return torch.from_numpy(np.asarray(self.labeler.labels(vectors.detach().numpy())))


def optimise(
    detector: Detector,
    encode: Encode,
    bank: Bank,
    batches: Batches,
    validation: Validation,
    config: TrainConfig,
    progress: Callable[[str, int, int], None],
    state: Path | None,
    run_id: str,
) -> Optimised:
    """Train `detector` and leave it at its best validated step; see `mapl_edge.model.train.train`.

    Raises:
        TrainingError: loss or gradient is no longer a number before the first validation.
    """
    optimiser = torch.optim.AdamW(detector.trainable(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, config.steps))
    monitor, labelling = Convergence(config.patience), Labelling(config.classifiers, config.seed)
    averaged = Averaged(detector, config.steps)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = copy.deepcopy(detector.state_dict())
    first, converged = 1, False
    saved = _load(state, run_id)
    if saved is not None:
        detector.load_state_dict(saved["detector"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        monitor = Convergence(**saved["monitor"])
        averaged.mean, averaged.steps = saved["averaged"], int(saved["history"][-1]["step"])
        for name in ("normal", "real", "simulated"):
            getattr(labelling, name).extend(saved[name])
        labelling.fit()
        history, best, converged = saved["history"], saved["best"], saved["converged"]
        first = int(history[-1]["step"]) + 1
        validation.compare(detector, encode)
        progress("training", first - 1, config.steps)
    running: list[dict[str, float]] = []
    failure: str | None = None
    for step in range(first, 0 if converged else config.steps + 1):
        if detector.encoder.trainable and step > 1 and (step - 1) % config.refresh_every == 0:
            bank.fill(detector, encode)
        detector.train()
        loss, parts = _losses(detector, encode, batches.at(step), bank, labelling, config)
        if not math.isfinite(loss.item()):
            failure = f"the loss is {loss.item()} at step {step}; lower learning_rate ({config.learning_rate})"
            break
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(detector.trainable(), MAX_NORM))
        if not math.isfinite(norm):  # of a finite loss: one step with it would make every weight NaN
            failure = f"the gradient is {norm} at step {step}; lower learning_rate ({config.learning_rate})"
            break
        optimiser.step()
        schedule.step()
        averaged.update(detector)
        running.append(parts)
        progress("training", step, config.steps)
        if step % config.validate_every and step != config.steps:
            continue
        if detector.encoder.trainable:
            detector.eval()
            bank.fill(detector, encode)
            validation.compare(detector, encode)
        if config.pseudo_labeler:
            labelling.fit()
        entry = {"step": float(step)} | {name: float(np.mean([p[name] for p in running])) for name in parts}
        with averaged.within(detector):
            entry |= validation.score(detector)
            if not history or entry["validation_score"] >= best_of(history)["validation_score"]:
                best = copy.deepcopy(detector.state_dict())
        running.clear()
        history.append(entry)
        converged = monitor.update(entry["loss"], entry["validation_score"])
        if state is not None:
            kept = {name: list(getattr(labelling, name)) for name in ("normal", "real", "simulated")}
            _save(
                state,
                {
                    "run": run_id,
                    "detector": detector.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "averaged": averaged.mean,
                    "monitor": vars(monitor),
                    "history": history,
                    "best": best,
                    "converged": converged,
                    **kept,
                },
            )
        if converged:
            progress("training", config.steps, config.steps)
            break
    if failure and not history:
        raise TrainingError(failure)
    detector.load_state_dict(best)
    validation.compare(detector, encode)
    return Optimised(history, converged and history[-1]["step"] < config.steps, failure)


def _losses(
    detector: Detector, encode: Encode, batch: Batch, bank: Bank, labelling: Labelling, config: TrainConfig
) -> tuple[Tensor, dict[str, float]]:
    """L_all (Eq. 17) of one batch, and its parts by name."""
    features = detector.scaled(encode(batch.pictures))
    compared = detector.compare(features, bank.slots(batch.own))
    squares, masks, drawn = cut_out(compared, batch, square_side(config, batch.masks.shape[1:]))
    logits = upsample(detector.decode(squares), detector.decoder.stride)[drawn]
    masks = masks[drawn]
    l1 = l1_loss(logits.softmax(1)[:, 1], masks)
    focal = focal_loss(logits, masks, config.focal_gamma)
    loss = config.l1_weight * l1 + config.focal_weight * focal  # Eq. 14
    parts = {"l1": l1.item(), "focal": focal.item()}
    if config.pseudo_labeler:
        vectors = pooled(features)
        scores = detector.predictor(vectors)
        known = batch.labels >= 0
        supervised = labelled_loss(scores[known], batch.labels[known].float())
        labels = torch.where(known, -1, labelling.labels(vectors))
        unsupervised = pseudo_labelled_loss(scores, labels)
        labelling.keep(vectors, batch.labels)
        loss = loss + unsupervised + supervised  # Eq. 17
        parts |= {"labelled": supervised.item(), "pseudo_labelled": unsupervised.item()}
    return loss, parts | {"loss": loss.item()}


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then cosine to one hundredth."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def best_of(history: list[dict[str, float]]) -> dict[str, float]:
    """The entry whose weights are kept: the highest validation score, of equal ones the latest."""
    return max(reversed(history), key=lambda entry: entry["validation_score"])


def _save(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with new_file(path, overwrite=True) as work:
        work.write_bytes(buffer.getvalue())


def _load(path: Path | None, run_id: str) -> dict[str, Any] | None:
    """The saved state of this very run, or None: of another run, damaged or absent."""
    if path is None or not path.is_file():
        return None
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # torch's errors share no base class; a state that cannot be read is none
        return None
    return content if isinstance(content, dict) and content.get("run") == run_id else None
