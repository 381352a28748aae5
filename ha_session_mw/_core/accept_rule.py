"""The accept rule: decide whether a verified token is accepted. No other place accepts one.

Every entry point (HTTP, WebSocket, a peer's look-up) calls :func:`decide`. The caller reads ``view.fresh_at`` and the clocks
*before* the call. A freshness that is read later would vouch for a look-up that is older than it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..exceptions import (
    ClientFault,
    InfrastructureFault,
    ProblemError,
    SessionExpired,
    SessionIdleTimeout,
    SessionRevoked,
    SessionSuperseded,
    StateNotReached,
    StateStale,
    TokenInvalid,
    TokenNotYetValid,
)
from ..models import Claims
from .cluster.view import SUPERSEDED_MS, View, began_after, cut_end_ms
from .token.tokens import NOT_BEFORE_LEEWAY_MS, Verified

CHECKS = (
    *("presented", "size", "shape", "key", "signature", "payload"),
    *("absolute_end", "idle_end", "not_before", "floor", "key_denied", "denied", "cuts_known", "cut", "superseded", "fresh"),
)
"""The steps of the rule in their order. ``HA_SESSION_ERROR_DETAIL=full`` shows them."""

BEFORE_A_SIGNATURE_COUNTS = frozenset((*CHECKS[: CHECKS.index("absolute_end")], "key_denied"))
"""The steps at which a refused token proves nothing about its client. One that fails later was issued by a member."""


class Accept(msgspec.Struct, frozen=True):
    """The session is valid."""


class Refuse(msgspec.Struct, frozen=True):
    """The session is certainly not valid: nothing that this node may still learn can change that."""

    problem: ClientFault


class CannotTell(msgspec.Struct, frozen=True):
    """The node cannot tell. The caller waits for entries in flight, then asks the peers, then answers with the problem. Never a guess."""

    problem: InfrastructureFault


Decision = Accept | Refuse | CannotTell
ACCEPT: Final = Accept()


def decide(verified: Verified, view: View, fresh_at: float, boot_s: float, wall_ms: float, freshness_limit_s: float) -> Decision:
    """Return whether the session of a verified token is valid.

    Args:
        verified: the verified token, from the cache or new.
        view: this node's view.
        fresh_at: ``view.fresh_at``, read before this call.
        boot_s: the boot-time clock, in seconds.
        wall_ms: the wall clock, in milliseconds.
        freshness_limit_s: the age in seconds up to which the view may accept tokens.
    """
    # A token is in the cache for a part of its time only, and ends no later than its session. Where that part is over, the claims count.
    if not verified.from_s <= wall_ms / 1000.0 < verified.until_s and (problem := _out_of_time(verified.claims, view, wall_ms)):
        return Refuse(problem)
    if verified.until_s <= view.floor_s and verified.claims.absolute_end_ms <= view.floor_ms:
        return Refuse(SessionExpired("the session ends below the floor", check="floor"))
    if view.denied_keys and verified.kid in view.denied_keys:
        return Refuse(TokenInvalid("the key of the token is revoked", check="key_denied"))
    denied = view.denied
    if denied.packed or denied.others:
        sid, family = verified.ids()
        if denied.has_any(sid, family):
            return Refuse(_why_denied(verified, view, wall_ms))
    # An unknown cut comes before the known ones: it may replace one of them, which the token then rightly does not list.
    if verified.cuts and (behind := _unknown_cut(verified, view)):
        return behind
    if (view.everybody or view.by_subject) and (problem := _missing_cut(verified, view)):
        return Refuse(problem)
    if boot_s - fresh_at > freshness_limit_s:
        return CannotTell(StateStale("out of contact for longer than the freshness limit", check="fresh"))
    return ACCEPT


def denial(verified: Verified, view: View) -> Refuse | None:
    """Return the refusal that no clock can change; None if the view has nothing against the session."""
    begins_ms = verified.first_claims().issued_ms - NOT_BEFORE_LEEWAY_MS
    decision = decide(verified, view, fresh_at=0.0, boot_s=0.0, wall_ms=begins_ms, freshness_limit_s=0.0)
    if not isinstance(decision, Refuse):
        return None
    return Refuse(_why_denied(verified, view, None)) if decision.problem.check == "superseded" else decision


def _out_of_time(claims: Claims, view: View, wall_ms: float) -> ClientFault | None:
    # The ends have no leeway: a session expires at its end by the clock of each node.
    if wall_ms >= claims.absolute_end_ms:
        return SessionExpired("the absolute end has passed", check="absolute_end")
    if wall_ms >= claims.idle_end_ms:
        return SessionIdleTimeout("the idle end has passed", check="idle_end")
    begins_ms = claims.issued_ms - NOT_BEFORE_LEEWAY_MS
    if begins_ms <= max(wall_ms, view.latest_ms):
        return None
    wait_s = (begins_ms - wall_ms) / 1000
    return TokenNotYetValid(f"issued {wait_s:.3f} s too far ahead", retry_after_s=wait_s, check="not_before")


def _why_denied(verified: Verified, view: View, wall_ms: float | None) -> SessionRevoked | SessionSuperseded:
    """Return why a denied session is refused: a log-out outranks a replacement.

    Args:
        verified: the token of the session.
        view: this node's view, which denies the session's id or family.
        wall_ms: the wall clock; None if it is unknown how long ago the session was replaced.
    """
    replaced_ms = [view.superseded.get(id, 0) for id in verified.ids() if id in view.denied]
    if 0 in replaced_ms:
        return SessionRevoked("the session or its family is revoked", check="denied")
    if not _unknown_cut(verified, view) and (problem := _missing_cut(verified, view)):
        return problem
    ago_ms = 0.0 if wall_ms is None else abs(wall_ms - min(replaced_ms))
    if ago_ms > SUPERSEDED_MS:
        return SessionRevoked("the session was replaced long ago, and this client never got the newer token", check="superseded")
    superseded = SessionSuperseded("a log-in or a new id has replaced the session", check="superseded")
    superseded.ago_s = ago_ms / 1000
    return superseded


def _unknown_cut(verified: Verified, view: View) -> CannotTell | None:
    for cut in verified.cuts:
        # A node may have dropped a cut that ends at or below the floor. No live token can still depend on such a cut.
        if cut not in view.known_cuts and cut_end_ms(cut) > max(view.floor_ms, view.forgotten_cuts_end_ms):
            return CannotTell(StateNotReached("the token lists a cut this node has not heard of", check="cuts_known"))
    return None


def _missing_cut(verified: Verified, view: View) -> SessionRevoked | None:
    claims = verified.first_claims()
    own = view.by_subject.get(claims.subject) if claims.subject is not None else None
    for cuts in (view.everybody, own or {}):
        for id, cut in cuts.items():
            if id in verified.cuts or (cut.except_family is not None and cut.except_family in verified.ids()):
                continue
            # A cut that was made without a majority arrives late. Sessions that began meanwhile could not list it.
            if not began_after(claims.authenticated_ms, id):
                return SessionRevoked("revoked with all sessions of the subject", check="cut")
    return None


def walk(problem: ProblemError) -> list[dict[str, object]]:
    """Return the checks that a refused request went through, the failed one last."""
    if problem.check not in CHECKS:
        return []
    passed = CHECKS[: CHECKS.index(problem.check)]
    return [{"check": check, "passed": True} for check in passed] + [{"check": problem.check, "passed": False, "reason": problem.reason}]
