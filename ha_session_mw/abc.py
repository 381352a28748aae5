"""The ports: the contracts of a clock, a cluster log, a store of records, a lock service, and the backend that opens them.

Each docstring is the whole contract. *Absent* (None) and *unknown* (an exception) are different answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from anyio import CancelScope

from ._core.calls.faults import Fault, PeerFaults
from ._core.cluster.members import UNKNOWN_END_MARGIN_MS as UNKNOWN_END_MARGIN_MS
from ._core.cluster.members import Heartbeat as Heartbeat
from ._core.cluster.view import FLOOR_MARGIN_MS as FLOOR_MARGIN_MS
from ._core.cluster.view import View as View
from .events import ClusterEvent
from .models import Entry, KeyId

CLOCK_SLACK_MS = 50.0
"""How far the wall clock may drift from the boot-time clock before a node asks the log again whether it is right: NTP slews less."""

MAX_RECORD_BYTES = 1 << 20
"""Largest record that every store of this package accepts. etcd's request limit is 1.5 MB, and every change rewrites the whole record."""

PeerHandler = Callable[[bytes], Awaitable[bytes]]
"""Takes the body of another member's call and returns the body of the answer. Raises ValueError if it cannot read the body."""


class PeerFailure(Exception):
    """A call had no usable answer. ``str()`` gives the reason in this package's words, never in the peer's.

    Attributes:
        fault: the name under which the failure is counted.
    """

    def __init__(self, reason: str, fault: Fault = "refused") -> None:
        super().__init__(reason)
        self.fault: Fault = fault


HELLO = "hello"
"""The name of the call that asks a process for its nonce. A node calls only its own URL by it, to find a second process there."""


class PeerCalls(Protocol):
    """Signed calls between the nodes of a cluster."""

    @property
    def faults(self) -> PeerFaults:
        """The counts of the faults of other members."""
        ...

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        """Return the body of a peer's answer.

        Args:
            peer: the URL of the member.
            name: of the call.
            body: of the call.
            timeout_s: the longest wait.

        Raises:
            PeerFailure: the peer did not answer in time, or not as a member of this cluster does.
        """
        ...

    def handle(self, name: str, handler: PeerHandler) -> None:
        """Have calls of this name answered by a handler."""
        ...


class Clock(Protocol):
    """The two clocks of a node, and waiting by the first. ``boot_s`` measures time within a node, ``wall_s`` dates what crosses nodes."""

    def boot_s(self) -> float:
        """Return the seconds since some moment, time in suspend included. Never steps."""
        ...

    def wall_s(self) -> float:
        """Return the seconds since the epoch. May be wrong, and may step."""
        ...

    def move_on_after(self, seconds: float) -> AbstractContextManager[CancelScope, bool]:
        """Return a cancel scope that ends its block after so many seconds of ``boot_s``; ``cancelled_caught`` is then true."""
        ...


OnEvent = Callable[[ClusterEvent], None]
"""Takes an event of the cluster; returns at once and never raises.

A log calls it once for each turn, in order. It reports members that join, drain and leave, and acknowledged entries that may be
lost. It reports when entries can no longer become durable (``LostQuorum``), or can again (``FoundQuorum``). Where possible, it notices
that without an append.
It does not report facts that the node reads from the log itself: revoked sessions, staleness, an untrusted clock.
"""

OnNewer = Callable[[str, int], None]
"""Takes the id and the version of a record that any node has put, or version 0 of one that any node has deleted.

Returns at once and never raises. A store calls it as soon as it has the news.
"""

OnGap = Callable[[], None]
"""Says that records may have changed without a call of :data:`OnNewer`, so copies of them are worthless.

Returns at once and never raises. A store calls it when it begins to follow the writes of others, and after each interruption of that.
"""


def ignore(*_: object) -> None:
    """Take a callback's arguments and do nothing. This suffices for a store whose records are not copied."""


