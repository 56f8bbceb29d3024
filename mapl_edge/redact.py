"""Redaction: addresses without their secrets, for messages, logs and reprs."""

from __future__ import annotations

import re
import urllib.parse

HIDDEN = "***"
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_SECRET_VALUE = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:pass|pwd|secret|token|key|auth|credential)[\w-]*|pw|loginpas|sig|signature)=)[^&;#\s]*"
)


def redact(uri: str) -> str:
    """The address without its password and without secret query values (`?password=…`, `&token=…`).

    It rather hides too much than too little: all from the first colon after `//` to the last `@` is the password, since
    people forget to percent-encode theirs.
    """
    start = uri.find("://") + 3 if "://" in uri else 0
    at, colon = uri.rfind("@"), uri.find(":", start)
    if start <= colon < at:
        uri = uri[: colon + 1] + HIDDEN + uri[at:]
    return _SECRET_VALUE.sub(rf"\g<1>{HIDDEN}", uri)


def redact_text(text: str, uri: str) -> str:
    """What a library said while it worked on `uri`, without the secrets in `uri` or in any address it mentions."""
    for secret in sorted(secrets_of(uri), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _URL_IN_TEXT.sub(lambda found: redact(found.group()), text)


def secrets_of(uri: str) -> set[str]:
    """Passwords and secret query values of an address, as they stand and percent-decoded."""
    start = uri.find("://") + 3 if "://" in uri else 0
    at, colon = uri.rfind("@"), uri.find(":", start)
    found = {uri[colon + 1 : at]} if start <= colon < at else set()
    found |= {match.group()[len(match.group(1)) :] for match in _SECRET_VALUE.finditer(uri)}
    return {form for secret in found for form in (secret, urllib.parse.unquote(secret)) if form}
