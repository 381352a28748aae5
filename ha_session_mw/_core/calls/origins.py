"""The origin of a URL (RFC 6454), in one spelling, so that origins can be compared as text."""

from __future__ import annotations

from urllib.parse import urlsplit


def origin_of(url: str, *, only: bool = True) -> str | None:
    """Return scheme, host and port of a URL; None if it has none of these, or more and must not."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname or parts.username is not None or (only and (parts.path not in ("", "/") or parts.query or parts.fragment)):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"