@dataclass(frozen=True, slots=True)
class Receipt:
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
    """

    freshness_limit_s: float
    trusted_ahead_ms: float
    poll_now: Callable[[], None] | None = None

    @abstractmethod
    def apply(self, entries: Sequence[Entry]) -> None:
        """Merge entries into this node's view at once, and spread them as soon as possible. Waits for nothing."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Make entries durable in the cluster, and return once they are.

        The entries are merged into this node's view before the first suspension, even if the append fails afterwards. Merging is
        idempotent: the same entries may be appended again.

        Raises:
            QuorumLost: the entries could not be made durable in time. The view keeps them, and the log goes on trying.
            EntryRejected: the log will never take some of the entries. The view keeps those, and the others are durable.
        """

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

    def is_set_back(self) -> bool:
        """Whether the log is older than the entries that this node has applied from it. The node then validates nothing until an operator
        decides."""
        return False

    @abstractmethod
    def members(self) -> Sequence[Heartbeat]:
        """Return the newest heartbeat of each other live member."""

    def announced_kids(self) -> Sequence[Collection[KeyId]]:
        """Return the key ids of each other live member."""
        return [member.kids for member in self.members()]

    def announce(self, kids: tuple[KeyId, ...]) -> None:  # noqa: ARG002 - there are no listeners
        """Announce the ids of this node's present keys to the members."""
        return

    @abstractmethod
    def unknown_end_ms(self) -> int:
        """Return a moment by which every token that exists now has ended, on any node (wall clock, milliseconds)."""

    @abstractmethod
    def why_not_ready(self) -> str | None:
        """Return why this node cannot validate sessions, in a few words for an operator; None if it is ready."""

    async def run(self) -> None:
        """Run the log's background work until cancelled. The node serves meanwhile, from the start on."""
        return

    def index(self) -> str | None:
        """Return the log's position as text, which a client may carry to another node to read its own writes; None without other nodes."""
        return None

    def has_reached(self, index: str) -> bool:  # noqa: ARG002 - there is nothing to reach here
        """Whether this node knows everything that the node of an index knew at that time. True for text that is no index."""
        return True


# Records: session data too large for a token, and log-ins, which are found by their subject.


@dataclass(frozen=True, slots=True)
class Record:
    """One record in a store.

    Attributes:
        id: the family of a session, or another id that cannot be guessed.
        content: opaque bytes.
        until_ms: the end of the record: afterwards it may be deleted (wall clock).
        subject: the subject by which it is listed; None for a visitor's record.
        version: grows with each put, and is never used again for this id, not even after a delete. 0: not stored yet.
    """

    id: str = field(repr=False)
    content: bytes = field(repr=False)
    until_ms: int
    subject: str | None = field(default=None, repr=False)
    version: int = 0

    def require_length(self, max_bytes: int) -> None:
        """Raise ValueError if the content is longer than a store takes."""
        if len(self.content) > max_bytes:
            raise ValueError(f"a record may have {max_bytes} bytes, and this one has {len(self.content)}")


class Conflict(Exception):
    """The stored record has another version than the one to be replaced.

    Attributes:
        current: the stored record; None if there is none.
    """

    def __init__(self, current: Record | None) -> None:
        super().__init__("the record has changed meanwhile" if current else "the record is gone")
        self.current = current


class SessionStore(ABC):
    """Keeps the records of one kind for all nodes of the cluster.

    Every method ends in bounded time. It raises :class:`~ha_session_mw.exceptions.StoreUnavailable` if the answer cannot be known,
    or the change cannot be made durable, in that time. A put or delete that raised it may have been done nevertheless.

    Attributes:
        max_bytes: the largest content.
        poll_now: calls ``on_newer`` for everything that is known elsewhere by now, without waiting; never raises. Called before a copy
            of a record is used. None if the store calls ``on_newer`` by itself as soon as it has news.
    """

    max_bytes: int
    poll_now: Callable[[], None] | None = None

    @abstractmethod
    async def get(self, id: str) -> Record | None:
        """Return the present record; None if there certainly is none. A record that has ended may or may not be there."""

    @abstractmethod
    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        """Store a record in place of the one with the same ``version`` (0: of none), and return it with its new version.

        Durable on return. One atomic step: no reader finds neither record.

        Args:
            record: the record.
            guard: a lock that must still be held.

        Raises:
            Conflict: another version is stored, or none.
            LockLost: the guard's lock was granted anew or released, or its lease is over. Nothing was written.
            ValueError: the content is larger than ``max_bytes``.
        """

    @abstractmethod
    async def delete(self, id: str) -> None:
        """Remove a record of any version. It is no error if there is none."""

    @abstractmethod
    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        """Return a subject's records in the order of their ids, beginning behind the id ``after``, at most ``limit``."""

    async def run(self) -> None:
        """Run the store's background work until cancelled: remove ended records, follow the writes of others."""
        return


