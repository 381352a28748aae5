"""What comes after a token: when it is due for renewal, and its successor.

The successor is a function of the parent and the moment, in steps, so that two tabs that renew at once, on whichever
nodes, are given the same token and neither logs the other out.
"""

from __future__ import annotations

import math

import msgspec

from ...models import Claims, CutId, FamilyId, NodeId, SessionId

STEPS = 16
"""Into how many moments an idle life is divided. A renewed token is dated back to its step, so it lives at least 15/16 of it."""


def due_ms(claims: Claims) -> float:
    """From when on a token is worth renewing: half of its idle life; never where that is all it may have."""
    if claims.idle_end_ms >= claims.absolute_end_ms:
        return math.inf
    return (claims.issued_ms + claims.idle_end_ms) / 2


def successor(parent: Claims, now_ms: float, idle_ms: int) -> Claims:
    """The renewed token's claims: all of the parent's but the times.

    The same for every caller that has the same parent in the same step of the parent's idle life.
    """
    # Not of a longer life than tokens have now: dated back by such a step, the successor would be over at once.
    step = max(1, min(parent.idle_end_ms - parent.issued_ms, idle_ms) // STEPS)
    issued = parent.issued_ms + int((now_ms - parent.issued_ms) // step) * step
    return msgspec.structs.replace(parent, issued_ms=issued, idle_end_ms=min(issued + idle_ms, parent.absolute_end_ms))


def begin(
    sid: SessionId,
    family: FamilyId,
    subject: str | None,
    *,
    cuts: tuple[CutId, ...],
    now_ms: int,
    idle_ms: int,
    absolute_ms: int,
    issuer: NodeId,
) -> Claims:
    """The claims of a new session. Negative and zero lives are legal: such a session is over at once."""
    end = now_ms + absolute_ms
    return Claims(
        sid=sid,
        subject=subject,
        family=family,
        cuts=cuts,
        issued_ms=now_ms,
        authenticated_ms=now_ms,
        idle_end_ms=min(now_ms + idle_ms, end),
        absolute_end_ms=end,
        issuer=issuer,
    )


def change(claims: Claims, data: bytes, record: int = 0, *, now_ms: int, idle_ms: int, issuer: NodeId) -> Claims:
    """The claims of the same session with other data, used just now."""
    idle_end = min(now_ms + idle_ms, claims.absolute_end_ms)
    return msgspec.structs.replace(claims, data=data, record=record, issued_ms=now_ms, idle_end_ms=idle_end, issuer=issuer)
