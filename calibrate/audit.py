"""Audit: where a bundle comes from, what it holds and what ran, each with its digest."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mapl_edge.bundle import SIGNATURE, Bundle
from mapl_edge.engine_record import engine_files, engine_names
from mapl_edge.errors import BundleError
from mapl_edge.files import sha256_of
from mapl_edge.signature import require_bundle_signature
from mapl_edge.verdict import utc_text

PACKAGES = ("mapl-edge", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "faiss-cpu")


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One engine of a bundle: digest of its record, when it was made, what its precision costs; why it is refused."""

    name: str
    digest: str
    created_at: str
    cost: dict[str, Any] | None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an auditor asks of a bundle whose digests were checked when it was opened.

    Attributes:
        command, made_at: of the report.
        signature: in words.
        engine, proof: which one gave the scores, and that it answered the golden pictures on this machine.
        n_trained_on, trained_on: pictures that training saw, and their fingerprint (`fingerprint`).
        n_held_out, held_out: the same of those that it set aside.
        pictures: how many in each split, as training counted them.
        tools, tools_here: versions that made the bundle, and those that made this report.
        calibration_digest: of calibration.yaml; empty where there is none.
    """

    path: str
    digest: str
    created_at: str
    command: str
    made_at: str
    signature: str
    engine: str
    proof: dict[str, Any] | None
    engines: tuple[EngineEntry, ...]
    n_trained_on: int
    trained_on: str
    n_held_out: int
    held_out: str
    pictures: dict[str, Any]
    contract: dict[str, Any]
    memory: dict[str, Any]
    tools: dict[str, str]
    tools_here: dict[str, str]
    files: dict[str, str]
    calibration_digest: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit(
    bundle: Bundle, command: str = "", engine: str = "", proof: dict[str, Any] | None = None, key: Path | None = None
) -> Audit:
    """Collect what an auditor asks; with a public `key` the signature is checked.

    Raises:
        BundleError: the bundle is not signed with this key.
    """
    manifest = bundle.manifest
    return Audit(
        path=str(bundle.path),
        digest=bundle.digest,
        created_at=manifest.created_at,
        command=command,
        made_at=utc_text(datetime.now(timezone.utc)),
        signature=_signature(bundle, key),
        engine=engine,
        proof=proof,
        engines=tuple(_engine_entry(bundle, name) for name in engine_names(bundle)),
        n_trained_on=len(manifest.trained_on),
        trained_on=fingerprint(manifest.trained_on),
        n_held_out=len(manifest.held_out),
        held_out=fingerprint(manifest.held_out.values()),
        pictures=dict(manifest.training.get("pictures", {})),
        contract=manifest.contract.model_dump(mode="json"),
        memory=manifest.memory.model_dump(mode="json"),
        tools=manifest.tools,
        tools_here=_tools_here(),
        files=manifest.files,
        calibration_digest=bundle.calibration_digest if bundle.calibration_path.is_file() else "",
    )


def fingerprint(digests: Iterable[str]) -> str:
    """SHA-256 of digests in ascending order, one a line, as `sort | sha256sum` gives it."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in sorted(digests)).encode()).hexdigest()


def _signature(bundle: Bundle, key: Path | None) -> str:
    path = bundle.path / SIGNATURE
    if key is not None:
        require_bundle_signature(bundle, key)
        return f"signed by the owner of {key} (SHA-256 of the key's file {sha256_of(key)}), checked"
    return f"there is one (SHA-256 {sha256_of(path)}), not checked: name a public key" if path.is_file() else "none"


def _engine_entry(bundle: Bundle, name: str) -> EngineEntry:
    try:
        files = engine_files(bundle, name)
    except BundleError as exc:
        return EngineEntry(name, "", "", None, str(exc))
    cost = files.record.cost
    return EngineEntry(name, files.digest, files.record.created_at, None if cost is None else cost.model_dump())


def _tools_here() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
