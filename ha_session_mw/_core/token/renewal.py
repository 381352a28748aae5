"""Begin, change and renew the claims of a session.

A renewed token is a function of its parent and of the time, in steps. Two tabs that renew at once, on any nodes, therefore get
the same token, and neither logs the other out.
"""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from ...models import Claims, CutId, FamilyId, NodeId, OwnLives, SessionId

STEPS = 16
"""The number of steps in an idle timeout. A renewed token is dated back to its step, so it lives for at least 15/16 of that time."""


class Terms(Protocol):
    """The times of a token; see :class:`Claims`."""

    @property
    def issued_ms(self) -> int: ...
    @property
    def idle_end_ms(self) -> int: ...
    @property
    def absolute_end_ms(self) -> int: ...


def due_ms(claims: Terms) -> float:
    """Return the time from which to renew a token: half of its idle timeout. Infinite if the absolute end comes first."""
    if claims.idle_end_ms >= claims.absolute_end_ms:
        return math.inf
    return (claims.issued_ms + claims.idle_end_ms) / 2


def successor(parent: Claims, now_ms: float, idle_ms: int) -> Claims:
    """Return the claims of the renewed token: the parent's claims with new times.

    Every caller with the same parent gets the same claims within a step.
    """
    # If the idle timeout was shortened, a step of the parent's longer one could date the successor back beyond its own end.
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
    own: OwnLives | msgspec.UnsetType = msgspec.UNSET,
) -> Claims:
    """Return the claims of a new session. Timeouts of zero and less are legal: such a session has expired at once."""
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
        own=own,
    )


def change(claims: Claims, data: bytes, record: int = 0, *, now_ms: int, idle_ms: int, issuer: NodeId) -> Claims:
    """Return the claims of the same session with other data, used at ``now_ms``."""
    idle_end = min(now_ms + idle_ms, claims.absolute_end_ms)
    return msgspec.structs.replace(claims, data=data, record=record, issued_ms=now_ms, idle_end_ms=idle_end, issuer=issuer)
