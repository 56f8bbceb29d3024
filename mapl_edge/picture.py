"""Reading pictures from disk: one reader, so that training, calibration and the line see the same bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.errors import PictureError
from mapl_edge.frame import check_picture

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def picture_from_file(path: Path) -> UInt8Array:
    """Read a picture as uint8 (H, W, 3), BGR.

    Grey is repeated to three channels, an alpha channel is dropped, 16-bit values are scaled by 1/257 (never
    stretched: the same light gives the same value in every picture), floats are refused.

    Raises:
        PictureError: missing, empty, truncated, of an unknown format, or smaller than 16 px.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise PictureError(path, f"cannot be read ({exc.strerror}); check the path") from exc
    return picture_from_bytes(data, str(path))


def picture_from_bytes(data: bytes, name: str) -> UInt8Array:
    """Decode an image file's bytes; see `picture_from_file`."""
    damage = _damage(data)
    pixels: AnyArray | None = None
    if damage is None:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
        if pixels is None:
            damage = f"not a picture that can be decoded; expected one of {', '.join(sorted(PICTURE_SUFFIXES))}"
    if damage is not None or pixels is None:
        raise PictureError(name, f"{damage}; replace or remove it")
    image = bgr_from_pixels(pixels, name)
    check_picture(image, name)
    return image


def bgr_from_pixels(pixels: AnyArray, name: str) -> UInt8Array:
    """uint8 or uint16, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) → uint8 (H, W, 3), BGR."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise PictureError(name, f"has {pixels.dtype} values, expected 8 or 16 bit integers; convert it")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, :, :3])


def _damage(data: bytes) -> str | None:
    """Say what is wrong with a file that decoders would still half-decode."""
    if not data:
        return "the file is empty"
    if data.startswith(b"\xff\xd8"):
        # The end marker must come after the last scan: an embedded thumbnail has an end marker of its own.
        return None if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") else "the JPEG is truncated"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_damage(data)
    if data.startswith(b"BM") and len(data) >= 6 and struct.unpack_from("<I", data, 2)[0] > len(data):
        return "the BMP is truncated"
    return None


def _png_damage(data: bytes) -> str | None:
    """Walk the chunks: length, type, body, CRC-32 (PNG specification, section 5.3)."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            break
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(data[at + 4 : at + 8 + length]) != crc:
            return f"the PNG is damaged (checksum of chunk {kind.decode('latin1')})"
        if kind == b"IEND":
            return None
        at += 12 + length
    return "the PNG is truncated"
