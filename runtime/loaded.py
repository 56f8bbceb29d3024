"""Loaded: a bundle that is ready to inspect: checked, its limits read, an engine of it proved on this device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibration import Calibration
from mapl_edge.engine import BaseEngine, Engine
from mapl_edge.engine_record import Precision
from mapl_edge.errors import BundleError
from mapl_edge.masks import InspectedArea
from mapl_edge.runtime.camera_gate import CameraGate
from mapl_edge.runtime.engine_choice import AUTO, Proof, Tell, choose_engine, standby_engines
from mapl_edge.runtime.inspector import Inspector
from mapl_edge.runtime.watchdog import OpenEngine
from mapl_edge.signature import require_bundle_signature
from mapl_edge.verdict import Policy

ATTEMPTS = 3  # at reading limits that somebody is writing


@dataclass(frozen=True)
class Wanted:
    """How a bundle's engine is chosen; see `choose_engine`."""

    engine: str = AUTO
    threads: int = 0
    precisions: Sequence[str] = get_args(Precision)
    signed_by: Path | None = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A bundle with its limits as they were read, and the engine chosen for it, which is loaded.

    Attributes:
        digests: of `bundle` and `calibration`, as they stand in verdicts.
    """

    bundle: Bundle
    calibration: Calibration
    digests: dict[str, str]
    engine: BaseEngine
    proof: Proof
    wanted: Wanted

    def inspector_of(
        self, policy: Policy, gate: CameraGate | None = None, area: InspectedArea | None = None
    ) -> Callable[[Engine], Inspector]:
        """What makes an inspector by this bundle's contract and limits."""
        return partial(
            Inspector,
            contract=self.bundle.contract,
            limits=self.calibration.limits,
            policy=policy,
            normals=self.calibration.scores,
            gate=gate,
            area=area,
            place=self.calibration.place,
        )

    def engines(self) -> Sequence[OpenEngine]:
        """For a `Watchdog`: the engine, and after it is lost the others; see `standby_engines`."""
        wanted, first = self.wanted, self.proof.engine
        return standby_engines(
            self.bundle,
            self.engine,
            first,
            wanted.engine,
            wanted.threads,
            precisions=wanted.precisions,
            signed_by=wanted.signed_by,
        )


def loaded_bundle(path: Path, wanted: Wanted = Wanted(), tell: Tell = lambda line: None) -> Loaded:
    """Open a bundle, check its signature if one is wanted, read its limits, prove and load an engine of it.

    Args:
        tell: gets what people should know: what the bundle lacks, engines that are left out.

    Raises:
        BundleError: as `open_bundle`, `Bundle.calibration` and `require_bundle_signature`.
        ParityError, BackendError: as `choose_engine`.
    """
    bundle = open_bundle(path)
    for note in bundle.notes:
        tell(note)
    if wanted.signed_by is not None:
        require_bundle_signature(bundle, wanted.signed_by)
    calibration, digest = read_calibration(bundle)
    engine, proof = choose_engine(
        bundle, wanted.engine, wanted.threads, precisions=wanted.precisions, signed_by=wanted.signed_by, tell=tell
    )
    return Loaded(bundle, calibration, {"bundle": bundle.digest, "calibration": digest}, engine, proof, wanted)


def reloaded_bundle(running: Loaded, tell: Tell = lambda line: None) -> Loaded:
    """What lies on the disk now in the place of a bundle that runs; where just its limits are new, the engine stays.

    Raises:
        BundleError, ParityError, BackendError: as `loaded_bundle`.
    """
    path, wanted = running.bundle.path, running.wanted
    bundle = open_bundle(path)
    if bundle.digest != running.bundle.digest:
        return loaded_bundle(path, wanted, tell)
    if wanted.signed_by is not None:
        require_bundle_signature(bundle, wanted.signed_by)
    calibration, digest = read_calibration(bundle)
    digests = {"bundle": bundle.digest, "calibration": digest}
    return replace(running, bundle=bundle, calibration=calibration, digests=digests)


def read_calibration(bundle: Bundle) -> tuple[Calibration, str]:
    """The limits as they lie on the disk now, and the digest of just those.

    Raises:
        BundleError: as `Bundle.calibration`.
    """
    for _ in range(ATTEMPTS):
        fresh = Bundle(bundle.path, bundle.manifest, bundle.digest)
        calibration, digest = fresh.calibration, fresh.calibration_digest
        if Bundle(bundle.path, bundle.manifest, bundle.digest).calibration == calibration:
            return calibration, digest
    raise BundleError(f"{bundle.calibration_path}: changes while it is read; try again when it is written")
