"""The contenders: same pictures, same size, what training decided, and time in turns."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import contenders
from mapl_edge.bundle import open_bundle
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import good_samples
from mapl_edge.model.checkpoint import Checkpoint, checkpoint_from_folder
from mapl_edge.model.train import contract_that_fits, split_of
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine
from mapl_edge.testing import FakeEngine, ManualClock, SyntheticLine
from settings import Settings


class Core:
    """In place of PatchCore: remembers the pictures that it is fitted on."""

    size_bytes = 0
    bank = (1, 2, 3)
    given: NDArray[np.uint8]

    @classmethod
    def fit(cls, encode: object, pictures: NDArray[np.uint8], seed: int) -> "Core":
        """Nothing but remember."""
        cls.given = pictures
        return cls()


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> type[Core]:
    """A baseline that needs no encoder's session."""
    monkeypatch.setattr(contenders, "PatchCore", Core)
    monkeypatch.setattr(contenders, "on_one_thread", lambda encoder, contract: None)
    return Core


def test_the_baseline_never_sees_what_is_held_out(tmp_path: Path, core: type[Core]) -> None:
    """It may use what our training uses, no more: both are calibrated on the same rest."""
    line = SyntheticLine(size_hw=(64, 64))
    line.write_mvtec(tmp_path, 10, 0, 0)
    contenders.contender_of("patchcore", Settings(size=64)).fit(good_samples(tmp_path))

    held_out = {line.good(int(i)).image.tobytes() for i in split_of(10, 0).calibration}

    assert len(core.given) == 8
    assert held_out.isdisjoint(picture.tobytes() for picture in core.given)


def test_the_baseline_has_the_size_of_ours(tmp_path: Path, core: type[Core]) -> None:
    """Training fits the input to the pictures' ratio of sides; another number of pixels would be another contest."""
    SyntheticLine(size_hw=(64, 160)).write_mvtec(tmp_path, 10, 0, 0)
    samples, settings = good_samples(tmp_path), Settings(size=128)
    baseline = contenders.contender_of("patchcore", settings)
    baseline.fit(samples)

    ours = contract_that_fits(settings.config("ours").contract, [(64, 160)] * 10)

    assert settings.config("ours").fit_aspect
    assert baseline.contract == ours
    assert baseline.contract.size_hw != (128, 128)
    assert core.given.shape[1:3] == ours.size_hw
    assert baseline.decided == {"patches": 3}


def test_a_given_size_is_kept_where_nothing_is_fitted(tmp_path: Path, core: type[Core]) -> None:
    """`fit_aspect` off means the contract as it stands."""
    SyntheticLine(size_hw=(64, 160)).write_mvtec(tmp_path, 4, 0, 0)
    contract = InputContract(size_hw=(64, 64))
    baseline = contenders.Baseline(TrainConfig(contract=contract, fit_aspect=False))
    baseline.fit(good_samples(tmp_path))

    assert baseline.contract == contract


def test_ours_is_what_the_bundle_says(
    calibrated: Path, line_data: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contender is the exported model, with what its record says, and kept; no real defects in the benchmark."""

    def trained(samples: object, config: TrainConfig, **others: Any) -> Checkpoint:
        assert others == {}
        return checkpoint

    def copied(given: Checkpoint, out: Path, open_engine: object) -> None:
        assert given is checkpoint
        shutil.copytree(calibrated, out)

    monkeypatch.setattr(contenders, "train", trained)
    monkeypatch.setattr(contenders, "bundle_from_checkpoint", copied)
    ours = contenders.Mapl(TrainConfig(contract=InputContract(size_hw=(32, 32))), tmp_path / "models" / "line")
    ours.fit(good_samples(line_data))
    bundle = open_bundle(calibrated)
    picture = prepare(SyntheticLine(size_hw=(96, 96)).good(0).image, bundle.contract)
    with FusedEngine(bundle.model_path, threads=1) as engine:
        expected = engine.infer(picture)

    assert ours.contract == bundle.contract == checkpoint.record.config.contract
    assert ours.infer(picture).score == expected.score
    assert checkpoint_from_folder(tmp_path / "models" / "line").record == checkpoint.record
    assert ours.encoder is checkpoint.detector.encoder
    assert ours.size_bytes == bundle.model_path.stat().st_size
    assert set(ours.decided) == set(contenders.DECIDED)
    assert ours.decided["memory"] in ("image", "patch")


def test_the_encoder_alone_gives_its_own_maps(checkpoint: Checkpoint) -> None:
    """It runs at the size of the whole model, on one thread, and leaves torch's threads as they were."""
    threads = contenders.torch.get_num_threads()
    contract = checkpoint.record.config.contract
    encode = contenders.on_one_thread(checkpoint.detector.encoder, contract)
    pictures = checkpoint.golden_pictures[:1]

    with contenders.torch.no_grad():
        expected = checkpoint.detector.encoder(contenders.torch.from_numpy(pictures))

    for alone, level in zip(encode(pictures), expected, strict=True):
        np.testing.assert_allclose(alone.numpy(), level.numpy(), atol=1e-3)
    assert contenders.torch.get_num_threads() == threads


def test_latency_is_measured_in_turns() -> None:
    """Whole and encoder read the same picture one after the other; a slow start and one slow turn change nothing."""
    clock, read = ManualClock(), []

    class Slow(FakeEngine):
        def infer(self, picture: Any) -> Any:
            read.append(("whole", int(picture[0, 0, 0])))
            clock.advance(9.0 if self.calls in (0, contenders.WARM_UP + 1) else 0.05)
            return super().infer(picture)

    def encode(pictures: Any) -> Any:
        assert pictures.shape == (1, 8, 8, 3)
        read.append(("alone", int(pictures[0, 0, 0, 0])))
        clock.advance(0.02)

    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2, 3)]
    contender: Any = Slow()

    times = contenders.latency(contender, encode, pictures, turns=4, now=clock.monotonic)

    assert times == {"ms_per_frame": 50.0, "encoder_ms": 20.0, "latency_ratio": 2.5}
    assert read[:4] == [("whole", 1), ("alone", 1), ("whole", 2), ("alone", 2)]
    assert len(read) == 2 * (contenders.WARM_UP + 4)
