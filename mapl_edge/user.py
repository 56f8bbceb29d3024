"""Who is at the keyboard, for records."""

from __future__ import annotations

import getpass


def user_name() -> str:
    """The login name; unknown where there is none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
