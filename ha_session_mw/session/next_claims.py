"""The claims of the client's next token, once the data that belongs to them is kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .._core.records.session_data import Stored
from .._core.token import data
from .._core.token.tokens import Verified
from .._node.issuing import NOTHING
from ..exceptions import RequestAmbiguous, SessionRevoked, SessionSuperseded
from ..models import Claims
from .catch_up import catch_up
from .late_save import base_of, note_kept
from .presented import ensure_newest
from .session import Session
from .state import RequestState

if TYPE_CHECKING:
    from .._node.node import Node


async def next_claims(session: Session, state: RequestState, node: Node, *, renew: bool) -> Claims | None:
    """Return the claims of the client's next token, with the data saved that belongs to them; None if it gets no new token.

    Args:
        session: of the request, with the data as the app left it.
        state: of the request.
        node: this node.
        renew: whether the client may get a renewed token if nothing was changed.

    Raises:
        ProblemError: the data cannot be kept, or no session may begin or go on now, as :func:`.commit` lists.
    """
    claims, verified = state.claims, state.verified
    if claims is None:
        claims = await _begin(session, state, node)
        if claims is None:
            return None
    elif verified is not None and (state.renews_now or (not session.modified and not _is_changed_inside(session, state, verified))):
        return node.renew(verified, at_once=state.renews_now) if renew else None

    if state.out_of_reach is not None:  # cycle() was called, which needs no data
        _ensure_valid(state, node, claims)
        return node.issuer.change(claims, claims.data, record=claims.record)
    if verified is not None and not state.continues:
        await catch_up(session, state, node)
    found = await _keep(session, state, node, claims)
    if found is None:
        return None
    changed, kept = found
    if kept.data == NOTHING and claims.subject is None and state.became is ... and state.transport == "cookie":
        # Nothing is left to keep for this visitor, whose cookie goes. The token stays good: a request under way with it may write, and
        # gets a token then. A bearer client keeps its token until it gets another one, so it gets one without the data.
        state.became = None
        return None
    mine = kept.data if kept.data == state.fitted else data.fingerprint(session) or kept.data
    note_kept(state, kept, mine)
    if data.is_nested(session):
        state.content_when_closed = mine
    return changed


async def _begin(session: Session, state: RequestState, node: Node) -> Claims | None:
    """Return the claims of a session that begins without a log-in; None if none is to begin."""
    # Of several valid sessions none was chosen: a new cookie would take the place of one of them.
    if not session or (isinstance(state.problem, RequestAmbiguous) and state.became is ...):
        return None
    if state.became is ...:
        ensure_newest(state, node)
    node.validator.ensure_fresh()
    claims = node.issuer.issue(None)
    await node.revoker.ensure_kept(claims)
    return claims


async def _keep(session: Session, state: RequestState, node: Node, claims: Claims) -> tuple[Claims, Stored] | None:
    """Keep the data; return the new claims, and the data as it is kept. None for a visitor who was logged out and has nothing to lose."""
    try:
        with node.locks.guard(state.hold) as guard:
            return await node.data.keep(
                claims,
                base_of(state),
                session,
                ensure_valid=partial(_ensure_valid, state, node, claims),
                strict=state.strict,
                guard=guard,
                known=state.fitted,
            )
    except (SessionRevoked, SessionSuperseded) as problem:
        if claims.subject is not None:
            raise
        if not session and state.became is ...:
            return None
        if problem.check != "denied":  # superseded, or logged out with everybody
            raise
        # Another request of this visitor has logged in, or has cleared the session. So the client has a newer cookie, or none.
        raise SessionSuperseded(problem.reason, check="superseded") from problem


def _ensure_valid(state: RequestState, node: Node, claims: Claims) -> None:
    """Raise unless the session that came in goes on and is valid: its token would replace a good one that the browser has meanwhile."""
    verified = state.verified
    if verified is not None and state.continues:
        node.validator.ensure_valid(verified, new_id=claims.sid != verified.sid)


def _is_changed_inside(session: Session, state: RequestState, verified: Verified) -> bool:
    """Return whether something inside a nested value was changed, which no method of the session sees."""
    return verified.nested and data.fingerprint(session) != began_with(state, verified)


def began_with(state: RequestState, verified: Verified) -> bytes:
    """Return the data that came in, or that other requests have stored since."""
    if state.stored is not None:
        return state.stored.data
    return NOTHING if verified.record else verified.nested_data or verified.claims.data
