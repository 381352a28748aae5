"""The ports: what the manager asks of a clock and of the cluster's log. Each docstring is the whole contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from anyio import CancelScope

from ._core.members import Heartbeat
from .models import Entry, KeyId

CLOCK_SLACK_MS = 50.0
"""By how much a wall clock may move against the boot-time clock, being slewed, before somebody looks whether it is right."""

PeerHandler = Callable[[bytes], Awaitable[bytes]]
"""Answers a call of another member. Raises ValueError for a body that it cannot read."""


class Clock(Protocol):
    """The two clocks, and waiting by the first. ``boot_s`` for what stays within a node, ``wall_s`` for what crosses nodes."""

    def boot_s(self) -> float:
        """Seconds since some moment, counting the time in suspend; never steps."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch; may be off, and may step."""
        ...

    def move_on_after(self, seconds: float) -> AbstractContextManager[CancelScope, bool]:
        """Ends what runs inside after so many seconds of ``boot_s``; the scope's ``cancelled_caught`` then tells."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """Entries that a log has made durable.

    Attributes:
        position: where the log stands after them; grows with each append on the same node.
        durable_at_s: the boot-time moment at which this node knew them durable.
    """

    position: int
    durable_at_s: float


class ClusterLog(ABC):
    """Keeps the entries of the cluster and brings them to this node's view.

    Attributes:
        freshness_limit_s: how old the view may be when this node accepts a session, by all that the cluster has said.
        trusted_ahead_ms: by how much this node's wall clock is ahead of its boot-time clock while it is trusted, give or
            take ``CLOCK_SLACK_MS``. NaN where that must be asked for (:meth:`trusts_clock`).
        look: brings the view, and how fresh it is, up to what is known elsewhere by now, without waiting for anybody; never
            raises. Called on the way of each request, before anything is read from the view. None where news come by themselves.
    """

    freshness_limit_s: float
    trusted_ahead_ms: float
    look: Callable[[], None] | None = None

    @abstractmethod
    def apply(self, entries: Sequence[Entry]) -> None:
        """Merge entries into this node's view at once, and have them spread when that is possible. Waits for nothing."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Make entries known to the cluster.

        They are merged into this node's view before the first suspension, whatever happens then, and merging is
        idempotent: the same entries may be appended again. Returns once they are durable.

        Raises:
            QuorumLost: they could not be made durable in time. The view keeps them, and the log goes on trying.
            EntryRejected: the log will never take some of them. The view keeps those, and the others are durable.
        """

    @abstractmethod
    async def fence(self, receipt: Receipt) -> None:
        """Return when every node refuses, from now on, what the entries deny.

        That is when each live member has confirmed them, or when none can still hold a lease from before. Always
        returns in bounded time.
        """

    @abstractmethod
    async def changed(self) -> None:
        """Return when this node may have learned something since the call began."""

    @abstractmethod
    def refresh(self) -> None:
        """Bring the view up to what can be told without waiting. Called now and then; never raises."""

    @abstractmethod
    def trusts_clock(self) -> bool:
        """Whether this node's wall clock agrees with the cluster's. One that does not neither mints nor judges."""

    def ahead_ms(self) -> float:
        """By how much this node's wall clock is ahead of what most of the cluster's show; 0 if it is not, or nobody can tell."""
        return 0.0

    @abstractmethod
    def is_starting(self) -> bool:
        """Whether the node has not yet learned enough since its start to judge anything."""

    def is_set_back(self) -> bool:
        """Whether the log is older than what this node has applied of it. It judges nothing any more, until an operator has decided."""
        return False

    @abstractmethod
    def members(self) -> Sequence[Heartbeat]:
        """The last words of each other live member."""

    def announced_kids(self) -> Sequence[Collection[KeyId]]:
        """For each other live member, the ids of the keys it has."""
        return [member.kids for member in self.members()]

    def announce(self, kids: tuple[KeyId, ...]) -> None:  # noqa: ARG002 - there is nobody to tell
        """The node's own keys are others now; the members are to know."""
        return

    @abstractmethod
    def unknown_end_ms(self) -> int:
        """By when every token that exists now has ended, whoever made it (wall clock, milliseconds)."""

    @abstractmethod
    def why_not_ready(self) -> str | None:
        """What keeps this node from judging sessions, as a few words for an operator; None when it is ready."""

    async def run(self) -> None:
        """What the log does besides, until it is cancelled. Waits for nobody before it serves."""
        return

    def index(self) -> str | None:
        """A position that a client may carry to another node to read its own writes there; None where there is no other."""
        return None

    def has_reached(self, index: str) -> bool:  # noqa: ARG002 - there is nothing to reach here
        """Whether this node knows all that the node knew which gave the index. True for text that is no index."""
        return True
