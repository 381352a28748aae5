"""Validate the names of subjects, sessions, families and locks. Performs no I/O and reads no clock."""

from __future__ import annotations

LONGEST = 512
"""The longest name, in characters. A subject travels in each token, and 512 is ample for a distinguished name."""


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
