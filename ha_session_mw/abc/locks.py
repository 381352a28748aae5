"""The port of a lock service: locks with a lease and a fencing number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ..models import Reticent


class Grant(Reticent, frozen=True):
    """The proof that a lock is held.

    Attributes:
        name: of the lock.
        fence: the fencing number. It grows with each grant of this name, and is never used again.
        until_s: the end of the lease for its holder (boot-time clock), counted from before the request.
        holder: the random name of this one grant. It is not the name of a node.
    """

    _unshown: ClassVar[frozenset[str]] = frozenset({"name", "holder"})
    name: str
    fence: int
    until_s: float
    holder: str


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