# Locks.


@dataclass(frozen=True, slots=True)
class Grant:
    """The proof that a lock is held.

    Attributes:
        name: of the lock.
        fence: the fencing number. It grows with each grant of this name, and is never used again.
        until_s: the end of the lease for its holder (boot-time clock), counted from before the request.
        holder: the random name of this one grant. It is not the name of a node.
    """

    name: str = field(repr=False)
    fence: int
    until_s: float
    holder: str = field(repr=False)


class LockService(ABC):
    """Locks, each held by one holder at a time in the whole cluster.

    A holder whose lease is over may still believe that it holds the lock. The fencing number keeps it from doing harm:
    :meth:`SessionStore.put` checks it (Kleppmann 2016, How to do distributed locking).
    """

    @abstractmethod
    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        """Return a grant of the lock, as soon as no other holder has it. Waiters are served roughly in the order in which they came.

        Returns or raises soon after ``within_s``, even if the service is unreachable.

        A caller that is cancelled, or whose time is over, leaves neither a lock nor a place in the queue behind. If a caller dies, its
        lock or place ends by its lease.

        Args:
            name: of the lock.
            within_s: the longest wait. 0: do not wait if others hold the lock or wait for it.
            lease_s: how long the lock stays held unless it is renewed or released. A service may grant a longer lease.

        Raises:
            SessionLocked: others held the lock all the time.
            StoreUnavailable: the holder of the lock cannot be known.
        """

    @abstractmethod
    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        """Return the same lock, with the same fencing number and a lease that begins now.

        Args:
            grant: the present grant.
            lease_s: no longer than the one with which it was acquired.

        Raises:
            LockLost: the lock was released, or its lease was over, so another holder may have it, or may have had it.
            StoreUnavailable: the holder cannot be known. The grant is good until its end.
        """

    @abstractmethod
    async def release(self, grant: Grant) -> None:
        """Release a lock to the next waiter. It is no error if the lock is no longer held.

        Never raises: a lock that cannot be released ends with its lease.
        """

    async def run(self) -> None:
        """Run the service's background work until cancelled."""
        return


# The backend.


class Backend(ABC):
    """Opens the services that the nodes of a cluster share: a log, and perhaps a store of records and locks.

    One backend may serve several nodes of a process. Each thing that it opens belongs to one node. Opening waits for nothing. All
    methods raise :class:`~ha_session_mw.exceptions.ConfigurationError` if the settings cannot be used.

    A forked process opens everything anew.

    Attributes:
        scheme: the backend's name in ``HA_SESSION_CLUSTER``, shown to operators.
        takes_workers: whether several processes may have the same settings. Each process then adds a random part to ``node_id``.
        hears_others: whether a request that waits may learn from other nodes (:meth:`ClusterLog.wait_changed`).
    """

    scheme: str
    takes_workers: bool = True
    hears_others: bool = False

    @abstractmethod
    def open_log(self, view: View, clock: Clock, own: Heartbeat, peering: PeerCalls | None, *, on_event: OnEvent) -> ClusterLog:
        """Open the log of one node.

        Args:
            view: the node's knowledge, into which the log merges entries.
            clock: the node's two clocks.
            own: the constant parts of the node's heartbeat.
            peering: the node's calls to other nodes; None without ``HA_SESSION_ADVERTISE_URL``.
            on_event: see :data:`OnEvent`. The log may call it from now on.
        """

    def open_locks(self, clock: Clock) -> LockService | None:  # noqa: ARG002 - there are none here
        """Open the lock service for one node; None if the backend has no locks.

        Args:
            clock: the node's two clocks.
        """
        return None

    def open_store(
        self,
        kind: str,  # noqa: ARG002 - a backend need not have a store
        clock: Clock,  # noqa: ARG002
        locks: LockService | None,  # noqa: ARG002
        *,
        on_newer: OnNewer,  # noqa: ARG002
        on_gap: OnGap,  # noqa: ARG002
    ) -> SessionStore | None:
        """Open the store of one kind of records for one node; None if the backend has no store.

        Args:
            kind: ``session`` or ``device``. Records of both kinds may have the same id.
            clock: the node's two clocks.
            locks: the service that :meth:`open_locks` returned. Its grants may guard a put.
            on_newer: see :data:`OnNewer`. The store may call it from now on.
            on_gap: see :data:`OnGap`. The store may call it from now on.
        """
        return None
