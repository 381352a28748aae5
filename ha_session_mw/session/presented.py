"""The sessions of a request that carried several tokens. A sibling host may have planted one, so a log-in or log-out ends them all."""

from __future__ import annotations

import math

from .._node.node import Node
from .._node.uncancelled import Uncancelled
from ..exceptions import QuorumLost, SessionRevoked, SessionSuperseded
from ..models import Acknowledgement, Claims
from .state import RequestState
from .tracked_dict import TrackedDict


def others(state: RequestState, node: Node) -> list[Claims]:
    """Return the claims of the sessions that came beside the accepted one and may be valid, each session once."""
    known = {state.verified.claims.family} if state.verified is not None else set()
    found = []
    for token in dict.fromkeys(token for _, token in state.presented):
        verified = node.validator.verify(token)
        if verified is not None and verified.claims.family not in known and node.validator.may_be_valid(verified):
            known.add(verified.claims.family)
            found.append(verified.claims)
    return found


def ensure_newest(state: RequestState, node: Node) -> None:
    """Raise if the client has got a newer session than that of this request, so that no cookie may take its place.

    A log-in gave it that session, or a log-out after which the app wrote. The log-out of a session under an older one of its ids
    passes: it ends the newer one, too.

    Raises:
        SessionSuperseded: it has, or the client has a newer token of the same session, which this request did not carry.
    """
    problem = state.problem if state.verified is None else node.validator.why_revoked(state.verified)
    if isinstance(problem, SessionSuperseded):
        raise problem.with_traceback(None)  # the same error may be raised several times
    if isinstance(problem, SessionRevoked) and problem.has_successor:
        raise SessionSuperseded("logged out, and the client got another session with the answer", check="denied")


def note_successor(state: RequestState, node: Node) -> None:
    """Note that the client gets a new token with this answer, if the sessions of those that came were logged out."""
    if state.acknowledgement is None:
        return
    verified = [node.validator.verify(token) for _, token in state.presented]
    for sid in {one.claims.sid for one in (state.verified, *verified) if one is not None}:
        node.revoker.note_successor(sid)


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
    came = [state.verified.claims] if state.verified is not None else []
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
