"""No password leaves in any message, log or repr, however badly it was typed."""

import logging
import re
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapl_edge.config import CameraConfig
from mapl_edge.errors import CameraUnreachable, ConfigError, MaplEdgeError
from mapl_edge.redact import redact, redact_text
from mapl_edge.runtime.sources import source_from_uri

SECRETS = st.text(string.ascii_letters + string.digits + "@:/?#%&=+ ;,'\"[]", max_size=12).map(lambda s: f"Sw0rd{s}x9")
USERS = st.text(string.ascii_letters, max_size=8)
SCHEMES = st.sampled_from(["rtsp", "http", "https", "rtsps", "ftp", "RTSP", "x"])


def pieces(secret: str) -> list[str]:
    """What of a secret must not show: both ends, since people's separators cut it in two."""
    return [secret, "Sw0rd"]


@given(SCHEMES, USERS, SECRETS)
def test_no_password_survives_redaction(scheme: str, user: str, secret: str) -> None:
    """As a URI, inside a text, and as a query value."""
    uri = f"{scheme}://{user}:{secret}@127.0.0.1:9/path"
    shown = [redact(uri), repr(redact(uri)), redact_text(f"cannot open {uri}: said {secret}", uri)]

    for text in shown:
        assert all(piece not in text for piece in pieces(secret)), text
    assert shown[0] == f"{scheme}://{user}:***@127.0.0.1:9/path"


@given(
    st.sampled_from(["password", "pwd", "token", "api_key", "loginpas", "authToken"]),
    st.from_regex(r"Sw0rd[\w.%-]{0,8}", fullmatch=True),
)
def test_no_secret_query_value_survives(key: str, secret: str) -> None:
    """Many cameras take the password there."""
    uri = f"http://camera/video.cgi?user=me&{key}={secret}&fps=5"

    assert "Sw0rd" not in redact(uri)
    assert "Sw0rd" not in redact_text(f"bad request {secret}", uri)
    assert "fps=5" in redact(uri)


HARD = st.text("GHKXYZ40@:/?#%&=+ ;,'\"", min_size=3, max_size=16)
FORMS: dict[str, Callable[[str], str]] = {
    "as typed": lambda secret: f"rtsp://me:{secret}@camera/x",
    "without a scheme": lambda secret: f"me:{secret}@camera/x",
    "encoded": lambda secret: f"http://me:{quote(secret, safe='')}@camera/x",
    "encoded with its neighbours": lambda secret: f"http://me{quote(':' + secret + '@camera', safe='')}/x",
    "query": lambda secret: f"http://camera/x?user=me&password={quote_plus(secret)}&fps=5",
    "short query": lambda secret: f"http://camera/x?u=me&p={quote(secret, safe='')}&fps=5",
    "encoded query": lambda secret: f"http://camera/x{quote(f'?usr=me&pwd={quote(secret)}', safe='')}",
    "path": lambda secret: f"rtsp://camera/user=me_password={quote(secret, safe='')}_channel=x",
}


@pytest.mark.parametrize("form", FORMS)
@given(secret=HARD)
def test_no_part_of_a_password_survives_in_any_form_of_address(form: str, secret: str) -> None:
    """Three characters of it are too many; the address itself is in small letters."""
    assume(form != "without a scheme" or not secret.startswith("//"))  # me:// would be one
    uri = FORMS[form](secret)
    shown = [redact(uri), redact_text(f"cannot open {uri} ({secret}, {quote(secret)})", uri)]
    if "://" in uri:
        shown.append(redact_text(f"cannot open {uri} in time", ""))

    parts = {secret[i : i + 3] for i in range(len(secret) - 2)}
    assert not [(part, line) for part in parts if re.search("[G-Z]", part) for line in shown if part in line]


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
@pytest.mark.parametrize("password", ["12/34", "12#34", "12?34", "12@127.0.0.34:1/56"])
def test_a_password_with_a_separator_in_it_is_not_told_as_host_port_or_path(scheme: str, password: str) -> None:
    """By its beginning it looks like a port; what to write is told."""
    with pytest.raises(CameraUnreachable) as caught:
        source_from_uri(f"{scheme}://localhost:{password}@camera/", limits=CameraConfig(open_timeout_s=1))

    assert not re.search("12|34|56", str(caught.value).replace("%23 %40", ""))
    assert "in a password as %2F" in str(caught.value)


@pytest.mark.parametrize("uri", ["v4l2:/dev/video0", "genicam:1", "line:"])
def test_a_wrong_key_of_an_address_is_told_without_its_secrets(uri: str) -> None:
    """The message says which address it is of."""
    with pytest.raises(ConfigError, match="password: unknown key") as caught:
        source_from_uri(f"{uri}?password=geheim")

    assert "geheim" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["rtsp", "http", "https", "ftp"]), USERS, SECRETS)
def test_no_password_in_errors_and_logs(caplog: pytest.LogCaptureFixture, scheme: str, user: str, secret: str) -> None:
    """Nothing listens at port 9; the whole way from the URI to the line on the screen, tracebacks included."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(MaplEdgeError) as caught:
        source_from_uri(f"{scheme}://{user}:{secret}@127.0.0.1:9/path")

    error: BaseException | None = caught.value
    while error is not None:
        assert "Sw0rd" not in str(error) + repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "Sw0rd" not in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp:/user:hush@host/1", "rtsp:***@host/1"),
        ("user:hush@host", "user:***@host"),
        ("http://host:8080/a.jpg", "http://host:8080/a.jpg"),
        ("/data/parts/001.png", "/data/parts/001.png"),
        ("http://h/?monkey=1&pwd=a", "http://h/?monkey=***&pwd=***"),
        ("rtsp://me:hush", "rtsp://me:***"),
        ("http://host:80a/x", "http://host:***"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://host/a:b", "http://host/a:b"),
        ("rtsp://me@host:554/1", "rtsp://me@host:554/1"),
    ],
)
def test_what_is_shown(uri: str, shown: str) -> None:
    """Enough to know which camera it is."""
    assert redact(uri) == shown
