"""Why a camera on the network does not answer, told apart in one line: name, host, port, password, path."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import urllib.parse
from dataclasses import dataclass, field

from mapl_edge.errors import CameraUnreachable
from mapl_edge.redact import HIDDEN, redact

DEFAULT_PORTS = {"rtsp": 554, "http": 80, "https": 443}
ENCODE = "write / ? # @ : in a password as %2F %3F %23 %40 %3A"
ANSWER_LIMIT = 65536  # bytes; a longer answer to DESCRIBE is no camera's


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """Where a camera is, taken apart once.

    Attributes:
        url: without user and password, safe to hand to libraries.
        shown: as the user gave it, without secrets.
        where: host and port for people, unless they may be a piece of a password with a / in it.
        user: percent-decoded; None without one.
        password: percent-decoded; never in the repr.
    """

    url: str
    shown: str
    where: str
    scheme: str
    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)


def address_from_url(url: str) -> NetworkAddress:
    """Take a URL apart.

    Raises:
        CameraUnreachable: it has no host or no usable port.
    """
    shown = redact(url)
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may hold a piece of the password
        raise CameraUnreachable(f"{shown}: the port is not a number from 1 to 65535; {ENCODE}") from None
    if not host or any(c.isspace() for c in url):
        problem = "there is no host in it" if not host else "there is a space in it; write it as %20"
        raise CameraUnreachable(f"{shown}: {problem}; expected {parts.scheme}://user:password@host:port/path")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    port = port or DEFAULT_PORTS[parts.scheme]
    torn = "@" in parts._replace(netloc="").geturl()
    where = f"{HIDDEN} ({ENCODE})" if torn and ":" in parts.netloc else f"{host}:{port}"
    user, password = (
        None if given is None else urllib.parse.unquote(given) for given in (parts.username, parts.password)
    )
    return NetworkAddress(bare, shown, where, parts.scheme, host, port, user, password)


def unreachable(address: NetworkAddress, exc: OSError) -> CameraUnreachable:
    """What a failed connection means."""
    where = address.where
    if isinstance(exc, socket.gaierror):
        name = repr(address.host) if where.startswith(address.host) else where
        says = f"no host of the name {name} is known; check the spelling, or give its IP address"
    elif isinstance(exc, ConnectionRefusedError):
        says = f"the host is there, but nothing listens at {where}; check the port, and that the camera serves it"
    elif isinstance(exc, TimeoutError):
        says = f"no answer from {where}; check the cable, the camera's power and its IP address"
    else:
        says = f"no way to {where} ({exc.strerror or type(exc).__name__}); check the network and the IP address"
    return CameraUnreachable(f"{address.shown}: {says}")


def refused(address: NetworkAddress, status: int) -> CameraUnreachable:
    """What an HTTP or RTSP status other than success means."""
    if status in (401, 403) and address.user is None:
        says = "the camera wants a user and a password; write them as scheme://user:password@host"
    elif status in (401, 403):
        says = f"wrong user or password (status {status}); the camera is there"
    elif status in (404, 410, 454):
        path = redact(urllib.parse.urlsplit(address.url)._replace(scheme="", netloc="").geturl()) or "/"
        path = path if "@" not in path else HIDDEN + path[path.rindex("@") :]
        says = f"the camera is there, but has no stream at {path!r} (status {status}); check the path"
    else:
        says = f"the camera answers with status {status}; check its settings and how many viewers it allows"
    return CameraUnreachable(f"{address.shown}: {says}")


def check_listening(address: NetworkAddress, timeout_s: float) -> None:
    """Raise CameraUnreachable unless something takes calls at the address."""
    try:
        socket.create_connection((address.host, address.port), timeout=timeout_s).close()
    except OSError as exc:
        raise unreachable(address, exc) from exc


def check_rtsp(address: NetworkAddress, timeout_s: float) -> None:
    """Ask for the stream's description, as a player would.

    Raises:
        CameraUnreachable: there is no such stream for this user; says which of name, host, port, password or path.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            status, headers = _describe(connection, address, 1, "")
            if status == 401 and address.user is not None:
                authorization = _authorization(headers, address)
                status, _ = _describe(connection, address, 2, authorization)
    except OSError as exc:
        raise unreachable(address, exc) from exc
    if status == 0:
        raise CameraUnreachable(f"{address.shown}: what listens at {address.where} does not speak RTSP")
    if status != 200:
        raise refused(address, status)


def _describe(connection: socket.socket, address: NetworkAddress, number: int, authorization: str) -> tuple[int, str]:
    """Status (0: not RTSP) and headers of the answer to one DESCRIBE."""
    lines = [f"DESCRIBE {address.url} RTSP/1.0", f"CSeq: {number}", "Accept: application/sdp", "User-Agent: mapl-edge"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < ANSWER_LIMIT:
        piece = connection.recv(4096)
        if not piece:
            break
        answer += piece
        if not b"RTSP/".startswith(answer[:5]):
            return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = head.decode("latin1")
    status = re.match(r"RTSP/\d\.\d (\d{3})", headers)
    length = re.search(r"(?im)^content-length:\s*(\d{1,5})\s*$", headers)
    missing = (int(length.group(1)) if length else 0) - len(body)
    while missing > 0 and (piece := connection.recv(min(missing, 4096))):  # so that the next answer starts clean
        missing -= len(piece)
    return int(status.group(1)) if status else 0, headers


def _authorization(headers: str, address: NetworkAddress) -> str:
    """Answer the challenge: Digest (RFC 2617, MD5) where it is offered, else Basic."""
    user, password = address.user or "", address.password or ""
    digest = re.search(r"(?im)^www-authenticate:\s*digest\s+(.*)$", headers)
    if digest is None:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    given = dict(re.findall(r'(\w+)="?([^",\r]*)"?', digest.group(1)))
    realm, nonce = given.get("realm", ""), given.get("nonce", "")
    response = _md5(f"{_md5(f'{user}:{realm}:{password}')}:{nonce}:{_md5(f'DESCRIBE:{address.url}')}")
    return f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{address.url}", response="{response}"'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
