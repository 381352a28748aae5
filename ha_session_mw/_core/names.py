"""What may name a subject, a session, a family or a lock. Performs no I/O and reads no clock."""

from __future__ import annotations

LONGEST = 512
"""In characters. A subject travels in each token, and a lock's name is part of a key; 512 is ample for a distinguished name."""


def require_name(text: object, what: str) -> None:
    """Raise unless this can be written into a token, an entry of the log, and a key of any store.

    Raises:
        TypeError: it is not a str. None, say, which is the id of a visitor who has no session.
        ValueError: it is empty, longer than 512 characters, or no text that UTF-8 could encode (JSON can bring such).
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, got {type(text).__name__}")
    if not 0 < len(text) <= LONGEST:
        raise ValueError(f"{what} must have 1 to {LONGEST} characters, got {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text, got half a surrogate pair") from None
