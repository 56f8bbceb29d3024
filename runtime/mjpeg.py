"""HTTP MJPEG: a camera that sends one JPEG after the other in a single answer (multipart/x-mixed-replace)."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from mapl_edge.arrays import AnyArray
from mapl_edge.errors import CameraError, CameraUnreachable
from mapl_edge.picture import picture_from_bytes
from mapl_edge.redact import redact_text
from mapl_edge.runtime.reach import NetworkAddress, address_from_url, refused, unreachable

MAX_PICTURE = 64 * 2**20  # bytes
MAX_LINE = 65536  # bytes
MAX_HEADERS = 100  # lines before a picture


class MjpegDevice:
    """A `Device` on an HTTP stream; Basic and Digest passwords, no proxies.

    Args:
        url: http:// or https://, maybe with user and password.
        timeout_s: for connecting, and for every read.

    Raises:
        CameraUnreachable: no such host, port, path or password, or what answers is no MJPEG.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._address = address_from_url(url)
        self._answer = _open(self._address, timeout_s)
        boundary = self._answer.headers.get_param("boundary")
        kind = self._answer.headers.get_content_type()
        if kind != "multipart/x-mixed-replace" or not isinstance(boundary, str):
            self._answer.close()
            raise CameraUnreachable(
                f"{self._address.shown}: answers with {kind}, expected multipart/x-mixed-replace; check the path"
            )
        self._at_boundary = False
        self._boundary = _bare(boundary.encode("latin1"))

    def read(self) -> AnyArray:
        """See `Device`; a JPEG that is cut short or damaged is a PictureError."""
        try:
            data = self._part()
        except (OSError, http.client.HTTPException, ValueError) as exc:
            said = redact_text(str(exc), self._address.url) or type(exc).__name__
            raise CameraError(f"{self._address.shown}: the stream broke ({said})") from exc
        if data is None:
            raise CameraError(f"{self._address.shown}: the camera ended the stream")
        return picture_from_bytes(data, self._address.shown)

    def close(self) -> None:
        """Hang up."""
        self._answer.close()

    def _part(self) -> bytes | None:
        """The bytes of the next part; None at the end of the stream."""
        length, started, self._at_boundary = -1, self._at_boundary, False
        for _ in range(MAX_HEADERS):
            line = self._answer.readline(MAX_LINE)
            if not line:
                return None
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
            started = started or self._is_boundary(line)
            if started and not line.strip():
                break
        else:
            raise ValueError(f"no picture within {MAX_HEADERS} lines")
        if length < 0:
            return self._up_to_boundary()
        if length > MAX_PICTURE:
            raise ValueError(f"a picture of {length} bytes is announced, expected {MAX_PICTURE} at most")
        data: bytes = self._answer.read(length)
        return data if len(data) == length else None

    def _up_to_boundary(self) -> bytes | None:
        data = bytearray()
        while len(data) < MAX_PICTURE:
            line = self._answer.readline(MAX_LINE)
            if not line:
                return None
            if self._is_boundary(line):
                self._at_boundary = True
                return bytes(data.removesuffix(b"\r\n"))
            data += line
        raise ValueError(f"no boundary within {MAX_PICTURE} bytes")

    def _is_boundary(self, line: bytes) -> bool:
        return _bare(line) == self._boundary and (self._boundary != b"" or line.startswith(b"--"))


def _bare(boundary: bytes) -> bytes:
    """What all ways to write it have in common: cameras differ in which dashes belong to it, and in quotes."""
    return boundary.strip(b"-\"' \t\r\n")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Passwords are for this camera alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _open(address: NetworkAddress, timeout_s: float) -> Any:
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if address.user is not None:
        passwords.add_password(None, address.url, address.user, address.password or "")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        _StayHere(),
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPBasicAuthHandler(passwords),
    )
    try:
        return opener.open(address.url, timeout=timeout_s)
    except urllib.error.HTTPError as exc:
        status = exc.code
        exc.close()
        raise refused(address, status) from None  # its text may quote the address
    except urllib.error.URLError as exc:
        reason = (
            exc.reason if isinstance(exc.reason, OSError) else OSError(0, redact_text(str(exc.reason), address.url))
        )
        raise unreachable(address, reason) from None
    except OSError as exc:
        raise unreachable(address, exc) from exc
    except (http.client.HTTPException, ValueError) as exc:
        said = type(exc).__name__
        raise CameraUnreachable(
            f"{address.shown}: what listens at {address.where} does not speak HTTP ({said})"
        ) from None
