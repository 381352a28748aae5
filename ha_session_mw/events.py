"""The events of a cluster as one node sees them: the vocabulary of :meth:`SessionManager.events`.

Each class is one kind of event. No event shows a session's id or a subject in its text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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

# Members


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member was heard for the first time, or for the first time since it left or restarted."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member left, or was silent for so long that its knowledge is too old to validate sessions."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberDraining:
    """A member is about to leave."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberMismatched:
    """This node cannot work with a member.

    Attributes:
        place: the member's position in ``HA_SESSION_PEERS``, counted from 1.
        why: the member has another ``list`` of members, speaks another ``version``, or has another ``identity`` than expected.
    """

    place: int
    why: Literal["list", "version", "identity"]


# The state of this node


@dataclass(frozen=True, slots=True)
class LostQuorum:
    """Log-outs cannot be made durable: there is no majority or no leader, or the file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class FoundQuorum:
    """Log-outs can be made durable, for the first time or again."""


@dataclass(frozen=True, slots=True)
class ViewStale:
    """This node's knowledge is older than the freshness limit. The node answers 503 ``state_stale``."""


@dataclass(frozen=True, slots=True)
class ViewFresh:
    """This node's knowledge is recent enough to validate sessions, for the first time or again."""


@dataclass(frozen=True, slots=True)
class ClockDoubted:
    """This node's wall clock differs from the other members' by more than 30 s. The node answers 503 ``clock_untrusted``."""


@dataclass(frozen=True, slots=True)
class ClockTrusted:
    """This node's wall clock agrees with the other members' again."""


@dataclass(frozen=True, slots=True)
class LimitDiffers:
    """Most members announce another ``HA_SESSION_FRESHNESS_LIMIT`` than this node, so this node is not ready."""


@dataclass(frozen=True, slots=True)
class LimitAgrees:
    """Most members announce the same ``HA_SESSION_FRESHNESS_LIMIT`` as this node again."""


# Possible losses


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """Acknowledged log-outs may be lost: a majority of the members forgot at once, or a file was lost or replaced by an older one."""


@dataclass(frozen=True, slots=True)
class StartedAnew:
    """This node's own file is older than the other members remember. The node learns everything again before it validates sessions."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """Another member has another entry than this node at the same position. This node validates nothing until it has learned anew."""

    member: NodeId


Rollback = Literal["position", "log", "entries"]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The cluster's log is older than this node's view, or is another log.

    An operator must decide how to continue. Until then, the node answers 503 ``state_rollback``.

    Attributes:
        why: the log's ``position`` went back, the ``log`` has another id, or live ``entries`` are missing.
    """

    why: Rollback


# Log-outs


@dataclass(frozen=True, slots=True)
class IdRevoked:
    """A session was logged out or replaced by a ``login``, or ``cycle`` revoked the id that the session had before.

    Attributes:
        id: the id of a session, or of a family with all its ids. Compare it with both.
        until_ms: the wall-clock time at which the last of its tokens expires, or up to two minutes later.
    """

    id: str = field(repr=False)
    until_ms: int


@dataclass(frozen=True, slots=True)
class SubjectRevoked:
    """All sessions of a subject were logged out.

    Attributes:
        subject: the subject.
        until_ms: the wall-clock time at which the last of their tokens expires.
        except_family: the family of the one session that stays valid; None if there is none.
    """

    subject: str = field(repr=False)
    until_ms: int
    except_family: FamilyId | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EverybodyRevoked:
    """All sessions of all subjects were logged out. ``until_ms`` is the wall-clock time at which the last of their tokens expires."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """No token signed with this key is accepted any more. ``until_ms`` is the wall-clock time at which the last of them expires."""

    kid: KeyId
    until_ms: int


# The listener itself


@dataclass(frozen=True, slots=True)
class Missed:
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
