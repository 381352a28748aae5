"""The ports: what the manager asks of a clock, a log of the cluster, a store of records, a service of locks, and of what brings these.

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
"""By how much a wall clock may move against the boot-time clock, being slewed, before somebody looks whether it is right."""

MAX_RECORD_BYTES = 1 << 20
"""Of one record, on each store of this package: etcd takes a little more in one request, and each change writes all of it."""

PeerHandler = Callable[[bytes], Awaitable[bytes]]
"""Answers a call of another member. Raises ValueError for a body that it cannot read."""


class PeerFailure(Exception):
    """A call got no answer that can be used. ``str()`` names the reason in words of ours, never the peer's.

    Attributes:
        fault: what the peer did, as it is counted.
    """

    def __init__(self, reason: str, fault: Fault = "refused") -> None:
        super().__init__(reason)
        self.fault: Fault = fault


HELLO = "hello"
"""The call that asks which process is there; the answer is its nonce. Nobody asks but a node that looks at its own URL."""


class PeerCalls(Protocol):
    """Signed calls between the nodes of a cluster."""

    @property
    def faults(self) -> PeerFaults:
        """Counts what the other members did wrong."""
        ...

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        """Return what the peer answers.

        Raises:
            PeerFailure: it did not answer in time, or not as a member of this cluster does.
        """
        ...

    def handle(self, name: str, handler: PeerHandler) -> None:
        """Have calls of this name answered by a handler."""
        ...


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


OnEvent = Callable[[ClusterEvent], None]
"""Takes what happens to the cluster; returns at once and never raises.

A log calls it once for each turn, in order: members that join, drain and leave; entries can no longer become durable
(``LostQuorum``), or can again (``FoundQuorum``), noticed without an append where possible; acknowledged entries may be lost.
It does not report what the node reads from the log itself: revoked sessions, staleness, an untrusted clock.
"""

OnNewer = Callable[[str, int], None]
"""Takes the id and the version of a record that any node has put, or version 0 of one that any node has deleted.

Returns at once and never raises. A store calls it as soon as it has the news.
"""

OnGap = Callable[[], None]
"""Says that records may have changed without a call of :data:`OnNewer`, so copies of them are worthless.

Returns at once and never raises. A store calls it when it begins to follow what others write, and after each time it could not.
"""


def ignore(*_: object) -> None:
    """Take a callback's arguments and do nothing: a store whose records nobody copies needs no more."""


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
        poll_now: brings the view, and how fresh it is, up to what is known elsewhere by now, without waiting for anybody; never
            raises. Called on the way of each request, before anything is read from the view. None where news come by themselves.
    """

    freshness_limit_s: float
    trusted_ahead_ms: float
    poll_now: Callable[[], None] | None = None

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
    async def wait_changed(self) -> None:
        """Return when this node may have learned something since the call began.

        Called again and again while the view is stale, so it lets time pass where nothing is new.
        """

    @abstractmethod
    def tick(self) -> None:
        """Bring the view up to what can be told without waiting. Called now and then; never raises."""

    @abstractmethod
    def trusts_clock(self) -> bool:
        """Whether this node's wall clock agrees with the cluster's; sets ``trusted_ahead_ms`` if so. Else it neither mints nor judges."""

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


# Records: what is too large for a token, or must be found by its subject.


@dataclass(frozen=True, slots=True)
class Record:
    """What a store keeps under one id.

    Attributes:
        id: of the session's family, or another one that nobody can guess.
        content: opaque bytes.
        until_ms: from when on it is not needed any more (wall clock).
        subject: whom it can be listed by; None for a visitor's.
        version: grows with each put, and is never given again for this id, not even after a delete. 0: not stored yet.
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
    """A record is not of the version that was to be replaced.

    Attributes:
        current: what is stored instead; None if nothing is.
    """

    def __init__(self, current: Record | None) -> None:
        super().__init__("the record has changed meanwhile" if current else "the record is gone")
        self.current = current


