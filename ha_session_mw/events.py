"""The events of a cluster as one node sees them: the vocabulary of :meth:`SessionManager.events`.

Each class is one kind of event. No event shows a session's id or a subject in its text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from .models import FamilyId, KeyId, NodeId

__all__ = [
    "ClockDoubted",
    "ClockTrusted",
    "ClusterEvent",
    "Diverged",
    "EverybodyRevoked",
    "FoundQuorum",
    "IdRevoked",
    "KeyRevoked",
    "LimitAgrees",
    "LimitDiffers",
    "LostQuorum",
    "MemberDraining",
    "MemberJoined",
    "MemberLeft",
    "MemberMismatched",
    "Missed",
    "PossibleLoss",
    "RolledBack",
    "StartedAnew",
    "SubjectRevoked",
    "ViewFresh",
    "ViewStale",
]

# To generate the methods of a dataclass takes a millisecond of each import of this package. So events share their methods.


class _Event:
    """Text, equality and hash of every event, by its fields."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({shown})"

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, _Event) and type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._values()))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Plain(_Event):
    """An event without details."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _OfMember(_Event):
    """An event of one member."""

    member: NodeId


# Members


class MemberJoined(_OfMember):
    """A member was heard for the first time, or for the first time since it left or restarted."""

    __slots__ = ()


class MemberLeft(_OfMember):
    """A member left, or was silent for so long that its knowledge is too old to validate sessions."""

    __slots__ = ()


class MemberDraining(_OfMember):
    """A member is about to leave."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MemberMismatched(_Event):
    """This node cannot work with a member.

    Attributes:
        place: the member's position in ``HA_SESSION_PEERS``, counted from 1. Members that only ``HA_SESSION_PEERS_NEXT`` names follow.
        why: the member has another ``list`` of members, speaks another ``version``, or has another ``identity`` than expected.
    """

    place: int
    why: Literal["list", "version", "identity"]


# The state of this node


class LostQuorum(_Plain):
    """Log-outs cannot be made durable: there is no majority or no leader, or the file cannot be read or written."""

    __slots__ = ()


class FoundQuorum(_Plain):
    """Log-outs can be made durable, for the first time or again."""

    __slots__ = ()


class ViewStale(_Plain):
    """This node's knowledge is older than the freshness limit. The node answers 503 ``state_stale``."""

    __slots__ = ()


class ViewFresh(_Plain):
    """This node's knowledge is recent enough to validate sessions, for the first time or again."""

    __slots__ = ()


class ClockDoubted(_Plain):
    """This node's wall clock differs from the other members' by more than 30 s. Or it was set by as much, and there is no other member.

    The node answers 503 ``clock_untrusted``.
    """

    __slots__ = ()


class ClockTrusted(_Plain):
    """This node's wall clock agrees with the other members' again."""

    __slots__ = ()


class LimitDiffers(_Plain):
    """Most members announce another ``HA_SESSION_FRESHNESS_LIMIT`` than this node, so this node is not ready."""

    __slots__ = ()


class LimitAgrees(_Plain):
    """Most members announce the same ``HA_SESSION_FRESHNESS_LIMIT`` as this node again."""

    __slots__ = ()


# Possible losses


class PossibleLoss(_Plain):
    """Acknowledged log-outs may be lost: a majority of the members forgot at once, or a file was lost or replaced by an older one."""

    __slots__ = ()


class StartedAnew(_Plain):
    """This node's own file is older than the other members remember. The node learns everything again before it validates sessions."""

    __slots__ = ()


class Diverged(_OfMember):
    """Another member has another entry than this node at the same position. This node validates nothing until it has learned anew."""

    __slots__ = ()


Rollback = Literal["position", "log", "entries"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RolledBack(_Event):
    """The cluster's log is older than this node's view, or is another log.

    An operator must decide how to continue. Until then, the node answers 503 ``state_rollback``.

    Attributes:
        why: the log's ``position`` went back, the ``log`` has another id, or live ``entries`` are missing.
    """

    why: Rollback


# Log-outs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IdRevoked(_Event):
    """A session was logged out or replaced by a ``login``, or ``cycle`` revoked the id that the session had before.

    Attributes:
        id: the id of a session, or of a family with all its ids. Compare it with both.
        until_ms: the wall-clock time at which the last of its tokens expires, or up to two minutes later.
        superseded: whether the client got another id in its place. False for a log-out.
    """

    id: str = field(repr=False)
    until_ms: int
    superseded: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubjectRevoked(_Event):
    """All sessions of a subject were logged out.

    Attributes:
        subject: the subject.
        until_ms: the wall-clock time at which the last of their tokens expires.
        except_family: the family of the one session that stays valid; None if there is none.
    """

    subject: str = field(repr=False)
    until_ms: int
    except_family: FamilyId | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EverybodyRevoked(_Event):
    """All sessions of all subjects were logged out. ``until_ms`` is the wall-clock time at which the last of their tokens expires."""

    until_ms: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyRevoked(_Event):
    """No token signed with this key is accepted any more. ``until_ms`` is the wall-clock time at which the last of them expires."""

    kid: KeyId
    until_ms: int


# The listener itself


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Missed(_Event):
    """This listener was too slow. At this point of the order, it lost ``count`` events."""

    count: int


ClusterEvent = (
    MemberJoined
    | MemberLeft
    | MemberDraining
    | MemberMismatched
    | LostQuorum
    | FoundQuorum
    | ViewStale
    | ViewFresh
    | ClockDoubted
    | ClockTrusted
    | LimitDiffers
    | LimitAgrees
    | PossibleLoss
    | StartedAnew
    | Diverged
    | RolledBack
    | IdRevoked
    | SubjectRevoked
    | EverybodyRevoked
    | KeyRevoked
    | Missed
)
