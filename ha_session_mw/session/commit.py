"""The one commit of a request, when its response starts: what changed, what to set, what to revoke.

A request that changed nothing pays for none of it: :func:`has_nothing_to_commit` asks, :func:`commit` does.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import Scope

from .._core.records.session_data import Stored
from .._core.token import data
from .._core.token.cookies import Header
from .._core.token.tokens import Verified
from .._node.issuing import NOTHING
from .._node.node import Node
from ..exceptions import SessionLimitReached, SessionReadOnly
from ..models import Acknowledgement, Claims
from .session import Session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the response must carry.

    Attributes:
        token: the client's new token.
        max_age_s: how long that may live.
        remove: whether the client's cookie is to be removed.
        acknowledgement: of the log-out that this request asked for.
    """

    token: bytes | None = None
    max_age_s: int = 0
    remove: bool = False
    acknowledgement: Acknowledgement | None = None


def adopt(session: Session, foreign: object) -> None:
    """Take over what an app or a framework put in the session's place: a dict is the new content, anything else clears.

    (Litestar's ``set_session`` and ``clear_session`` do that.) The session of a middleware further in, around a mounted
    app, is its own affair.
    """
    if isinstance(foreign, Session) and foreign._manager is not None:
        return
    if isinstance(foreign, Mapping):
        if dict(foreign) != session:
            session.replace(foreign)
    elif session.id is not None or session:  # in this order: data that is out of reach need not be read for that
        session.clear()


def has_nothing_to_commit(session: Session, wall_ms: float) -> bool:
    """Whether a session that none of its methods changed can be left as it is: its token is not due, and no nested value changed."""
    verified = session._verified
    if verified is None:
        return True
    if wall_ms >= verified.renew_at_ms or changed_inside(session):
        return False
    if verified.nested:
        session._kept = _began_with(session, verified)
    return True


def close(session: Session, why: str) -> None:
    """From here on changes cannot reach the client. Those inside nested values, unseen by any method, are compared at the end."""
    session._read_only = why
    if session._out_of_reach is None and data.is_nested(session):
        session._kept = data.fingerprint(session)


def changed_inside(session: Session) -> bool:
    """Whether something inside a nested value was changed, which no method of the session sees."""
    verified = session._verified
    return verified is not None and verified.nested and data.fingerprint(session) != _began_with(session, verified)


def _began_with(session: Session, verified: Verified) -> bytes:
    """The data that came in, or that others have stored since."""
    if session._stored is not None:
        return session._stored.data
    return NOTHING if verified.record else verified.claims.data


def require_unchanged(session: Session, current: object) -> None:
    """Complain about a change that came after the session was closed, and that none of its methods saw.

    That is one inside a nested value, or something else (``current``) in the session's place.
    """
    if current is not session:
        adopt(session, current)
    if session._kept is not None and data.fingerprint(session) != session._kept:
        raise SessionReadOnly(f"a value inside the session was changed too late: {session._read_only}")


async def commit(session: Session, node: Node, status: int, scope: Scope, *, renew: bool) -> Outcome:
    """Do what the request asked for. On a 5xx nothing is saved, but a log-out holds.

    Args:
        session: of the request.
        node: this node.
        status: of the response.
        scope: of the request, which says who logs in from where.
        renew: whether the client may be given a renewed token where nothing was changed.

    Raises:
        SessionTooLarge, SessionNotSerializable: by a change inside a nested value, or by what others have put into it.
        SessionRevoked: the session was to be changed, and does not stand any more.
        SessionConflict: others have changed it meanwhile, and that is to be told.
        StoreUnavailable: its data could not be stored.
        StateStale, ClockUntrusted, NodeStarting: it is to begin or take a new id, and this node cannot tell what stands.
        QuorumLost: a log-out could not be made durable.
        LockLost: it was changed under its lock, which this request has no more.
        SessionLimitReached: the log-in would be one too many.
    """
    acknowledgement = await revoke_if_ended(session, node)
    if status >= 500:
        return Outcome(acknowledgement=acknowledgement)
    came_in = session._verified.claims if session._verified else None
    async with _recorded(session, node, scope):
        claims = await _next_claims(session, node, renew=renew)
        if claims is not None and came_in is not None and claims.sid != came_in.sid and acknowledgement is None:
            await _leave_behind(came_in, claims, node)
    if claims is None:
        return Outcome(remove=came_in is not None and session._claims is None, acknowledgement=acknowledgement)
    max_age_s = math.ceil((claims.absolute_end_ms - claims.issued_ms) / 1000)
    return Outcome(token=node.sign(claims), max_age_s=max_age_s, acknowledgement=acknowledgement)


