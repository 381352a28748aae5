"""Validate the names of subjects, sessions, families and locks. Performs no I/O and reads no clock."""

from __future__ import annotations

import re

LONGEST = 512
"""The longest name, in characters. A subject travels in each token, and 512 is ample for a distinguished name."""

_ID = re.compile(r"[\w-]{22}", re.ASCII)
"""128 random bits in base64 for URLs."""


def require_name(text: object, what: str) -> None:
    """Raise unless a name fits into a token, an entry of the log and a key of every store.

    Raises:
        TypeError: the name is not a str; for example None, the id of a visitor without a session.
        ValueError: the name is empty, longer than 512 characters, or has a lone surrogate, which UTF-8 cannot encode and JSON can contain.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, got {type(text).__name__}")
    if not 0 < len(text) <= LONGEST:
        raise ValueError(f"{what} must have 1 to {LONGEST} characters, got {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text, got a lone surrogate") from None


def is_id(text: str) -> bool:
    """Return whether a text has the form of the id or the family of a session."""
    return _ID.fullmatch(text) is not None


def require_id(text: str, what: str) -> None:
    """Raise unless a session can have this id or family. A log-out by any other would be acknowledged, and log nobody out.

    Raises:
        TypeError: the id is not a str; for example None, the id of a visitor without a session.
        ValueError: no session has such an id. The error does not name it: it may be a token, which is a secret.
    """
    require_name(text, what)
    if not is_id(text):
        raise ValueError(f"{what} must be the id or the family of a session: 22 letters, digits, hyphens and underscores")