class SessionStore(ABC):
    """Keeps the records of one kind for all nodes of the cluster.

    Every method returns in bounded time, or raises :class:`~ha_session_mw.exceptions.StoreUnavailable` when it cannot be
    known, or cannot be made durable, in that time. A put or delete that raised it may have been done all the same.

    Attributes:
        max_bytes: the longest content.
        poll_now: calls ``on_newer`` for everything that is known elsewhere by now, without waiting; never raises. Called before a copy
            of a record is used. None if the store calls ``on_newer`` by itself as soon as it has news.
    """

    max_bytes: int
    poll_now: Callable[[], None] | None = None

    @abstractmethod
    async def get(self, id: str) -> Record | None:
        """The record as it stands; None if there is none, for certain. One that has ended may be there still, or not."""

    @abstractmethod
    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        """Store a record in the place of the one that has its ``version`` (0: of none); returns it with its new version.

        Durable on return. One atomic step: nobody sees a moment without either.

        Args:
            guard: a lock that must not have been granted to anybody else since.

        Raises:
            Conflict: another version is stored, or none.
            LockLost: the guard's lock was granted anew or released, or its lease is over. Nothing was written.
            ValueError: the content is longer than ``max_bytes``.
        """

    @abstractmethod
    async def delete(self, id: str) -> None:
        """Remove a record, whatever its version. Nothing to remove is no error."""

    @abstractmethod
    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        """The records of a subject in the order of their ids, those after the id ``after``, ``limit`` at the most."""

    async def run(self) -> None:
        """What the store does besides (removing what has ended, following what others write), until it is cancelled."""
        return


# Locks.


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock that is held.

    Attributes:
        name: of the lock.
        fence: the fencing number: grows with each grant of this name, and is never given again.
        until_s: when the lease is over for its holder (boot-time clock), counted from before it was asked for.
        holder: names this one holding of it: random, and not that of a node.
    """

    name: str = field(repr=False)
    fence: int
    until_s: float
    holder: str = field(repr=False)


class LockService(ABC):
    """Locks that one holder has at a time, on whichever node.

    A holder whose lease is over may still think that it holds the lock: what keeps it from doing harm is the fencing
    number, which :meth:`SessionStore.put` checks (Kleppmann 2016, How to do distributed locking).
    """

    @abstractmethod
    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        """The lock, as soon as nobody else has it; those who wait are served in the order in which they came, by and large.

        Who waits is answered soon after that time at the latest, also where it cannot be known who has the lock.

        A caller who is cancelled, or whose time is over, leaves nothing behind: neither a lock nor a place in the queue. Of one
        that dies, what is left ends by itself.

        Args:
            within_s: how long to wait at the most. 0: not at all, if others have it or wait for it.
            lease_s: how long the lock is held unless it is renewed or released. A service may give it for longer.

        Raises:
            SessionLocked: others had it all the time.
            StoreUnavailable: it cannot be known who has it.
        """

    @abstractmethod
    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        """The same lock, with the same fencing number, for so long from now on.

        Args:
            lease_s: no longer than when it was acquired.

        Raises:
            LockLost: it was released, or its lease was over, so that somebody else may have, or have had, it.
            StoreUnavailable: it cannot be known. The grant is good until its end.
        """

    @abstractmethod
    async def release(self, grant: Grant) -> None:
        """Let the next one have it. A lock that is held no more is no error. Never raises; what cannot be let go ends by its lease."""

    async def run(self) -> None:
        """What the service does besides, until it is cancelled."""
        return


# What brings all of these.


class Backend(ABC):
    """Where the nodes of a cluster keep what they share: a log; a store of records and locks, if it has them.

    One may serve several nodes of a process. Whatever it opens is opened without waiting for anybody, and used by one node.
    All methods raise :class:`~ha_session_mw.exceptions.ConfigurationError` where that cannot be, as it is set up.

    Attributes:
        scheme: names it, as in ``HA_SESSION_CLUSTER``, to operators.
        takes_workers: whether several processes may have the same settings. Each then adds to the node's name that they give.
        hears_others: whether news of other nodes come while a request waits for them (:meth:`ClusterLog.wait_changed`).
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
        """The locks; None where there are none."""
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
