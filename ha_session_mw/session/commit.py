"""The one commit of a request, when its response starts: save changes, revoke ended sessions, and return the values for the response.

A request that changed nothing does not pay for it: :func:`has_nothing_to_commit` finds that out, and :func:`commit` is not called.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import msgspec

from .._core.token import data
from .._core.token.tokens import Verified
from .._node.uncancelled import Uncancelled
from ..exceptions import SessionLimitReached
from ..models import Acknowledgement, Claims, Deny
from .left_behind import LeftBehind, left_behind
from .next_claims import began_with, next_claims
from .presented import begins_anew, ensure_newest, has_moved_on, note_log_out, note_successor, revoke_if_ended
from .session import Session, state_of
from .stand_in import take_content
from .state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node

Client = tuple[str, str | None]
"""The user agent and the address of a client."""
_NOT_RECORDED = nullcontext[Sequence[Deny]](())
"""In place of :func:`_recorded` for a request that logs nobody in."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of a commit, which the response must carry.

    Attributes:
        token: the client's new token.
        max_age_s: for how many seconds the client may keep that token; None: until the browser closes.
        remove: whether the response removes the client's cookie.
        acknowledgement: of the log-out that this request asked for; of the id that it left behind, if that is only provisional.
        removes_variants: whether the response removes the client's other cookies of the same name.
    """

    token: bytes | None = None
    max_age_s: int | None = None
    remove: bool = False
    acknowledgement: Acknowledgement | None = None
    removes_variants: bool = False


def has_nothing_to_commit(session: Session, state: RequestState, verified: Verified, wall_s: float) -> bool:
    """Whether a session that came in needs no commit, if no method changed it.

    That is so if its token is not due for renewal and no nested value changed.
    """
    if wall_s >= verified.quiet_until_s and wall_s * 1000 >= verified.renew_at_ms:
        return False
    if verified.nested:
        content = began_with(state, verified)
        if data.fingerprint(session) != content:
            return False
        state.content_when_closed = content
    return True


def close(session: Session, why: str) -> None:
    """Make the session read-only. :func:`save_late` finds later changes inside nested values, which no method sees."""
    state = state_of(session)
    state.read_only = why
    if state.out_of_reach is None and state.content_when_closed is None and data.is_nested(session):
        state.content_when_closed = data.fingerprint(session)


async def commit(
    session: Session, node: Node, status: int, client: Callable[[], Client], uncancelled: Uncancelled, *, renew: bool, passive: bool
) -> Outcome:
    """Do the operations that the app asked for. On a 5xx nothing is saved, but a log-out holds.

    Args:
        session: of the request.
        node: this node.
        status: of the response.
        client: returns the facts to record about the client; called for a log-in only.
        uncancelled: carries out what cannot be taken back. The caller's block ends once the response has started.
        renew: whether the client may get a renewed token if nothing was changed.
        passive: whether the request does not count as use of the session, which then keeps its idle end.

    Raises:
        SessionTooLarge, SessionNotSerializable: a nested value was changed to that, or a merge with other changes led to it.
        SessionRevoked: the session was changed, and is not valid any more.
        SessionSuperseded: it was changed, or cleared, and the client has a newer session by now.
        SessionConflict: the session is strict, and another request has changed it meanwhile.
        StoreUnavailable: the data could not be stored.
        StateStale, ClockUntrusted, NodeStarting: a session begins or gets a new id, and this node does not know all revoked sessions.
        QuorumLost: a log-out could not be made durable; this node enforces it all the same. Or the client cannot leave its old token
            behind now; that token stays as good as it was, and nothing was saved. Or the new token would list a log-out that may be lost.
        LockLost: the session was changed under its lock, which this request does not hold any more.
        TooManyLogIns: the subject or the address begins sessions too fast.
        SessionLimitReached: the subject already has as many sessions as it may have.
    """
    state = state_of(session)
    if status >= 500:
        state.is_dropped = True
        return Outcome(acknowledgement=None if begins_anew(session, state) else await revoke_if_ended(state, node, uncancelled))
    take_content(session, state)
    if state.became is None:
        ensure_newest(state, node)
    moved_on = state.claims is None and has_moved_on(state, node)
    acknowledgement = None if begins_anew(session, state) else await revoke_if_ended(state, node, uncancelled)
    _keep_pace(session, state, node, client)
    came_in = state.came_in
    several = bool(state.presented) and state.became is not ... and not state.continues  # after login, clear and revoke
    if state.claims is None and (moved_on or not session):
        note_log_out(state, node)
        removes = (came_in is not None or several) and not moved_on
        return Outcome(remove=removes, acknowledgement=acknowledgement, removes_variants=several and removes)
    if isinstance(state.became, Claims):
        await node.revoker.ensure_kept(state.became)
    left = await left_behind(state, node, uncancelled, several=several)
    new = None if state.continues else state.claims
    async with _NOT_RECORDED if new is None or new.subject is None else _recorded(new, state, node, left, client) as ended:
        claims = await next_claims(session, state, node, renew=renew and not passive)
        if claims is None:
            return Outcome(remove=state.claims is None and came_in is not None, acknowledgement=acknowledgement, removes_variants=several)
        if passive and came_in is not None and state.continues:
            claims = msgspec.structs.replace(claims, idle_end_ms=min(claims.idle_end_ms, came_in.idle_end_ms))
        token = node.sign(claims)
        if node.devices is not None and came_in is not None and state.continues and claims.sid != came_in.sid:
            await node.devices.take_new_id(node.issuer.as_signed(claims))
        acknowledgement = await left.leave(ended) or acknowledgement
    # Nothing may wait or fail from here on: the old token is of no use any more.
    note_successor(state, node, claims)
    _report_log_in(claims, came_in, node)
    _hand_out(state, claims, node)
    max_age_s = math.ceil((claims.absolute_end_ms - claims.issued_ms) / 1000) if claims.persistent else None
    return Outcome(token=token, max_age_s=max_age_s, acknowledgement=acknowledgement, removes_variants=several)


def _keep_pace(session: Session, state: RequestState, node: Node, client: Callable[[], Client]) -> None:
    """Count a session that begins or takes a new id. Raises before anything is recorded or revoked for it."""
    claims, came_in = state.claims, state.came_in
    begins = bool(session) if claims is None else came_in is None or claims.sid != came_in.sid
    if begins:
        node.pace.begin(claims.subject if claims is not None else None, client()[1])


def _report_log_in(claims: Claims, came_in: Claims | None, node: Node) -> None:
    begins = came_in is None or claims.family != came_in.family
    if claims.subject is not None and (begins or (came_in is not None and claims.authenticated_ms != came_in.authenticated_ms)):
        node.security.logged_in(claims, again=not begins)


def _hand_out(state: RequestState, claims: Claims, node: Node) -> None:
    """Make the state that of a request that came with the new token: what the app does from now on concerns the new session."""
    state.verified, state.read_claims = node.issuer.as_signed(claims), claims
    state.became = ...
    state.ended = False
    state.acknowledgement = None


@asynccontextmanager
async def _recorded(
    claims: Claims, state: RequestState, node: Node, left: LeftBehind, client: Callable[[], Client]
) -> AsyncIterator[Sequence[Deny]]:
    """Record a log-in before its session exists, because a limit may refuse it. Take it back if the commit fails.

    Yields:
        The denials of the sessions that have to end for it.
    """
    user_agent, address = client()
    ended: Sequence[Deny] = ()
    try:
        if node.devices is not None:
            replaces = state.came_in.family if state.came_in else None
            ended = await node.devices.enter(
                node.issuer.as_signed(claims), replaces=replaces, user_agent=user_agent, address=address, before_ending=left.confirm
            )
        yield ended
    except SessionLimitReached:
        raise  # nothing was recorded
    except BaseException:
        node.revoker.take_back(claims)
        raise
