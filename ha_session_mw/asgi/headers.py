"""Header fields of a response, changed without disturbing the rest."""

from __future__ import annotations

from .._core.cookies import Header


def add_vary(headers: list[Header], names: bytes) -> None:
    """Name what the response depends on (RFC 9110 section 12.5.5), beside what the app named."""
    for index, header in enumerate(headers):
        if header[0] == b"vary":  # in lower case, as ASGI has it; a second field would do no harm either
            name, value = header
            have = {item.strip().lower() for item in value.split(b",")}
            missing = [item for item in names.split(b", ") if item.lower() not in have]
            if missing and b"*" not in have:
                headers[index] = (name, b", ".join([value, *missing]))
            return
    headers.append((b"vary", names))


def make_private(headers: list[Header]) -> None:
    """Keep shared caches from storing the response (RFC 9111 section 5.2.2.7), and leave the app's other directives."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"cache-control":
            directives = [item.strip() for item in value.split(b",") if item.strip().lower() != b"public"]
            if not {b"private", b"no-store"} & {item.lower() for item in directives}:
                directives.append(b"private")
            headers[index] = (name, b", ".join(directives))
            return
    headers.append((b"cache-control", b"private"))
