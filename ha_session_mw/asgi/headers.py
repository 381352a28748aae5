"""Reads and changes single header fields and leaves the others as they are."""

from __future__ import annotations

from collections.abc import Iterable

from .._core.request_fields import Header

EVENT_STREAM = b"text/event-stream"
PASSIVE_HEADER = b"session-passive"
"""Request field of a client that asks by itself, such as a poll. With ``1``, the request does not count as use of the session."""
TOKEN_HEADER = b"session-token"
"""Response field that gives a bearer client its next token."""


def is_of_events(content_type: bytes) -> bool:
    """Whether a media type is that of server-sent events. Media types ignore case (RFC 9110 section 8.3.1)."""
    return content_type[: len(EVENT_STREAM)].lower() == EVENT_STREAM


def is_event_stream(headers: Iterable[Header]) -> bool:
    """Whether the response is a stream of server-sent events, which may send nothing for a long time after it has started."""
    for header in headers:
        if header[0] == b"content-type":
            return is_of_events(header[1])
    return False


def hands_out_token(headers: Iterable[Header], cookie: bytes) -> bool:
    """Whether the response already sets or removes the client's token.

    Args:
        headers: of the response.
        cookie: the cookie's name and an equals sign.
    """
    return any(name == TOKEN_HEADER or (name == b"set-cookie" and value.startswith(cookie)) for name, value in headers)


def changes_token(fields: Iterable[Header]) -> bool:
    """Whether fields of this package hand out or remove a token, or a cookie beside it. No cache may store a response with them."""
    return any(name in (b"set-cookie", TOKEN_HEADER) for name, _ in fields)


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


def is_for_everybody(headers: Iterable[Header]) -> bool:
    """Whether the app lets shared caches keep the response and give it to other clients (RFC 9111 section 5.2.2, RFC 9213, RFC 8246)."""
    headers = _to_caches(headers)
    directives = _directives(headers)
    if not headers or _is_private(directives):
        return False
    return bool({_name(item) for item in directives} & _SHARED) or any(_is_for_shared_caches(name) for name, _ in headers)


def make_private(headers: list[Header]) -> None:
    """Keep shared caches from storing the response (RFC 9111 section 5.2.2.7); the app's other directives stay.

    If the app says nothing about caching, no cache stores it at all: after a log-out, Back would show it from the browser's.
    """
    given = _directives(headers)
    directives = [item for item in given if _name(item) not in (b"public", b"s-maxage")]
    if not _is_private(directives):
        directives.append(b"private")
    if not given and not any(name.lower() == b"expires" for name, _ in headers):
        directives.append(b"no-store")
    _set_directives(headers, directives)


def forbid_storing(headers: list[Header]) -> None:
    """Keep all caches from storing the response, because it hands out or removes a token."""
    lost = (b"public", b"private", b"s-maxage", b"max-age", b"immutable", b"no-store", b"stale-while-revalidate", b"stale-if-error")
    directives = [item for item in _directives(headers) if _name(item) not in lost]
    _set_directives(headers, [b"private", b"no-store", *directives])


_SHARED = frozenset((b"public", b"s-maxage", b"immutable"))
"""The directives by which an app means every client."""


def _to_caches(headers: Iterable[Header]) -> list[Header]:
    """Return the fields that may speak to caches. Their names end alike, and most responses have none."""
    return [header for header in headers if header[0][-7:].lower() in (b"control", b"expires")]


def _is_for_shared_caches(name: bytes) -> bool:
    """Whether a field speaks to shared caches alone and outranks ``Cache-Control`` there: of CDNs, of Varnish and Fastly, of nginx."""
    name = name.lower()
    return name.endswith(b"cdn-cache-control") or name in (b"surrogate-control", b"x-accel-expires")


def _directives(headers: Iterable[Header]) -> list[bytes]:
    given = b",".join(value for name, value in _to_caches(headers) if name.lower() == b"cache-control")
    return [item for part in given.split(b",") if (item := part.strip())]


def _is_private(directives: Iterable[bytes]) -> bool:
    """Whether no shared cache may store the response. ``private`` with an argument concerns single fields only."""
    return any(item.lower() in (b"private", b"no-store") for item in directives)


def _name(directive: bytes) -> bytes:
    return directive.partition(b"=")[0].strip().lower()


def _set_directives(headers: list[Header], directives: list[bytes]) -> None:
    if _to_caches(headers):
        headers[:] = [header for header in headers if header[0].lower() != b"cache-control" and not _is_for_shared_caches(header[0])]
    headers.append((b"cache-control", b", ".join(directives)))
