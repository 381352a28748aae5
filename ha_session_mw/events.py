"""What happens to a cluster, as one node sees it: the vocabulary of :meth:`SessionManager.events`.

Each class is one kind of news. None shows a session's id or a subject when it is printed.
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
    """A member was heard for the first time, or for the first time since it left or started anew."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member said good-bye, or was silent for so long that whatever it knew is too old to judge by."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberDraining:
    """A member is about to leave."""

    member: NodeId


@dataclass(frozen=True, slots=True)
class MemberMismatched:
    """A member cannot be worked with.

    Attributes:
        place: which one it is in ``HA_SESSION_PEERS``, counted from 1.
        why: it has another list of members, speaks another version, or is not who it is taken for.
    """

    place: int
    why: Literal["list", "version", "identity"]


# What this node can do


@dataclass(frozen=True, slots=True)
class LostQuorum:
    """Log-outs cannot be made durable: no majority, no leader, or a file that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class FoundQuorum:
    """Log-outs can be made durable, for the first time or again."""


@dataclass(frozen=True, slots=True)
class ViewStale:
    """This node's knowledge is older than the freshness limit: it answers 503 ``state_stale``."""


@dataclass(frozen=True, slots=True)
class ViewFresh:
    """This node's knowledge is recent enough to judge sessions, for the first time or again."""


@dataclass(frozen=True, slots=True)
class ClockDoubted:
    """This node's wall clock is more than 30 s from the others': it answers 503 ``clock_untrusted``."""


@dataclass(frozen=True, slots=True)
class ClockTrusted:
    """This node's wall clock agrees with the others' again."""


@dataclass(frozen=True, slots=True)
class LimitDiffers:
    """Most members announce another ``HA_SESSION_FRESHNESS_LIMIT`` than this node's: it is not ready."""


@dataclass(frozen=True, slots=True)
class LimitAgrees:
    """The ``HA_SESSION_FRESHNESS_LIMIT`` of this node is that of most members again."""


# What may have been lost


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """So much was forgotten at once, by members or with a file, that acknowledged log-outs may be lost."""


@dataclass(frozen=True, slots=True)
class StartedAnew:
    """This node's own file is older than what others remember of it. It learns everything again before it judges sessions."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """Another member knows something else than this node at the same position. This one judges nothing until it has learned anew."""

    member: NodeId


Rollback = Literal["position", "log", "entries"]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The engine is older than what this node has applied, or another one. It answers 503 ``state_rollback`` until an operator decides.

    Attributes:
        why: the log's ``position`` went back, it is another ``log`` by its id, or ``entries`` are missing that have not ended.
    """

    why: Rollback


# Log-outs


@dataclass(frozen=True, slots=True)
class IdRevoked:
    """A session is logged out, or left behind by a ``login`` in its place; or the id that it had before ``cycle`` is good no more.

    Attributes:
        id: of a session, or of a family with all its ids: compare it with both.
        until_ms: when its last token has ended, or up to two minutes later (wall clock).
    """

    id: str = field(repr=False)
    until_ms: int


@dataclass(frozen=True, slots=True)
class SubjectRevoked:
    """The sessions that a subject had are logged out.

    Attributes:
        subject: whose.
        until_ms: when the last of their tokens has ended (wall clock).
        except_family: of the one session that stays.
    """

    subject: str = field(repr=False)
    until_ms: int
    except_family: FamilyId | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EverybodyRevoked:
    """All sessions of all are logged out; ``until_ms`` is when the last of their tokens has ended (wall clock)."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """No token signed with this key is accepted any more; ``until_ms`` is when the last of them has ended (wall clock)."""

    kid: KeyId
    until_ms: int


# The listener itself


@dataclass(frozen=True, slots=True)
class Missed:
    """So many events were lost to this listener, here in their order, because it was too slow to take them."""

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
