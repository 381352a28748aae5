"""The queue of a lock, for every backend: tickets in order, waiting with a limit, leases and fencing numbers.

A request takes a ticket. The lowest ticket of a name has the lock, and the ticket's number is the fencing number. Each ticket before it
was given up, or outlived its lease, so numbers are granted in their order. A backend keeps the tickets, and knows how news of a
release come.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ...abc import Clock, Grant, LockService
from ...exceptions import SessionLocked


class Admission(NamedTuple):
    """Where a ticket stands in its queue.

    Attributes:
        ahead: how many tickets come first; 0: this one has the lock.
        number: the fencing number; 0: the queue has lost the ticket.
    """

    ahead: int
    number: int


class Ticket(msgspec.Struct, eq=False):
    """One request for a lock, and its place in the queue.

    Attributes:
        name: of the lock.
        holder: names this one request; random or unique.
        lease_s: how long the lock is held once it is granted.
        end_s: until when the request waits (boot-time clock).
        kept_s: from when the lease counts: before the backend was asked for it.
        keep_at_s: when the ticket must be kept again, to stay good.
        is_given_up: whether the request has ended without the lock. A write for it that is still under way must come to nothing.
    """

    name: str
    holder: str
    lease_s: float
    end_s: float
    kept_s: float
    keep_at_s: float = math.inf
    is_given_up: bool = False


class QueuedLocks(LockService):
    """A lock service with a queue for each name.

    Args:
        clock: for leases, as their holder counts them, and for how long to wait.

    Attributes:
        look_s, most_look_s: how often the first in the queue looks, at most; each ticket ahead makes looks rarer by as much, down to
            the second.
    """

    look_s = 0.02
    most_look_s = 0.5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        end_s = self._clock.boot_s() + within_s
        while True:
            ticket = await self._enter(name, lease_s, end_s)
            try:
                await self._join(ticket)
                admission = await self._wait_for_turn(ticket)
            except BaseException:
                ticket.is_given_up = True
                await self._leave(ticket.name, ticket.holder)
                raise
            if admission.number:
                return Grant(name, admission.number, ticket.kept_s + lease_s, ticket.holder)

    async def _wait_for_turn(self, ticket: Ticket) -> Admission:
        """Return once the ticket has the lock, or was lost."""
        while True:
            admission = await self._stand(ticket)
            if admission.ahead and self._clock.boot_s() >= ticket.end_s:
                raise SessionLocked("others had the lock all the time")
            if not admission.ahead or not admission.number:
                return admission
            await self._wait_for_news(ticket, admission)

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        begun_s = self._clock.boot_s()
        await self._extend(grant, lease_s)
        return replace(grant, until_s=begun_s + lease_s)

    async def release(self, grant: Grant) -> None:
        await self._leave(grant.name, grant.holder)

    # The part that each backend implements

    @abstractmethod
    async def _enter(self, name: str, lease_s: float, end_s: float) -> Ticket:
        """Return a new ticket. If this raises, nothing of it is left."""

    async def _join(self, ticket: Ticket) -> None:  # noqa: ARG002 - most are there already
        """Put the ticket into the queue, if :meth:`_enter` or :meth:`_stand` does not."""
        return

    @abstractmethod
    async def _stand(self, ticket: Ticket) -> Admission:
        """Keep the ticket, and return where it stands. Sets ``kept_s`` and ``keep_at_s``."""

    async def _wait_for_news(self, ticket: Ticket, admission: Admission) -> None:
        """Return when the ticket may have the lock, or must be kept, or its time is over."""
        await self._pause(admission.ahead, min(ticket.end_s, ticket.keep_at_s))

    @abstractmethod
    async def _extend(self, grant: Grant, lease_s: float) -> None:
        """Extend the lease.

        Raises:
            LockLost: it is over, or the lock was released.
        """

    @abstractmethod
    async def _leave(self, name: str, holder: str) -> None:
        """Remove a ticket, and the lock with it. Never raises. A ticket that cannot be removed ends by its lease."""

    async def _pause(self, ahead: int, until_s: float) -> None:
        """Wait before the next look, until that time at the latest."""
        pause_s = min(self.look_s * ahead, self.most_look_s) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        await self._clock.sleep(min(pause_s, until_s - self._clock.boot_s()))
