"""On real pictures, where they are: the same way that users go. Figures of full training are in docs/results.md."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.bundle import open_bundle
from mapl_edge.calibrate import calibrate_bundle, evaluate
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import good_samples, labelled_samples
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.model.masks import foreground
from mapl_edge.model.simulate import Simulator
from mapl_edge.model.train import train
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine, Inspection, Inspector, engine_of, run, source_from_uri
from mapl_edge.runtime.inspector import look
from mapl_edge.verdict import Verdict

pytestmark = pytest.mark.data


class Keep:
    """A sink that keeps the verdicts by picture."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}

    def emit(self, inspection: Inspection) -> None:
        self.verdicts[inspection.verdict.name] = inspection.verdict

    def close(self) -> None:
        pass


def test_bottle_at_half_size_and_sixty_steps(real_data: Path, tmp_path: Path) -> None:
    """A short training on 128x128 px already tells broken bottles apart, and run says exactly what evaluate says."""
    config = TrainConfig(contract=InputContract(size_hw=(128, 128)), steps=60)
    checkpoint = train(good_samples(real_data / "bottle"), config)
    bundle_from_checkpoint(checkpoint, tmp_path / "bottle.mapl", engine_of)
    bundle = open_bundle(tmp_path / "bottle.mapl")
    keep = Keep()
    with FusedEngine(bundle.model_path) as engine:
        see = partial(look, engine, bundle.contract)
        _, seen = calibrate_bundle(bundle, good_samples(real_data / "bottle"), see)
        limits = bundle.calibration.limits
        result = evaluate(labelled_samples(real_data / "bottle"), see, bundle.contract, limits)
        inspector = Inspector(engine, bundle.contract, limits)
        run(source_from_uri(str(real_data / "bottle" / "test")), inspector, [keep])

    assert seen == 150, "of 209 pictures 59 were held out"
    assert result.image_auroc > 0.9
    assert len(keep.verdicts) == len(result.pictures) == 83
    for picture in result.pictures:
        verdict = keep.verdicts[picture.sample.name]
        assert (verdict.score, verdict.outcome) == (picture.score, picture.outcome)


def test_the_bottle_is_found_on_its_light_ground(real_data: Path) -> None:
    """Simulated defects must lie on the glass (§2.1)."""
    contract = InputContract()
    shares = []
    for sample in good_samples(real_data / "bottle")[:10]:
        shares.append(foreground(prepare(picture_from_file(sample.path), contract)).mean())

    assert np.min(shares) > 0.6
    assert np.max(shares) < 0.85


def test_simulations_on_a_real_surface_are_visible(real_data: Path) -> None:
    """On magnetic tiles, which fill the view, at least nine in ten change the picture by more than noise."""
    sample = good_samples(real_data / "magnetic_tile")[0]
    picture = prepare(picture_from_file(sample.path), InputContract())
    changes = []
    for i in range(40):
        image, mask = Simulator(0).sample(picture, i)
        changes.append(np.abs(image.astype(int) - picture.astype(int))[mask == 1].mean())

    assert np.mean(np.array(changes) > 4) >= 0.9
