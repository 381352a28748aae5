"""Encode the record of a log-in, and decide which log-ins stay when a subject has too many. Performs no I/O and reads no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ...models import Claims, CutId, FamilyId, KeyId, NodeId, SessionId
from ...version import LOG_IN
from ..token.tokens import Verified
from .user_agents import UNKNOWN

MINUTE_MS = 60_000


class LogIn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of one log-in: a session with all its ids.

    Attributes:
        sid, cuts, kid: from the newest token of the session. They decide whether the session is valid.
        idle_end_ms: the idle end of that token, rounded up to a minute, so that several uses within a minute are one change.
        authenticated_ms: the time of the log-in.
        absolute_end_ms: the time at which the session expires in any case.
        seen_ms: the minute in which the session was last used.
        label: a name for the device.
        address: the client's address at the log-in; None unless addresses are recorded.
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

    def __repr__(self) -> str:  # without the id and the address
        return f"<LogIn of {self.authenticated_ms}, {self.label}>"

    def verified(self, family: str, subject: str | None) -> Verified:
        """Return the newest token of the session as verified, without the data."""
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
    """Return the beginning of a minute, in milliseconds."""
    return int(now_ms) // MINUTE_MS * MINUTE_MS


def log_in_of(verified: Verified, seen_ms: int, *, label: str = UNKNOWN, address: str | None = None) -> LogIn:
    """Return the record of a session with this token, last used in the minute ``seen_ms``."""
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
    """Return the record updated by a use of the session.

    The token with the latest end counts as the newest, so nodes may apply uses in any order.
    """
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
_decode_roster = msgspec.msgpack.Decoder(dict[FamilyId, LogIn]).decode


def _body(content: bytes) -> bytes:
    if not content or content[0] not in LOG_IN.reads:
        raise ValueError("recorded by another release, in a format that this release cannot read")
    return content[1:]


def encode(log_in: LogIn) -> bytes:
    """Return the content of a log-in's record."""
    return bytes([LOG_IN.writes]) + _encode(log_in)


def decode(content: bytes) -> LogIn:
    """Return the log-in in a record.

    Raises:
        ValueError: this release cannot read the content.
    """
    return _decode_log_in(_body(content))


# The limit of sessions


def roster_id(subject: str) -> str:
    """Return the id of the record that lists a subject's sessions, so that concurrent log-ins are counted. No session has this id."""
    return "roll~" + sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()


def encode_roster(valid: Mapping[FamilyId, LogIn]) -> bytes:
    """Return the content of a roster's record."""
    return bytes([LOG_IN.writes]) + _encode(valid)


def decode_roster(content: bytes) -> dict[FamilyId, LogIn]:
    """Return the sessions in a roster's record.

    Raises:
        ValueError: this release cannot read the content.
    """
    return _decode_roster(_body(content))


class Admission(NamedTuple):
    """The sessions after a log-in.

    Attributes:
        stay: the sessions that stay valid, with the new one.
        end: the sessions to log out, the oldest first.
    """

    stay: dict[FamilyId, LogIn]
    end: Sequence[FamilyId]


def admit(valid: Mapping[FamilyId, LogIn], family: FamilyId, log_in: LogIn, most: int) -> Admission:
    """Return which sessions stay if this log-in is admitted and the oldest sessions make room.

    Args:
        valid: the subject's valid sessions, by family.
        family, log_in: the new session.
        most: the largest number of sessions that a subject may have.
    """
    others = {other: one for other, one in valid.items() if other != family}
    surplus = max(0, len(others) + 1 - most)
    end = _oldest_first(others)[:surplus]
    return Admission({family: log_in, **{other: one for other, one in others.items() if other not in end}}, end)


def _oldest_first(log_ins: Mapping[FamilyId, LogIn]) -> list[FamilyId]:
    return sorted(log_ins, key=lambda family: (log_ins[family].authenticated_ms, family))


def newest_first(log_ins: Iterable[tuple[FamilyId, LogIn]]) -> list[tuple[FamilyId, LogIn]]:
    """Return the log-ins in the order of their times, the newest first."""
    return sorted(log_ins, key=lambda pair: (pair[1].authenticated_ms, pair[0]), reverse=True)
