"""Save the changes of a session that was handed out already, as far as they can be saved (``late.py``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .._core.records.session_data import Stored
from .._core.token.data import decode, fingerprint, is_nested
from .._node.issuing import NOTHING
from .._node.uncancelled import Uncancelled
from ..exceptions import ProblemError, SessionRevoked, SessionSuperseded
from .late import handler_of, is_saved_late, lose, report
from .presented import revoke_if_ended
from .stand_in import take_content
from .state import RequestState
from .tracked_dict import TrackedDict

if TYPE_CHECKING:
    from .._node.node import Node

logger = logging.getLogger("ha_session_mw")


def has_late_changes(session: TrackedDict, state: RequestState) -> bool:
    """Whether the session changed since it was handed out, or since it was last saved."""
    if state.is_late:
        return True
    return state.content_when_closed is not None and fingerprint(session) != state.content_when_closed


async def save_late(session: TrackedDict, state: RequestState, node: Node, scope: Mapping[str, Any]) -> None:
    """Save the data in its record, and carry out a log-out, if the app changed the session since it was handed out.

    Args:
        session: the session.
        state: of the session.
        node: this node.
        scope: of the request, whose handler a message names.

    Raises:
        SessionReadOnly: a nested value was changed that has no record, unless the middleware was called Starlette's way.
        ProblemError: the record cannot be written, unless the middleware was called Starlette's way.
    """
    if not has_late_changes(session, state):
        return
    state.is_late = False
    try:
        with Uncancelled() as uncancelled:
            await revoke_if_ended(state, node, uncancelled)
    except ProblemError as problem:  # no answer can tell the client
        logger.error("a log-out after the response started is not durable: %s", problem)
    if state.claims is None and (state.verified is not None or not session):
        return  # logged out, or nothing was written
    if not is_saved_late(state):
        state.content_when_closed = fingerprint(session)
        lose(state, handler_of(scope))
        return
    try:
        await _save(session, state, node)
    except (SessionRevoked, SessionSuperseded):
        return  # a log-out or a new id takes precedence over a write, and ends the connection, too
    except ProblemError as problem:
        state.is_late = True
        if not report(state, f"{handler_of(scope)} changed the session, and the change cannot be stored now: {problem.code}"):
            raise


async def _save(session: TrackedDict, state: RequestState, node: Node) -> None:
    verified = state.verified
    if verified is None:
        return
    take_content(session, state)
    raw = node.issuer.fit(verified.claims, session)
    base = base_of(state)
    if raw == base.data:
        return
    # The app may change the session while the store writes.
    mine = decode(raw)
    with node.locks.guard(state.hold) as guard:
        _, kept = await node.data.keep(
            verified.claims,
            base,
            mine,
            ensure_valid=lambda: node.validator.ensure_valid(verified, new_id=False),
            strict=state.strict,
            guard=guard,
        )
    note_kept(state, kept, raw)
    state.content_when_closed = raw if is_nested(mine) else None


def base_of(state: RequestState) -> Stored:
    """The data that changes are relative to. A session that begins has no earlier data, even if it takes over content."""
    came_in = state.came_in
    if came_in is None or not state.continues:
        return Stored.in_token(NOTHING)
    return state.stored or Stored.in_token(came_in.data)


def note_kept(state: RequestState, kept: Stored, mine: bytes) -> None:
    """Note that later changes are relative to this request's data.

    Args:
        state: of the session.
        kept: the data as it is kept, with the changes of other requests.
        mine: this request's data.
    """
    if not kept.version:
        state.stored = None
    elif kept.data == mine:
        state.stored = kept
    else:  # no record has version 0, so the next save merges this request's changes onto the record
        state.stored = msgspec.structs.replace(kept, version=0, data=mine)
