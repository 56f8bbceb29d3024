"""No password leaves in any message, log or repr, however badly it was typed."""

import logging
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapl_edge.errors import MaplEdgeError
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
    ],
    ids=["one slash", "no scheme", "no password", "path", "rather too much"],
)
def test_what_is_shown(uri: str, shown: str) -> None:
    """Enough to know which camera it is."""
    assert redact(uri) == shown
