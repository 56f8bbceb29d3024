"""Signatures: whoever demands them gets what the owner of the key signed, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapl_edge.bundle import MANIFEST, SEAL, SIGNATURE, Bundle, open_bundle
from mapl_edge.errors import BundleError
from mapl_edge.files import sha256_of
from mapl_edge.signature import require_bundle_signature, sign_bundle

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="needs the sign extra")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="needs the sign extra")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and its public key, as openssl writes them."""
    return write_keys(tmp_path, "owner")


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A new pair of keys in PEM files."""
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


def test_a_signed_bundle_is_the_same_bundle(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    """Signing changes nothing but the signature."""
    sign_bundle(bundle, keys[0])

    assert open_bundle(bundle.path).digest == bundle.digest
    require_bundle_signature(bundle, keys[1])


def test_an_unsigned_bundle_is_refused(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    """And told how to sign it."""
    with pytest.raises(BundleError, match="is not signed; sign it") as told:
        require_bundle_signature(bundle, keys[1])

    assert str(told.value).endswith(f"that {keys[1]} belongs to: mapl-edge export {bundle.path} --sign key.pem")


def test_somebody_elses_signature_is_refused(bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """A right signature of a wrong key."""
    sign_bundle(bundle, write_keys(tmp_path, "stranger")[0])

    with pytest.raises(BundleError, match="not that of"):
        require_bundle_signature(bundle, keys[1])


def test_a_bundle_edited_after_signing_is_refused_even_with_a_mended_seal(
    bundle: Bundle, keys: tuple[Path, Path]
) -> None:
    """Whoever can edit can also compute digests; not the signature."""
    sign_bundle(bundle, keys[0])
    manifest = bundle.path / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"family": "mapl"', '"family":  "mapl"'))
    (bundle.path / SEAL).write_text(f"{sha256_of(manifest)}  {MANIFEST}\n")

    with pytest.raises(BundleError, match="do not use it"):
        require_bundle_signature(open_bundle(bundle.path), keys[1])


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_key_that_is_none_is_named(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    """Nothing is written then."""
    (tmp_path / "key.pem").write_bytes(content)

    with pytest.raises(BundleError, match="openssl genpkey"):
        sign_bundle(bundle, tmp_path / "key.pem")

    assert not (bundle.path / SIGNATURE).exists()
