"""The one commit of a request, when its response starts: what changed, what to set, what to revoke.

It comes in two parts, so that a request that changed nothing pays for neither: :func:`is_due` asks, :func:`commit` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .._core import data
from ..manager import SessionManager
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

    (Litestar's ``set_session`` and ``clear_session`` do that.)
    """
    if isinstance(foreign, Mapping):
        if dict(foreign) != session:
            session.replace(foreign)
    elif session:
        session.clear()


def changed_inside(session: Session) -> bool:
    """Whether something inside a nested value was changed, which no method of the session sees."""
    verified = session._verified
    return verified is not None and verified.nested and not session.modified and data.fingerprint(session) != verified.claims.data


def is_due(session: Session, wall_ms: float) -> bool:
    """Whether there is anything to commit: a change, or a token to renew."""
    if session.modified:
        return True
    verified = session._verified
    return verified is not None and (wall_ms >= verified.renew_at_ms or changed_inside(session))


async def commit(session: Session, manager: SessionManager, status: int) -> Outcome:
    """Do what the request asked for. On a 5xx nothing is saved, but a log-out holds.

    Raises:
        SessionTooLarge, SessionNotSerializable: by a change inside a nested value.
        SessionRevoked, StateStale: the session was to take a new id, and does not stand any more, or that cannot be told.
        QuorumLost: a log-out could not be made durable.
    """
    acknowledgement = await revoke_if_ended(session, manager)
    if status >= 500:
        return Outcome(acknowledgement=acknowledgement)
    came_in = session._verified.claims if session._verified else None
    claims = _next_claims(session, manager)
    if claims is None:
        return Outcome(remove=came_in is not None and session._claims is None, acknowledgement=acknowledgement)
    if came_in is not None and claims.sid != came_in.sid and acknowledgement is None:
        await manager.leave_behind(came_in)
    max_age_s = math.ceil((claims.absolute_end_ms - claims.issued_ms) / 1000)
    return Outcome(token=manager.sign(claims), max_age_s=max_age_s, acknowledgement=acknowledgement)


async def revoke_if_ended(session: Session, manager: SessionManager) -> Acknowledgement | None:
    """Revoke the session that came in if it was cleared, or emptied key by key while nobody was logged in."""
    verified = session._verified
    if verified is None:
        return None
    if session.modified and not session and session._claims is verified.claims and session.subject is None:
        session.clear()
    if session._ended and session._acknowledgement is None:
        session._acknowledgement = await manager.revoke(verified.claims)
    return session._acknowledgement


def _next_claims(session: Session, manager: SessionManager) -> Claims | None:
    """The claims of the token that the client is given; None if it is given none."""
    claims, verified = session._claims, session._verified
    if claims is None:
        if not session:
            return None
        claims = manager.begin(None)
    elif verified is not None and not session.modified and not changed_inside(session):
        return manager.renew(verified)
    elif verified is not None and claims.sid != verified.claims.sid and claims.family == verified.claims.family:
        manager.require_standing(verified)
    return manager.change(claims, manager.fit(claims, session))
