"""Settings: what each contender of the benchmarks is trained with, and a digest to know results of the same by.

Torch is not imported here, see bench/trials.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from mapl_edge import __version__
from mapl_edge.config import TrainConfig

OURS = "ours"
BASELINE = "patchcore"
ABLATION: dict[str, dict[str, Any]] = {
    "no_msff": {"fusion": "none"},
    "added_ca": {"coordinate_attention": True},
    "no_sa": {"spatial_attention": "none"},
    "memory_image": {"memory": "image"},
    "memory_patch": {"memory": "patch"},
    "no_distance": {"distance": False},
    "no_pseudo_labeler": {"pseudo_labeler": False},
    "no_interference": {"interference": False},
    "paper_simulation": {"simulation": "paper"},
}
"""What each row of the ablation changes in ours. The first three are those of the paper's Table 4."""

CONFIGS: dict[str, TrainConfig] = {
    BASELINE: TrainConfig(),  # reads of it what BASELINE_READS says
    OURS: TrainConfig(),
    "paper": TrainConfig.paper_settings(),
    **{name: TrainConfig.model_validate(changes) for name, changes in ABLATION.items()},
}
"""By the contender's name."""

BASELINE_READS = {"contract", "fit_aspect", "seed"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all contenders of a run; None: what the contender's own settings say.

    Attributes:
        steps: of training; few for a smoke test.
        size: the model input has as many pixels as a square of this side.
        seed: of training, of the coreset and of what is held out.
        interference: whether to measure a second time under `Interference()`.
    """

    steps: int | None = None
    size: int | None = None
    seed: int = 0
    interference: bool = False

    def config(self, contender: str) -> TrainConfig:
        """All settings of one contender."""
        values = CONFIGS[contender].model_dump() | {"seed": self.seed}
        if self.steps is not None:
            values["steps"] = self.steps
        if self.size is not None:
            values["contract"] = {"size_hw": (self.size, self.size)}
        return TrainConfig.model_validate(values)

    def digest(self, contender: str) -> str:
        """The same for all that are trained alike, whatever they are called; `interference` does not touch training."""
        read = BASELINE_READS if contender == BASELINE else None
        kind = BASELINE if contender == BASELINE else "mapl"
        text = f"{kind} {__version__} {self.config(contender).model_dump_json(include=read)}"
        return hashlib.sha256(text.encode()).hexdigest()