def last_value(headers: Iterable[Header], name: bytes) -> str:
    """The value of a field, the last one where it was sent twice; empty where it was not."""
    return next((value.decode("latin-1") for field, value in reversed([*headers]) if field == name), "")


async def _leave_behind(came_in: Claims, claims: Claims, node: Node) -> None:
    """Deny the id that the session had, or all of it, where another one begins in its place."""
    begins_anew = claims.family != came_in.family
    if not begins_anew:
        await node.record_new_id(claims)
    await node.revoker.leave_behind(came_in, whole=begins_anew)
    if came_in.record and begins_anew:
        await node.data.forget(came_in.family)


async def revoke_if_ended(session: Session, node: Node) -> Acknowledgement | None:
    """Revoke the session that came in if it was cleared, or emptied key by key while nobody was logged in."""
    verified = session._verified
    if verified is None:
        return None
    if session.modified and session._claims is verified.claims and session.subject is None and _is_empty(session):
        session.clear()
    if session._ended and session._acknowledgement is None:
        session._acknowledgement = await node.revoker.revoke_session(verified.claims)
    return session._acknowledgement


@asynccontextmanager
async def _recorded(session: Session, node: Node, scope: Scope) -> AsyncIterator[None]:
    """A log-in is recorded first, for it may be one too many; and taken back, if nothing comes of it, because the client has gone, say."""
    claims = session._claims
    came_in = session._verified.claims if session._verified else None
    if claims is None or claims.subject is None or (came_in is not None and claims.family == came_in.family):
        yield
        return
    client = scope.get("client")
    user_agent, address = last_value(scope["headers"], b"user-agent"), client[0] if client else None
    try:
        await node.record_log_in(claims, replaces=came_in, user_agent=user_agent, address=address)
        yield
    except SessionLimitReached:
        raise  # there is nothing to take back
    except BaseException:
        node.revoker.take_back(claims)
        raise


def _is_empty(session: Session) -> bool:
    return session._out_of_reach is None and not session


async def _next_claims(session: Session, node: Node, *, renew: bool) -> Claims | None:
    """The claims of the token that the client is given; None if it is given none."""
    claims, verified = session._claims, session._verified
    if claims is None:
        if not session:
            return None
        node.validator.ensure_fresh()
        claims = node.issuer.issue(None)
    elif verified is not None and not session.modified and not changed_inside(session):
        return node.renew(verified) if renew else None

    def ensure_valid() -> None:
        # Its token would be dead on arrival, and take the place of a good one that the browser was given meanwhile.
        if verified is not None and claims.family == verified.claims.family:
            node.validator.ensure_valid(verified, new_id=claims.sid != verified.claims.sid)

    if session._out_of_reach is not None:  # it was cycled
        ensure_valid()
        return node.issuer.change(claims, claims.data, record=claims.record)
    if verified is not None and claims.family != verified.claims.family:
        await session._catch_up()
    with node.locks.guard(session._hold) as guard:
        return await node.data.keep(
            claims, _base_of(session, claims), session, ensure_valid=ensure_valid, strict=session._strict, guard=guard
        )


def _base_of(session: Session, claims: Claims) -> Stored:
    """What a session's changes are changes of. One that begins has been nothing before, whatever it takes over."""
    verified = session._verified
    if verified is None or claims.family != verified.claims.family:
        return Stored.in_token(NOTHING)
    return session._stored or Stored.in_token(verified.claims.data)
