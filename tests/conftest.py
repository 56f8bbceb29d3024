"""What tests share: a small synthetic data set, a model trained on it for a few steps, its bundle, real image sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate import calibrate_bundle
from mapl_edge.config import TrainConfig
from mapl_edge.contract import InputContract
from mapl_edge.dataset import good_samples
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.model import train as train_module
from mapl_edge.model.checkpoint import Checkpoint
from mapl_edge.model.encoder import Encoder
from mapl_edge.model.frozen import Encode, frozen
from mapl_edge.model.train import train
from mapl_edge.runtime import FusedEngine, engine_of
from mapl_edge.runtime.inspector import look
from mapl_edge.testing import SyntheticLine

TINY = TrainConfig(
    contract=InputContract(size_hw=(96, 64)),
    fit_aspect=False,
    seed=3,
    steps=8,
    validate_every=4,
    batch_size=4,
    crop=64,
    memory="patch",
    memory_samples=5,
    memory_patches=100,
    position_weight=0.0,
    moved_px=0.0,
)


@pytest.fixture(scope="session", autouse=True)
def _proofs_are_kept_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAPL_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _each_frozen_encoder_is_traced_once() -> Iterator[None]:
    """Tracing takes five seconds, and the same weights give the same graph every time."""
    traced: dict[tuple[int, tuple[int, int]], Encode] = {}

    def frozen_once(encoder: Encoder, size_hw: tuple[int, int]) -> Encode:
        key = encoder.fingerprint(), size_hw
        if key not in traced:
            traced[key] = frozen(encoder, size_hw)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "frozen", frozen_once)
        yield


@pytest.fixture(scope="session")
def line_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVTec layout: 40 good parts to train on, 6 good and 2 of each defect to measure with, 96x96 px."""
    folder = tmp_path_factory.mktemp("line")
    SyntheticLine(seed=1, size_hw=(96, 96)).write_mvtec(folder, 40, 6, 2)
    return folder


@pytest.fixture(scope="session")
def calibration_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 good parts that training never saw."""
    folder = tmp_path_factory.mktemp("calibration")
    SyntheticLine(seed=1, size_hw=(96, 96)).write_mvtec(folder, 20, 0, 0, start=1000)
    return folder / "train" / "good"


@pytest.fixture(scope="session")
def checkpoint(line_data: Path) -> Checkpoint:
    """A model trained for eight steps, of 96x64 px (a rectangle: swapped sides would show)."""
    return train(good_samples(line_data), TINY)


@pytest.fixture(scope="session")
def model_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint on disk."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder)
    return folder


@pytest.fixture(scope="session")
def calibrated(checkpoint: Checkpoint, calibration_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle that no test may change; kept in $MAPL_EDGE_KEEP_BUNDLE, where CI's lean run looks for it."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.mapl"
    bundle_from_checkpoint(checkpoint, path, engine_of)
    bundle = open_bundle(path)
    with FusedEngine(bundle.model_path) as engine:
        calibrate_bundle(bundle, good_samples(calibration_data), lambda image: look(engine, bundle.contract, image))
    keep = os.environ.get("MAPL_EDGE_KEEP_BUNDLE")
    if keep:
        shutil.copytree(path, Path(keep), dirs_exist_ok=True)
    return path


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path) -> Bundle:
    """A calibrated bundle of the test's own."""
    shutil.copytree(calibrated, tmp_path / "part.mapl")
    return open_bundle(tmp_path / "part.mapl")


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[FusedEngine]:
    """The bundle's engine."""
    with FusedEngine(bundle.model_path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets, or skip."""
    for path in (os.environ.get("MAPL_EDGE_DATA"), Path(__file__).parents[2] / "shared" / "data"):
        if path and Path(path).is_dir():
            return Path(path)
    pytest.skip("no real image sets: set MAPL_EDGE_DATA to a folder of data sets in MVTec layout")
