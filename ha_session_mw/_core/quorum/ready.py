"""The values that the state machine of ``peers://`` and its driver hand to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...events import FoundQuorum, LostQuorum, PossibleLoss
from ..cluster.members import MemberEvent
from .membership import Stage
from .messages import Answer, Batch, Poll, Read

Standing = Literal["applied", "durable", "fenced"]
"""How far an entry has got: known to this node; held by a majority; missed by no node that can still accept a session."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A poll on its way. The driver hands it back with its answer."""

    peer: str
    poll: Poll
    sent_s: float
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """A poll that waits here for news, until ``until_s`` (boot-time clock) at the latest."""

    peer: str
    until_s: float
    incarnation: str
    callee: str
    since: int
    recovering: bool
    life: str
    since_s: float = math.inf
    """When it came (boot-time clock); infinity for an answer that nobody asked for."""
    read: Read | None = None
    """The processes whose entries its sender has, as the poll says."""
    applied: int = 0
    """Up to where the sender has applied what this node has, although it does not keep all of that. It is no news to the sender."""
    by_column: bool = False
    """Whether the answer may have log-outs by column."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Stands for all entries up to one position of this node's sequence."""

    position: int


@dataclass(frozen=True, slots=True)
class Sought:
    """Stands for a sign of contact with a majority.

    Attributes:
        stamp: the newest stamp of this node when the sign was asked for.
        position: the newest position of its sequence at that time.
    """

    stamp: int
    position: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """The node has learned everything that it may have forgotten, and serves."""


@dataclass(frozen=True, slots=True)
class OldFile:
    """A peer knows more of this node's sequence than its file does. The node starts anew, as if it had no file."""

    peer: str


@dataclass(frozen=True, slots=True)
class PeerMismatch:
    """This node cannot work with a peer: the peer has another member list, another version or an unexpected identity. ``change``: the two
    are too far apart in a change of the list."""

    peer: str
    why: Literal["list", "version", "identity", "change"]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A peer claims to know more of this very process's sequence than has ever existed."""

    peer: str


@dataclass(frozen=True, slots=True)
class ListsChanged:
    """The change of the member list has come further, as far as this node knows."""

    phase: Stage


QuorumEvent = Contradiction | MemberEvent | LostQuorum | FoundQuorum | PossibleLoss | Recovered | OldFile | PeerMismatch | ListsChanged


@dataclass(frozen=True, slots=True)
class Ready:
    """The work that the driver must do now. Each piece is handed out once.

    Attributes:
        answers: the held polls whose answer is due, with that answer. The machine holds them no longer.
        batch: the batch to write and sync next. No other batch follows until the driver reports this one by
            :meth:`.Quorum.kept` or :meth:`.Quorum.not_kept`.
        events: the events since the last call, in their order.
    """

    answers: tuple[tuple[Hold, Answer], ...] = ()
    batch: Batch | None = None
    events: tuple[QuorumEvent, ...] = ()
