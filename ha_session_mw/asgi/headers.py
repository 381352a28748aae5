"""Header fields of a response, changed without disturbing the rest."""

from __future__ import annotations

from collections.abc import Iterable

from .._core.token.cookies import Header

EVENT_STREAM = b"text/event-stream"
TOKEN_HEADER = b"session-token"
"""Hands a bearer client its next token."""


def last_value(headers: Iterable[Header], name: bytes) -> str:
    """Return the value of a field: the last one if it was sent several times, an empty text if it was not sent."""
    return next((value.decode("latin-1") for field, value in reversed([*headers]) if field == name), "")


def is_event_stream(headers: Iterable[Header]) -> bool:
    """Whether the response is a stream of server-sent events, which may say nothing for long after it has started."""
    for header in headers:
        if header[0] == b"content-type":
            return header[1].startswith(EVENT_STREAM)
    return False


def hands_out_token(headers: Iterable[Header], cookie: bytes) -> bool:
    """Whether the response says already what the client's token is from now on, or that there is none.

    Args:
        headers: of the response.
        cookie: the cookie's name and an equals sign.
    """
    return any(name == TOKEN_HEADER or (name == b"set-cookie" and value.startswith(cookie)) for name, value in headers)


def with_vary(headers: Iterable[Header], vary: Header) -> list[Header]:
    """The fields and what the response depends on (RFC 9110 section 12.5.5), beside what the app named."""
    for header in headers:
        if header[0] == b"vary":  # in lower case, as ASGI has it; a second field would do no harm either
            return [(name, _joined(value, vary[1])) if name == b"vary" else (name, value) for name, value in headers]
    return [*headers, vary]


def _joined(value: bytes, names: bytes) -> bytes:
    have = {item.strip().lower() for item in value.split(b",")}
    missing = [item for item in names.split(b", ") if item.lower() not in have]
    return value if b"*" in have else b", ".join([value, *missing])


def make_private(headers: list[Header]) -> None:
    """Keep shared caches from storing the response (RFC 9111 section 5.2.2.7), and leave the app's other directives."""
    given = b",".join(value for name, value in headers if name.lower() == b"cache-control")
    directives = [item.strip() for item in given.split(b",") if item.strip().lower() not in (b"public", b"")]
    if not {b"private", b"no-store"} & {item.lower() for item in directives}:
        directives.append(b"private")
    headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b", ".join(directives)))
