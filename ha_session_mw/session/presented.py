"""The sessions of a request that carried several tokens. A sibling host may have planted one, so a log-in or log-out ends them all."""

from __future__ import annotations

from .._node.node import Node
from ..exceptions import QuorumLost, SessionSuperseded
from ..models import Acknowledgement, Claims
from .state import RequestState


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
    """Raise if a log-in has given the client a newer session than that of this request, so that no cookie may take its place.

    The log-out of a session under an older one of its ids passes: it ends the newer one, too.

    Raises:
        SessionSuperseded: it has, or the client has a newer token of the same session, which this request did not carry.
    """
    problem = state.problem if state.verified is None else node.validator.why_revoked(state.verified)
    if isinstance(problem, SessionSuperseded):
        raise problem.with_traceback(None)  # the same error may be raised several times


async def log_out(state: RequestState, node: Node) -> Acknowledgement | None:
    """Revoke every session whose token came with the request; return how far that has got, or None if there was no session.

    Raises:
        QuorumLost: a log-out could not be made durable. This node enforces all of them.
    """
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


async def revoke_if_ended(state: RequestState, node: Node) -> Acknowledgement | None:
    """Revoke the session that came in if the app cleared it.

    Returns:
        The acknowledgement, also of a log-out that ``Session.revoke`` made earlier; None if the session goes on.
    """
    if state.ended and state.acknowledgement is None:
        state.acknowledgement = await log_out(state, node)
    return state.acknowledgement
