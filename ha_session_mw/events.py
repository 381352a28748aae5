"""The events of a cluster as one node sees them: the vocabulary of :meth:`SessionManager.events`.

Each class is one kind of event. No event shows a session's id or a subject in its text.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from .models import FamilyId, KeyId, NodeId, Reticent

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
    "SessionDataLost",
    "SessionRecovered",
    "StartedAnew",
    "SubjectRevoked",
    "ViewFresh",
    "ViewStale",
]


class _Event(Reticent, frozen=True):
    """An event is immutable and hashable, and equal to an event of the same kind with the same fields."""


class _Plain(_Event, frozen=True):
    """An event without details."""


class _OfMember(_Event, frozen=True):
    """An event of one member."""

    member: NodeId


# Members


class MemberJoined(_OfMember, frozen=True):
    """A member was heard for the first time, or for the first time since it left or restarted."""


class MemberLeft(_OfMember, frozen=True):
    """A member left, or was silent for so long that its knowledge is too old to validate sessions."""


class MemberDraining(_OfMember, frozen=True):
    """A member is about to leave."""


class MemberMismatched(_Event, frozen=True):
    """This node cannot work with a member.

    Attributes:
        place: the member's position in ``HA_SESSION_PEERS``, counted from 1. Members that only ``HA_SESSION_PEERS_NEXT`` names follow.
        why: the member has another ``list`` of members, reads no ``version`` of the protocol that this node reads, or has another
            ``identity`` than expected.
    """

    place: int
    why: Literal["list", "version", "identity"]


# The state of this node


class LostQuorum(_Plain, frozen=True):
    """Log-outs cannot be made durable: there is no majority or no leader, or the file cannot be read or written."""


class FoundQuorum(_Plain, frozen=True):
    """Log-outs can be made durable, for the first time or again."""


class ViewStale(_Plain, frozen=True):
    """This node's knowledge is older than the freshness limit. The node answers 503 ``state_stale``."""


class ViewFresh(_Plain, frozen=True):
    """This node's knowledge is recent enough to validate sessions, for the first time or again."""


class ClockDoubted(_Plain, frozen=True):
    """This node's wall clock differs from the other members' by more than 30 s. Or it was set by as much, and there is no other member.

    The node answers 503 ``clock_untrusted``.
    """


class ClockTrusted(_Plain, frozen=True):
    """This node's wall clock agrees with the other members' again."""


class LimitDiffers(_Plain, frozen=True):
    """Most members announce another ``HA_SESSION_FRESHNESS_LIMIT`` than this node, so this node is not ready."""


class LimitAgrees(_Plain, frozen=True):
    """Most members announce the same ``HA_SESSION_FRESHNESS_LIMIT`` as this node again."""


# Possible losses


class PossibleLoss(_Plain, frozen=True):
    """Acknowledged log-outs may be lost: a majority of the members forgot at once, or a file was lost or replaced by an older one."""


class StartedAnew(_Plain, frozen=True):
    """This node's own file is older than the other members remember. The node learns everything again before it validates sessions."""


class Diverged(_OfMember, frozen=True):
    """Another member has another entry than this node at the same position. This node validates nothing until it has learned anew."""


Rollback = Literal["position", "log", "entries"]


class RolledBack(_Event, frozen=True):
    """The cluster's log is older than this node's view, or is another log.

    An operator must decide how to continue. Until then, the node answers 503 ``state_rollback``.

    Attributes:
        why: the log's ``position`` went back, the ``log`` has another id, or live ``entries`` are missing.
    """

    why: Rollback


# Sessions that were rebuilt


RecoveredFrom = Literal["token", "log", "peer", "copy", "store", "request"]


class SessionRecovered(_Event, frozen=True):
    """This node lacked something of a valid session, and rebuilt it. Its user noticed nothing.

    Attributes:
        family: the session with all its ids: compare it with ``session.family``.
        source: the place of what was missing. ``token``: the session's token, which is older than this process. ``log``: the cluster's log,
            for which a request waited. ``peer``: another node's answer about a token. ``copy``: another node's copy of the record.
            ``store``: the record. ``request``: the data that a request had in its hands, when the store had lost the record.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"family"})
    family: str
    source: RecoveredFrom


class SessionDataLost(_Event, frozen=True):
    """The store has certainly lost the data of a valid session, and no node that was asked has a copy.

    Attributes:
        family: the session with all its ids: compare it with ``session.family``.
        subject: the subject that is logged in; None for a visitor.
        ended: whether the session was logged out for it (``HA_SESSION_WHEN_LOST=end``). Otherwise it goes on with empty data.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"family", "subject"})
    family: str
    subject: str | None
    ended: bool


# Log-outs


class IdRevoked(_Event, frozen=True):
    """A session was logged out or replaced by a ``login``, or ``cycle`` revoked the id that the session had before.

    Attributes:
        id: the id of a session, or of a family with all its ids. Compare it with both.
        until_ms: the wall-clock time at which the last of its tokens expires, or up to two minutes later.
        superseded: whether the client got another id in its place. False for a log-out.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"id"})
    id: str
    until_ms: int
    superseded: bool = False


class SubjectRevoked(_Event, frozen=True):
    """All sessions of a subject were logged out.

    Attributes:
        subject: the subject.
        until_ms: the wall-clock time at which the last of their tokens expires.
        except_family: the family of the one session that stays valid; None if there is none.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"subject", "except_family"})
    subject: str
    until_ms: int
    except_family: FamilyId | None = None


class EverybodyRevoked(_Event, frozen=True):
    """All sessions of all subjects were logged out. ``until_ms`` is the wall-clock time at which the last of their tokens expires."""

    until_ms: int


class KeyRevoked(_Event, frozen=True):
    """No token signed with this key is accepted any more. ``until_ms`` is the wall-clock time at which the last of them expires."""

    kid: KeyId
    until_ms: int


# The listener itself


class Missed(_Event, frozen=True):
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
    | SessionRecovered
    | SessionDataLost
    | IdRevoked
    | SubjectRevoked
    | EverybodyRevoked
    | KeyRevoked
    | Missed
)
