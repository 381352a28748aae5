"""What is recorded of a log-in, and which log-ins may stay when there are too many. Performs no I/O and reads no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ...models import Claims, CutId, FamilyId, KeyId, NodeId, SessionId
from ..token.tokens import Verified
from .user_agents import UNKNOWN

VERSION = 1
MINUTE_MS = 60_000


class LogIn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is recorded of one log-in: a session with all its ids.

    Attributes:
        sid, cuts, kid: as its newest token says; by these it is judged.
        idle_end_ms: likewise, at the end of its minute, so that what happens within one is one change.
        authenticated_ms: when it was.
        absolute_end_ms: when it is over in any case.
        seen_ms: the minute in which it was last used.
        label: what to call the device.
        address: where it came from; None unless that is to be kept.
    """

    sid: SessionId
    cuts: tuple[CutId, ...] = ()
    kid: KeyId
    authenticated_ms: int
    idle_end_ms: int
    absolute_end_ms: int
    seen_ms: int
    label: str = UNKNOWN
    address: str | None = None

    def __repr__(self) -> str:  # neither the id nor the address
        return f"<LogIn of {self.authenticated_ms}, {self.label}>"

    def verified(self, family: str, subject: str | None) -> Verified:
        """As its newest token was verified to say, but for the data."""
        claims = Claims(
            sid=self.sid,
            subject=subject,
            family=FamilyId(family),
            cuts=self.cuts,
            issued_ms=self.authenticated_ms,
            authenticated_ms=self.authenticated_ms,
            idle_end_ms=self.idle_end_ms,
            absolute_end_ms=self.absolute_end_ms,
            issuer=NodeId(""),
        )
        return Verified.of(claims, self.kid)


def minute(now_ms: float) -> int:
    """The beginning of the minute."""
    return int(now_ms) // MINUTE_MS * MINUTE_MS


def log_in_of(verified: Verified, seen_ms: int, *, label: str = UNKNOWN, address: str | None = None) -> LogIn:
    """What is recorded of a session whose token says this, and which was used in that minute."""
    claims = verified.claims
    return LogIn(
        sid=claims.sid,
        cuts=claims.cuts,
        kid=verified.kid,
        authenticated_ms=claims.authenticated_ms,
        idle_end_ms=min(minute(claims.idle_end_ms) + MINUTE_MS, claims.absolute_end_ms),
        absolute_end_ms=claims.absolute_end_ms,
        seen_ms=seen_ms,
        label=label,
        address=address,
    )


def refreshed(recorded: LogIn, seen: LogIn) -> LogIn:
    """The record, after the session was seen. Nodes may come to that in whatever order: the token that lives longest is the newest."""
    newest = seen if seen.idle_end_ms >= recorded.idle_end_ms else recorded
    return msgspec.structs.replace(
        recorded,
        sid=newest.sid,
        cuts=newest.cuts,
        kid=newest.kid,
        idle_end_ms=newest.idle_end_ms,
        seen_ms=max(recorded.seen_ms, seen.seen_ms),
    )


_encode = msgspec.msgpack.Encoder().encode
_decode_log_in = msgspec.msgpack.Decoder(LogIn).decode
_decode_roll = msgspec.msgpack.Decoder(dict[FamilyId, LogIn]).decode


def _body(content: bytes) -> bytes:
    if content[:1] != bytes([VERSION]):
        raise ValueError("recorded by another release, in a form that this one cannot read")
    return content[1:]


def encode(log_in: LogIn) -> bytes:
    return bytes([VERSION]) + _encode(log_in)


def decode(content: bytes) -> LogIn:
    """Raises ValueError for what this release cannot read."""
    return _decode_log_in(_body(content))


# The cap


def roll_id(subject: str) -> str:
    """The id of the one record by which log-ins of a subject at the same time are told apart. No session has such an id."""
    return "roll~" + sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()


def encode_roll(standing: Mapping[FamilyId, LogIn]) -> bytes:
    return bytes([VERSION]) + _encode(standing)


def decode_roll(content: bytes) -> dict[FamilyId, LogIn]:
    """Raises ValueError for what this release cannot read."""
    return _decode_roll(_body(content))


class Places(NamedTuple):
    """Who may stay after a log-in."""

    stay: dict[FamilyId, LogIn]
    end: Sequence[FamilyId]


def places(standing: Mapping[FamilyId, LogIn], family: FamilyId, log_in: LogIn, most: int) -> Places:
    """Who may stay if this log-in has a place and the oldest ones make room for it.

    Args:
        standing: the subject's sessions that stand, by their families.
        family, log_in: the new one.
        most: how many a subject may have.
    """
    others = {other: one for other, one in standing.items() if other != family}
    surplus = max(0, len(others) + 1 - most)
    end = _oldest_first(others)[:surplus]
    return Places({family: log_in, **{other: one for other, one in others.items() if other not in end}}, end)


def _oldest_first(log_ins: Mapping[FamilyId, LogIn]) -> list[FamilyId]:
    return sorted(log_ins, key=lambda family: (log_ins[family].authenticated_ms, family))


def newest_first(log_ins: Iterable[tuple[FamilyId, LogIn]]) -> list[tuple[FamilyId, LogIn]]:
    return sorted(log_ins, key=lambda pair: (pair[1].authenticated_ms, pair[0]), reverse=True)
