"""The sessions of all tokens that came with a request.

Of several tokens, a sibling host may have planted one, so a log-in or log-out ends all their sessions. A refused or logged-out token may be
in other requests under way. They must set no cookie over a newer one.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from .._core.cluster.view import SUPERSEDED_MS
from .._core.token.cookies import MAX_PRESENTED
from .._node.notes import HAS_SUCCESSOR, MOVED_ON
from .._node.uncancelled import Uncancelled
from ..exceptions import QuorumLost, SessionSuperseded
from ..models import Acknowledgement, Claims, SessionId
from .state import RequestState
from .tracked_dict import TrackedDict

if TYPE_CHECKING:
    from .._node.node import Node

UNDER_WAY_MS = 10_000
"""How long it is noted that a client has moved on. The requests that a page sent before arrive in that time."""


def others(state: RequestState, node: Node) -> list[Claims]:
    """Return the claims of the sessions that came beside the accepted one and may be valid, each session once."""
    if not state.presented:
        return []
    known = {state.verified.family} if state.verified is not None else set()
    found = []
    for token in dict.fromkeys(token for _, token in state.presented):
        verified = node.validator.verify(token)
        if verified is not None and verified.family not in known and node.validator.may_be_valid(verified):
            known.add(verified.family)
            found.append(verified.claims)
    return found


def ensure_newest(state: RequestState, node: Node) -> None:
    """Raise if the client has got a newer session than that of this request, so that no cookie may take its place.

    A log-in gave it that session, or an answer to a token that was refused or logged out. The log-out of a session under an older one
    of its ids passes: it ends the newer one, too.

    Raises:
        SessionSuperseded: it has, or the client has a newer token of the same session, which this request did not carry.
    """
    problem = state.problem if state.verified is None else node.validator.why_superseded(state.verified)
    if isinstance(problem, SessionSuperseded):
        raise problem.with_traceback(None)  # the same error may be raised several times
    # The problem may be older than an answer that another request has got meanwhile.
    if _is_noted(state, node, HAS_SUCCESSOR):
        raise SessionSuperseded("refused, and the client got another session a moment ago", check="superseded")


def has_moved_on(state: RequestState, node: Node) -> bool:
    """Whether the client got another cookie a moment ago, or lost it, with the answer to another request. This one leaves it alone then."""
    return _is_noted(state, node, MOVED_ON)


def note_successor(state: RequestState, node: Node, successor: Claims) -> None:
    """Note that the client gets a new token with this answer, if those that came were refused, or their sessions were logged out."""
    if state.acknowledgement is not None or (state.verified is None and successor.subject is not None):
        _remember(state, node, HAS_SUCCESSOR, for_ms=SUPERSEDED_MS)
    elif state.verified is None:
        _remember(state, node, MOVED_ON, for_ms=UNDER_WAY_MS)


def note_log_out(state: RequestState, node: Node) -> None:
    """Note that the client loses its token with this answer, if its session was logged out."""
    if state.acknowledgement is not None:
        _remember(state, node, MOVED_ON, for_ms=UNDER_WAY_MS)


def _remember(state: RequestState, node: Node, what: str, *, for_ms: int) -> None:
    node.notes.note(what, _sids(state, node), for_ms)


def _is_noted(state: RequestState, node: Node, what: str) -> bool:
    # A valid session speaks for itself: a dead token beside it may have been planted, or is a cookie of another path or domain.
    if state.verified is not None:
        return node.notes.has(what, state.verified.sid)
    return any(node.notes.has(what, sid) for sid in _sids(state, node))


def _sids(state: RequestState, node: Node) -> set[SessionId]:
    """Return the ids of the sessions whose token came with the request. Each costs a signature check, and a note in the log."""
    if state.verified is not None and not state.presented:
        return {state.verified.sid}
    tokens = islice(dict.fromkeys((*state.refused, *(token for _, token in state.presented))), MAX_PRESENTED)
    found = {verified.sid for token in tokens if (verified := node.validator.verify(token)) is not None}
    return found if state.verified is None else {state.verified.sid, *found}


async def log_out(state: RequestState, node: Node, uncancelled: Uncancelled, *, limit_s: float = math.inf) -> Acknowledgement | None:
    """Revoke every session whose token came with the request; return how far that has got, or None if there was no session.

    A cancellation leaves no log-out half done: it counts after the last.

    Args:
        state: of the request.
        node: this node.
        uncancelled: carries the log-outs out.
        limit_s: how many seconds that may take.

    Raises:
        QuorumLost: a log-out could not be made durable. This node enforces all of them.
        TimeoutError: it took longer than ``limit_s``.
    """
    return await uncancelled.run(lambda: _log_out(state, node), limit_s=limit_s)


async def _log_out(state: RequestState, node: Node) -> Acknowledgement | None:
    came = () if state.came_in is None else (state.came_in,)
    revoked, lost = [], None
    for claims in (*came, *others(state, node)):
        node.pace.end(claims.subject)
        try:
            revoked.append(await node.revoker.revoke_session(claims))
        except QuorumLost as problem:
            lost = problem
    if lost is not None:
        raise lost
    if not revoked:
        return None
    least = next((one for one in revoked if one.mode == "provisional"), revoked[0])
    return Acknowledgement(mode=least.mode, waited_s=sum(one.waited_s for one in revoked))


def begins_anew(session: TrackedDict, state: RequestState) -> bool:
    """Whether the client gets another session in place of a cleared one, so that this is no log-out: if it fails, nothing has changed.

    That is so for a log-in. Otherwise it is so for a visitor's session alone, in which nobody was logged in.
    """
    came_in = state.came_in
    if not state.ended or state.acknowledgement is not None or came_in is None:
        return False
    return state.claims is not None or (came_in.subject is None and bool(session) and not state.presented)


async def revoke_if_ended(
    state: RequestState, node: Node, uncancelled: Uncancelled, *, limit_s: float = math.inf
) -> Acknowledgement | None:
    """Revoke the session that came in if the app cleared it; see :func:`log_out`.

    Returns:
        The acknowledgement, also of a log-out that ``Session.revoke`` made earlier; None if the session goes on.
    """
    if state.ended and state.acknowledgement is None:
        state.acknowledgement = await log_out(state, node, uncancelled, limit_s=limit_s)
    return state.acknowledgement
