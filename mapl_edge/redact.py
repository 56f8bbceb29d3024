"""Redaction: addresses without their secrets, for messages, logs and reprs."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
SHORTEST = 3  # characters of a secret that texts are searched for; the gaps of a shorter one would tell it
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_COLON, _AT = re.compile(r":|%3A", re.IGNORECASE), re.compile(r"@|%40")
_NO_PORT = re.compile(r"[^/?#:\[]*:(?=[^/?#])(?!\d{1,5}(?:[/?#]|\W?$))")
_ADDRESS_IN_TEXT = re.compile(rf"{_SCHEME.pattern}(?:.*(?:@|%40))?\S*", re.DOTALL)
_SECRET_KEY = re.compile(
    r"(?:[?&;/_]|%3F|%26)(?:[\w-]*(?:pas|pwd|psw|secret|token|key|auth|credential|session|user|usr|login)[\w-]*"
    r"|pw|p|u|sig|signature)(?:=|%3D)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(rf"({_SECRET_KEY.pattern})[^&;#]*", re.IGNORECASE)
_VALUE_ENDS = "[&;#]", "[&;#_]", "[&;#]|%26"  # in a query, in a path such as /user=…_password=…_channel=1, encoded


def redact(uri: str) -> str:
    """The address without its password and without secret values (`?password=…`, `&token=…`, `/user=…`).

    It rather hides too much than too little: all from the first colon after `//` to the last `@` is the password, since
    people forget to percent-encode theirs; without an `@`, what stands in the port's place and is no port.
    """
    if (password := _password(uri)) is not None:
        uri = uri[: password.start] + HIDDEN + uri[password.stop :]
    return _SECRET_VALUE.sub(rf"\g<1>{HIDDEN}", uri)


def redact_text(text: str, uri: str) -> str:
    """What a library said while it worked on `uri`, without the secrets in `uri` or in any address it mentions."""
    for secret in sorted(secrets_of(uri), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _ADDRESS_IN_TEXT.sub(lambda found: redact(found.group()), text)


def secrets_of(uri: str) -> set[str]:
    """Passwords and secret values of an address of three characters or more, as they stand, decoded and encoded."""
    password = _password(uri)
    found = {uri[password]} if password else set()
    values = [uri[key.end() :] for key in _SECRET_KEY.finditer(uri)]
    found |= {re.split(end, value, maxsplit=1)[0] for value in values for end in _VALUE_ENDS}
    for decode in (unquote, unquote, unquote_plus):
        found |= {decode(secret) for secret in found}
    found |= {encode(secret) for secret in found for encode in (quote, quote_plus)}
    return {secret for secret in found if len(secret) >= SHORTEST}


def _password(uri: str) -> slice | None:
    """Where the password stands, or what may be one."""
    scheme = _SCHEME.match(uri)
    start = scheme.end() if scheme else 0
    colon, ats = _COLON.search(uri, start), list(_AT.finditer(uri))
    if ats:
        at = ats[-1].start()
        return slice(colon.end(), at) if colon and colon.end() <= at else None
    no_port = _NO_PORT.match(uri, start) if scheme else None
    return slice(no_port.end(), len(uri)) if no_port else None
