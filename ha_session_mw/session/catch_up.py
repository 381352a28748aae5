"""Merge a session with the changes that other requests have stored since this one began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.records.session_data import Stored, merge
from .._core.token.data import fingerprint
from ..exceptions import SessionConflict, SessionRevoked, SessionSuperseded
from .state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node


async def catch_up(content: dict[str, Any], state: RequestState, node: Node) -> bool:
    """Merge the changes of other requests into the content; return whether the client must learn that a record exists now.

    Args:
        content: of the session, with this request's changes. It is replaced without being marked as modified, because the app
            did not change it.
        state: of the session. ``stored`` is the newest record afterwards.
        node: this node.

    Raises:
        SessionConflict: the session is strict, and both this request and another one have changed it.
        SessionRevoked, SessionSuperseded, StoreUnavailable: as :meth:`SessionData.newest`. A session that begins ignores a revocation,
            because it does not continue the session that came in.
    """
    came_in = state.came_in
    if came_in is None or state.out_of_reach is not None or (not state.continues and state.stored is None):
        return False
    base = state.stored or Stored.in_token(came_in.data)
    try:
        newest = await node.data.newest(came_in)
    except (SessionRevoked, SessionSuperseded):
        if state.continues:
            raise
        return False
    if newest is None or newest.version == base.version:
        return False
    if state.strict and base.version and fingerprint(content) != base.data:
        raise SessionConflict("another request has changed the session since this one began to change it")
    merged = merge(base, content, newest)
    state.stored = newest
    dict.clear(content)
    dict.update(content, merged)
    if state.read_only is None:
        return not came_in.record
    state.content_when_closed = fingerprint(content)
    return False
