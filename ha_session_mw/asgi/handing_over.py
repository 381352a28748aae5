"""How a new token reaches the client: in a cookie, which scripts cannot read, or in a header field, which they can."""

from __future__ import annotations

from collections.abc import Collection

from .._core.request_fields import MAX_FIELDS, Header
from .._core.token.tokens import Transport
from ..session.state import RequestState, Transports

TRANSPORT_HEADER = b"session-transport"
"""Request field of a client that keeps its token itself, and has none yet. Its value is ``bearer``."""

_SIGNS_OF_A_BROWSER = frozenset((b"cookie", b"origin", b"sec-fetch-site", b"sec-fetch-mode"))
"""Fields that browsers send. Scripts can neither set nor remove them."""


def goes_by(state: RequestState, headers: Collection[Header], default: Transport, transports: Collection[str]) -> Transports:
    """Return how a new token goes to the client: as the app says, as the client's token came, as it asks, or by default.

    Args:
        state: of the request.
        headers: of the request.
        default: for clients that say nothing.
        transports: the transports that are on.
    """
    found = state.hands_over_by or state.transport
    if found is None and "bearer" in transports and _asks_for_bearer(headers):
        return "bearer"
    return found or default


def _asks_for_bearer(headers: Collection[Header]) -> bool:
    """Whether a client asks for a bearer token that is no browser: a script there must not get at the token of a log-in."""
    if len(headers) > MAX_FIELDS:
        return False  # the signs of a browser may come last
    asks = False
    for name, value in headers:
        if name in _SIGNS_OF_A_BROWSER:
            return False
        asks = asks or (name == TRANSPORT_HEADER and value == b"bearer")
    return asks
