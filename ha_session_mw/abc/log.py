"""The port of a cluster log: it makes log-outs durable, spreads them, and merges them into the node's view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from .._core.cluster.key_use import told_apart
from .._core.cluster.members import Heartbeat, Sighting
from .._core.tally import Tally
from ..events import ClusterEvent
from ..models import Cut, Entry, KeyId

CLOCK_SLACK_MS = 50.0
"""How far the wall clock may drift from the boot-time clock before a node asks the log again whether it is right: NTP slews less."""

OnEvent = Callable[[ClusterEvent], None]
"""Takes an event of the cluster; returns at once and never raises.

A log calls it once for each turn, in order. It reports members that join, drain and leave, and acknowledged entries that may be
lost. It reports when entries can no longer become durable (``LostQuorum``), or can again (``FoundQuorum``). Where possible, it notices
that without an append.
It does not report facts that the node reads from the log itself: revoked sessions, staleness, an untrusted clock.
"""


class Receipt(msgspec.Struct, frozen=True):
    """The proof that a log has made entries durable.

    Attributes:
        position: the log's position after the entries. It grows with each append on the same node.
        durable_at_s: the moment at which this node knew that the entries are durable (boot-time clock).
    """

    position: int
    durable_at_s: float


class ClusterLog(ABC):
    """Keeps the entries of the cluster and merges them into this node's view.

    Attributes:
        freshness_limit_s: how old the view may be when this node accepts a session: the smallest limit that any member announces.
        trusted_ahead_ms: the lead of this node's wall clock over its boot-time clock, in which the cluster trusts it, give or
            take ``CLOCK_SLACK_MS``. NaN if :meth:`trusts_clock` must be asked.
        poll_now: merges what is known elsewhere by now into the view and sets ``fresh_at``. Waits for nothing and never raises.
            Called with each request, before the view is read. None if news come without it.
        is_alone: whether this process issues all tokens that list a cut of this log.
    """

    freshness_limit_s: float
    trusted_ahead_ms: float
    poll_now: Callable[[], None] | None = None
    is_alone: bool = False

    @abstractmethod
    def apply(self, entries: Sequence[Entry]) -> None:
        """Merge entries into this node's view at once, and spread them as soon as possible. Waits for nothing."""

    async def confirm(self) -> None:
        """Return once the log has shown, by an exchange that began after this call, that it makes entries durable now.

        No view changes, on this node or another. An entry that is appended cannot be withdrawn: where it does not become durable in
        time, some nodes may enforce it all the same. So a caller that may still refuse its request asks first, and appends then. A
        confirmation is no promise, because contact may be lost right after it.

        By default, nothing is appended.

        Raises:
            QuorumLost: the log does not make entries durable now, or has not shown it in time. Nothing was appended.
        """
        await self.append(())

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Make entries durable in the cluster, and return once they are.

        The entries are merged into this node's view before the first suspension, even if the append fails afterwards. Merging is
        idempotent: the same entries may be appended again. Two denials of one id may differ in ``replaced_ms``. A log that keeps one
        of them only must keep the log-out, whichever comes first.

        Raises:
            QuorumLost: the entries could not be made durable in time. The view keeps them, and the log goes on trying.
            EntryRejected: the log will never take some of the entries. The view keeps those, and the others are durable.
        """

    def may_lose(self, cut: Cut) -> bool:  # noqa: ARG002 - nothing is known of the log here
        """Whether a cut that the view has may be lost: the log is not known to hold it durably. Asked before a token lists it.

        By default True. The cut is appended again then, and the token waits for that.
        """
        return True

    @abstractmethod
    async def fence(self, receipt: Receipt) -> None:
        """Return once every node refuses all sessions that the entries deny, from now on.

        This is so once each live member has confirmed the entries, or no member can still hold a lease from before them.
        Always ends in bounded time.

        Args:
            receipt: of the entries, as :meth:`append` returned it.

        Raises:
            QuorumLost: this node no longer knows that the entries are durable.
        """

    async def append_and_fence(self, entries: Sequence[Entry]) -> None:
        """Append entries and fence them. A log may wait once for both, as it mostly can.

        Raises:
            QuorumLost, EntryRejected: see :meth:`append` and :meth:`fence`.
        """
        await self.fence(await self.append(entries))

    @abstractmethod
    async def wait_changed(self) -> None:
        """Return when this node may have learned something since the call began.

        Callers call it in a loop while the view is stale, so it must let time pass if nothing is new.
        """

    @abstractmethod
    def tick(self) -> None:
        """Bring the view and the floor up to date without waiting. Called about once a second; never raises."""

    @abstractmethod
    def trusts_clock(self) -> bool:
        """Whether this node's wall clock agrees with the cluster's; sets ``trusted_ahead_ms`` if so.

        A node whose clock is not trusted neither issues nor validates tokens.
        """

    def ahead_ms(self) -> float:
        """Return the lead of this node's wall clock over the median of the members', in milliseconds; 0 if it lags, or is unknown."""
        return 0.0

    @abstractmethod
    def is_starting(self) -> bool:
        """Whether the node must still learn from other members before it may validate sessions."""

    def is_draining(self) -> bool:
        """Whether this node is leaving the cluster, so that sessions belong to the other members."""
        return False

    def is_set_back(self) -> bool:
        """Whether the log is older than the entries that this node has applied from it. The node then validates nothing until an operator
        decides."""
        return False

    def has_left(self) -> bool:
        """Whether :meth:`leave` was called, so that the node validates nothing any more, and its next start opens a new log."""
        return False

    def drain(self) -> None:
        """Announce that this node is about to leave. It goes on as before, but is not ready."""
        return

    async def hand_over(self) -> None:
        """Return once the other nodes have everything that this node alone had, or after a bounded time."""
        return

    async def leave(self) -> None:
        """Leave the cluster in order, so that no log-out elsewhere waits for this node.

        Hands the others what they have not fetched, accepts no session any more, and then says so. Always ends in bounded time, and
        never raises. The log goes on running: open connections of the node still end with their sessions.
        """
        return

    def seek_news(self) -> None:
        """Learn soon what the other nodes know now, because a request waits for that. Called as often as requests wait; costs little."""
        return

    @abstractmethod
    def members(self) -> Sequence[Heartbeat]:
        """Return the newest heartbeat of each other live member."""

    def sightings(self) -> Sequence[Sighting]:
        """Return each other member that this node has heard, also those that have just left; nothing if members do not hear each other."""
        return ()

    def engine_ahead_s(self) -> float | None:
        """Return how many seconds the cluster server's wall clock is ahead of this node's; None without a server, or if it is not known."""
        return None

    def kids_of_others(self) -> Mapping[str, tuple[KeyId, ...]]:
        """Return the key ids of each other live member, the newest first. Members that share a name are told apart by a number."""
        return told_apart((member.member, member.kids) for member in self.members())

    def announced_kids(self) -> Sequence[Collection[KeyId]]:
        """Return the key ids of each other live member."""
        return [*self.kids_of_others().values()]

    def hears_all_kids(self) -> bool:
        """Whether each process that may sign tokens of this service announces its keys here."""
        return True

    def announce(self, kids: tuple[KeyId, ...]) -> None:  # noqa: ARG002 - there are no listeners
        """Announce the ids of this node's present keys to the members."""
        return

    @abstractmethod
    def unknown_end_ms(self) -> int:
        """Return a moment by which every token that exists now has ended, on any node (wall clock, milliseconds)."""

    @abstractmethod
    def why_not_ready(self) -> str | None:
        """Return why this node cannot validate sessions, in a few words for an operator; None if it is ready."""

    def mismatches(self) -> Sequence[str]:
        """Return why this node and another member cannot work together, in a sentence with the remedy for each of them."""
        return ()

    def exposure(self) -> str | None:
        """Return how acknowledged log-outs may be lost, in a sentence for an operator; None if they are kept.

        They may be by the way in which the cluster is set up, or because a file cannot be written.
        """
        return None

    def member_lists(self) -> Mapping[str, str | None] | None:
        """Return the digests of the member lists, ``current`` and ``next``, and the ``phase`` of their change; None without fixed lists."""
        return None

    async def run(self) -> None:
        """Run the log's background work until cancelled. The node serves meanwhile, from the start on."""
        return

    # Figures for operators. None of them waits for anything, and none raises.

    def sync_lag(self) -> Tally | None:
        """Return how long entries took from where they were made to here, in seconds; None if each request reads the log itself."""
        return None

    def position(self) -> int:
        """Return how far this node has applied the log; 0 if its entries have no positions."""
        return 0

    def quorum_size(self) -> int:
        """Return how many members must take an entry to make it durable. 1 if one process, one file or an engine does that."""
        return 1

    def has_quorum(self) -> bool:
        """Return whether entries that are appended now become durable soon, as far as this node knows."""
        return True

    def why_no_quorum(self) -> str:
        """Return why :meth:`has_quorum` is False, in a few words for an operator."""
        return "no majority takes it; see that the others can call this node"

    def index(self) -> str | None:
        """Return the log's position after this node's newest entry as text; None without other nodes.

        A client may carry it to another node to read its own writes.
        """
        return None

    def has_reached(self, index: str) -> bool:  # noqa: ARG002 - there is nothing to reach here
        """Whether this node knows everything that the node of an index knew with its newest entry. True for text that is no index."""
        return True
