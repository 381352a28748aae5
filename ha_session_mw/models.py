"""The vocabulary: what a token claims, and what the nodes of a cluster tell each other.

All times that cross nodes are wall-clock milliseconds since the epoch; names say so (``_ms``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NewType, Protocol

import msgspec

SessionId = NewType("SessionId", str)
"""128 random bits, base64url, 22 characters. Names one session in logs of the cluster; changes at ``login`` and ``cycle``."""
FamilyId = NewType("FamilyId", str)
"""The session with all the ids it ever has; changes at ``login`` only."""
CutId = NewType("CutId", str)
"""Random bits and, after ``~``, the cut's end in hexadecimal seconds."""
KeyId = NewType("KeyId", str)
"""A short hash of a signing key."""
NodeId = NewType("NodeId", str)
"""A member: one process of the cluster."""


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says.

    Attributes:
        sid: the session's id.
        subject: who is logged in; None for a visitor's session.
        family: the session with all its ids.
        cuts: the cuts that were live for the subject when the session began; see :class:`Cut`.
        issued_ms: when this token was made (renewal makes a later one).
        authenticated_ms: when the subject logged in (for a visitor: when the session began).
        idle_end_ms: from here on the session is over unless it was renewed.
        absolute_end_ms: from here on it is over in any case.
        issuer: the node that made this token.
        record: the version of the session's record that it needs; 0 where there is none, and the data travels in the token only.
        data: the session's data, as MessagePack; with a record, what that holds, or nil where it has no room here.
    """

    sid: SessionId
    subject: str | None
    family: FamilyId
    cuts: tuple[CutId, ...]
    issued_ms: int
    authenticated_ms: int
    idle_end_ms: int
    absolute_end_ms: int
    issuer: NodeId
    record: int = 0
    data: bytes = b"\x80"

    def __repr__(self) -> str:  # neither the session's id nor its subject nor its data belong into a log
        return f"<Claims by {self.issuer}, issued {self.issued_ms}, ends {self.idle_end_ms} or {self.absolute_end_ms}>"


# Entries of the cluster log. They only accumulate: applying one twice, or in another order, changes nothing.


class Deny(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """One session id, or a family with all its ids, is logged out until its tokens have ended (``until_ms``)."""

    id: str
    until_ms: int

    def __repr__(self) -> str:  # not the id
        return f"<Deny until {self.until_ms}>"


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """All sessions of a subject (of everybody, where it is None) that do not know of this cut are logged out.

    Attributes:
        id: random; carries the cut's end, so that a node can tell an ended cut from one it has never heard of.
        until_ms: when every token that it could match has ended.
        except_family: the one family that may stay.
        replaces: the cuts that the writer knew; a session that knows this cut need not list those.
    """

    id: CutId
    subject: str | None
    until_ms: int
    except_family: FamilyId | None = None
    replaces: tuple[CutId, ...] = ()

    def __repr__(self) -> str:  # not the subject, nor the family
        return f"<Cut {self.id} of {'everybody' if self.subject is None else 'a subject'}>"


class DenyKey(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """A signing key is compromised: no token signed with it is accepted any more."""

    kid: KeyId
    until_ms: int


Entry = Deny | Cut | DenyKey

AcknowledgementMode = Literal["fenced", "provisional"]


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log-out has got when the call returns.

    Attributes:
        mode: ``fenced``: no request that starts from now on is accepted on any node. ``provisional``: this node
            enforces it, wrote it down and makes it good as soon as a majority can be reached.
        waited_s: how long the acknowledgement took.
    """

    mode: AcknowledgementMode
    waited_s: float


@dataclass(frozen=True, slots=True)
class Device:
    """A log-in of a subject: a session, on whichever device, with all the ids that it has had.

    Attributes:
        id: names it: the ``family`` of its session.
        label: what to call the device, such as ``Firefox on Linux``.
        created_at: when the subject logged in, in UTC.
        last_seen_at: the minute in which the session was last used, in UTC; the log-in, if that was in it.
        idle_expires_at: when it is over unless it is used, in UTC.
        expires_at: when it is over in any case, in UTC.
        address: where the log-in came from; None unless ``HA_SESSION_TRACK_ADDRESS`` is on.
    """

    id: str = field(repr=False)
    label: str
    created_at: datetime
    last_seen_at: datetime
    idle_expires_at: datetime
    expires_at: datetime
    address: str | None = field(default=None, repr=False)


class AnySession(Protocol):
    """A session, as far as a log-out that excepts it needs to know it."""

    @property
    def family(self) -> str | None:
        """The session with all its ids; None for a visitor who has none yet."""
        ...

    @property
    def cuts(self) -> tuple[CutId, ...]:
        """The cuts that its token lists."""
        ...
