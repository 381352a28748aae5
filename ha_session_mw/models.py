"""The vocabulary: the claims of a token, the entries of the cluster log, and the values that apps get.

All times that cross nodes are wall-clock milliseconds since the epoch. Their names end in ``_ms``.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal, NewType, Protocol

import msgspec

SessionId = NewType("SessionId", str)
"""128 random bits in base64url: 22 characters. Names one session in the cluster log. Changes at ``login`` and ``cycle``."""
FamilyId = NewType("FamilyId", str)
"""Names a session together with all ids that it ever has. Changes at ``login`` only."""
CutId = NewType("CutId", str)
"""Random bits, the second in which the cut was made, and the second of its end, with ``~`` between; the last two in hexadecimal.

The second of making is missing if the writer's clock was not trusted, and in cuts of an earlier release."""
KeyId = NewType("KeyId", str)
"""A short hash of a signing key."""
NodeId = NewType("NodeId", str)
"""Names a member: one process of the cluster."""


class OwnLives(msgspec.Struct, frozen=True, array_like=True):
    """How long one session lives, where that differs from the settings. Its absolute end is in its claims anyhow.

    Attributes:
        idle_ms: its idle timeout; 0 for that of the settings.
        persistent: whether a browser keeps the cookie when it closes.
    """

    idle_ms: int
    persistent: bool


class Claims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The claims of a verified token.

    Attributes:
        sid: the session's id.
        subject: the user or account that is logged in; None for a visitor's session.
        family: the session with all its ids.
        cuts: the cuts that were live for the subject when the session began; see :class:`Cut`.
        issued_ms: the time at which this token was issued. A renewed token has a later one.
        authenticated_ms: the time of the log-in; for a visitor, the time at which the session began.
        idle_end_ms: the time from which the session has expired, unless it is renewed.
        absolute_end_ms: the time from which the session has expired in any case.
        issuer: the node that issued this token.
        record: the version of the session's record that the token needs; 0 if all data is in the token.
        data: the session's data in MessagePack. With a record: a copy of the record's data, or nil if the copy does not fit.
        own: what this session has of its own; not set for a session with the lives of the settings.
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
    own: OwnLives | msgspec.UnsetType = msgspec.UNSET

    @property
    def persistent(self) -> bool:
        """Whether a browser keeps the cookie when it closes."""
        return self.own is msgspec.UNSET or self.own.persistent

    def idle_ms(self, settings_ms: int) -> int:
        """The idle timeout: the session's own, if it has one, within that of the settings."""
        return settings_ms if self.own is msgspec.UNSET or not self.own.idle_ms else min(self.own.idle_ms, settings_ms)

    def __repr__(self) -> str:  # The session's id, subject and data do not belong in a log.
        return f"<Claims by {self.issuer}, issued {self.issued_ms}, ends {self.idle_end_ms} or {self.absolute_end_ms}>"


# Entries of the cluster log. They only accumulate: applying one twice, or in another order, makes no difference.


class Deny(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """Revokes one session id, or a family with all its ids, until ``until_ms``: by then all its tokens have expired.

    A release that does not know ``replaced_ms`` reads the entry as a log-out. A log-out outranks a replacement of the same id.

    Attributes:
        id: the session id, or the family.
        until_ms: the end.
        replaced_ms: the time at which ``login`` or ``cycle`` gave the client another id in its place; 0 for a log-out.
    """

    id: str
    until_ms: int
    replaced_ms: int = 0

    def __repr__(self) -> str:  # without the id
        return f"<Deny until {self.until_ms}{', replaced' if self.replaced_ms else ''}>"


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """Revokes all sessions of a subject, or of all subjects, whose tokens do not list this cut, unless they certainly began after it.

    Attributes:
        id: random, with the time of making and the end. A node can therefore tell an ended cut from a cut that it has not heard of.
        subject: whose sessions; None for the sessions of all subjects.
        until_ms: the time at which every token that the cut could match has expired.
        except_family: the one family that is not revoked.
        replaces: the cuts that the writer knew. A token that lists this cut need not list those.
    """

    id: CutId
    subject: str | None
    until_ms: int
    except_family: FamilyId | None = None
    replaces: tuple[CutId, ...] = ()

    def __repr__(self) -> str:  # without the subject and the family
        return f"<Cut {self.id} of {'everybody' if self.subject is None else 'a subject'}>"


class DenyKey(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """Revokes a signing key, which may be compromised: no token signed with it is accepted any more."""

    kid: KeyId
    until_ms: int


Entry = Deny | Cut | DenyKey

AcknowledgementMode = Literal["fenced", "provisional"]


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log-out has spread when the call returns.

    Attributes:
        mode: ``fenced``: from now on no node accepts a new request of these sessions. ``provisional``: this node enforces the
            log-out, has recorded it on disk, and completes it as soon as a majority can be reached. A completed log-out of all sessions of
            a subject spares those that began more than 60 seconds after it, the tolerance of two trusted clocks.
        waited_s: the seconds that the acknowledgement took.
    """

    mode: AcknowledgementMode
    waited_s: float


class Reticent(msgspec.Struct, frozen=True):
    """A value whose text leaves some of its fields out.

    A struct and no dataclass, because to generate the methods of a dataclass takes half a millisecond of each import of this package.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in self._unshown)
        return f"{type(self).__qualname__}({', '.join(shown)})"


class Device(Reticent, frozen=True):
    """A log-in of a subject on some device: a session with all the ids that it has had.

    Attributes:
        id: the ``family`` of the session.
        label: a name for the device, such as ``Firefox on Linux``.
        created_at: the time of the log-in, in UTC.
        last_seen_at: the minute in which the session was last used, in UTC; the time of the log-in, if that was in the same minute.
        idle_expires_at: the time at which the session expires unless it is used, in UTC.
        expires_at: the time at which the session expires in any case, in UTC.
        address: the client's address at the log-in; None unless ``HA_SESSION_TRACK_ADDRESS`` is on.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"id", "address"})
    id: str
    label: str
    created_at: datetime
    last_seen_at: datetime
    idle_expires_at: datetime
    expires_at: datetime
    address: str | None = None


class Identified(Protocol):
    """A session, as far as its owner depends on it."""

    @property
    def id(self) -> str | None:
        """The present id; None for a visitor without a session."""
        ...


class AnySession(Protocol):
    """The part of a session that a log-out needs in order to except it."""

    @property
    def family(self) -> str | None:
        """The session with all its ids; None for a visitor without a session."""
        ...

    @property
    def cuts(self) -> tuple[CutId, ...]:
        """The cuts that the session's token lists."""
        ...
