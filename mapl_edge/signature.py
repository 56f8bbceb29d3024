"""Signatures (Ed25519, RFC 8032) of bundles and engines, with the cryptography library.

The manifest holds the digest of every file, so a signature of the manifest signs them all; an engine's record likewise.
Keys are PEM files; `openssl genpkey -algorithm ed25519 -out key.pem` makes a private one, and
`openssl pkey -in key.pem -pubout -out public.pem` its public one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mapl_edge.bundle import MANIFEST, SIGNATURE, Bundle
from mapl_edge.engine_record import RECORD, RECORD_SIGNATURE, EngineFiles
from mapl_edge.errors import BackendUnavailable, BundleError
from mapl_edge.files import new_file


def sign_bundle(bundle: Bundle, key: Path) -> None:
    """Sign the manifest with a private key; an older signature is replaced.

    Raises:
        BundleError: the key cannot be read or is no Ed25519 key.
        OutputError: the signature cannot be written.
    """
    _sign(bundle.path / MANIFEST, bundle.path / SIGNATURE, key)


def sign_engine(engine: EngineFiles, key: Path) -> None:
    """Sign an engine's record; see `sign_bundle`. The bundle's own engine is signed with the bundle."""
    if engine.folder is not None:
        _sign(engine.folder / RECORD, engine.folder / RECORD_SIGNATURE, key)


def require_bundle_signature(bundle: Bundle, public: Path) -> None:
    """Raise BundleError unless the manifest carries a signature of this public key's owner."""
    _require(bundle, bundle.path / MANIFEST, bundle.path / SIGNATURE, public)


def require_engine_signature(engine: EngineFiles, public: Path) -> None:
    """Raise BundleError unless the engine's record carries a signature of this public key's owner."""
    if engine.folder is not None:
        _require(engine.bundle, engine.folder / RECORD, engine.folder / RECORD_SIGNATURE, public)


def _sign(signed: Path, signature: Path, key: Path) -> None:
    serialization, ed25519, _ = _cryptography()
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise BundleError(f"{key}: is no private key without a password ({exc}); {_MAKE}") from exc
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise BundleError(f"{key}: is no Ed25519 key; {_MAKE}")
    with new_file(signature, overwrite=True) as work:
        work.write_bytes(private.sign(signed.read_bytes()))


def _require(bundle: Bundle, signed: Path, signature: Path, public: Path) -> None:
    serialization, ed25519, invalid = _cryptography()
    try:
        key = serialization.load_pem_public_key(public.read_bytes())
    except (OSError, ValueError) as exc:
        raise BundleError(f"{public}: is no public key ({exc}); openssl pkey -in key.pem -pubout makes one") from exc
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise BundleError(f"{public}: is no Ed25519 key; openssl pkey -in key.pem -pubout makes one")
    if not signature.is_file():
        raise BundleError(
            f"{signed}: is not signed; sign it with the private key that {public} belongs to: "
            f"mapl-edge export {bundle.path} --sign key.pem"
        )
    try:
        key.verify(signature.read_bytes(), signed.read_bytes())
    except invalid as exc:
        raise BundleError(
            f"{signed}: its signature is not that of {public}: changed, or signed by somebody else; do not use it"
        ) from exc


_MAKE = "openssl genpkey -algorithm ed25519 -out key.pem makes one"


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as exc:
        raise BackendUnavailable("cryptography is not installed; pip install 'mapl-edge[sign]'") from exc
    return serialization, ed25519, InvalidSignature
