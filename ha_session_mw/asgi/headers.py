"""Reads and changes single header fields and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Iterable

from .._core.request_fields import Header

EVENT_STREAM = b"text/event-stream"
PASSIVE_HEADER = b"session-passive"
"""Request field of a client that asks by itself, such as a poll. With ``1``, the request does not count as use of the session."""
TOKEN_HEADER = b"session-token"
"""Response field that gives a bearer client its next token."""


def is_event_stream(headers: Iterable[Header]) -> bool:
    """Whether the response is a stream of server-sent events, which may send nothing for a long time after it has started."""
    for header in headers:
        if header[0] == b"content-type":
            return header[1].startswith(EVENT_STREAM)
    return False


def hands_out_token(headers: Iterable[Header], cookie: bytes) -> bool:
    """Whether the response already sets or removes the client's token.

    Args:
        headers: of the response.
        cookie: the cookie's name and an equals sign.
    """
    return any(name == TOKEN_HEADER or (name == b"set-cookie" and value.startswith(cookie)) for name, value in headers)


def with_vary(headers: Iterable[Header], vary: Header) -> list[Header]:
    """Return the fields with ``Vary`` extended by the fields that select the response (RFC 9110 section 12.5.5)."""
    for header in headers:
        if header[0] == b"vary":  # ASGI names are in lower case; a second ``Vary`` field would do no harm either
            return [(name, _joined(value, vary[1])) if name == b"vary" else (name, value) for name, value in headers]
    return [*headers, vary]


def _joined(value: bytes, names: bytes) -> bytes:
    have = {item.strip().lower() for item in value.split(b",")}
    missing = [item for item in names.split(b", ") if item.lower() not in have]
    return value if b"*" in have else b", ".join([value, *missing])


def make_private(headers: list[Header]) -> None:
    """Keep shared caches from storing the response (RFC 9111 section 5.2.2.7); the app's other directives stay."""
    given = b",".join(value for name, value in headers if name.lower() == b"cache-control")
    directives = [item.strip() for item in given.split(b",") if item.strip().lower() not in (b"public", b"")]
    if not {b"private", b"no-store"} & {item.lower() for item in directives}:
        directives.append(b"private")
    headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b", ".join(directives)))
