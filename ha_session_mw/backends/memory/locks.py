"""The locks of one process, and the reference of how the others behave: who comes takes a ticket, and the lowest one has the lock.

The ticket's number is the fencing number. Whoever is before it has left, or held the lock for longer than the lease, so
numbers are granted in their order, and one that has been passed over is never granted again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count

import anyio
import anyio.lowlevel

from ...abc import Clock, Grant, LockService
from ...exceptions import LockLost, SessionLocked


@dataclass(eq=False, slots=True)
class _Ticket:
    """A place in the queue. One that waits is there for as long as its task is."""

    number: int
    until_s: float = math.inf
    gone: anyio.Event = field(default_factory=anyio.Event)


class MemoryLocks(LockService):
    """Knows at once when somebody leaves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, list[_Ticket]] = {}
        # An app may have handed a number to a store that outlives this process, so the next one begins above all of its.
        self._numbers = count(int(clock.wall_s() * 1_000_000))

    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        ticket = _Ticket(next(self._numbers))
        self._queues.setdefault(name, []).append(ticket)
        try:
            await self._wait_for_turn(name, ticket, self._clock.boot_s() + within_s)
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._leave(name, ticket)
            raise
        return self._give(name, ticket, lease_s)

    async def _wait_for_turn(self, name: str, ticket: _Ticket, end_s: float) -> None:
        while (before := self._before(name, ticket)) is not None:
            now_s = self._clock.boot_s()
            if now_s >= end_s:
                raise SessionLocked("others had the lock all the time")
            with self._clock.move_on_after(min(end_s, before.until_s) - now_s):
                await before.gone.wait()

    def _before(self, name: str, ticket: _Ticket) -> _Ticket | None:
        """Who is to leave before it is this one's turn."""
        queue = self._queues[name]
        while queue[0].until_s <= self._clock.boot_s():
            queue.pop(0).gone.set()
        place = queue.index(ticket)
        return queue[place - 1] if place else None

    def _leave(self, name: str, ticket: _Ticket) -> None:
        queue = self._queues.get(name, [])
        if ticket in queue:
            queue.remove(ticket)
            ticket.gone.set()
        if not queue:
            self._queues.pop(name, None)

    def _give(self, name: str, ticket: _Ticket, lease_s: float) -> Grant:
        ticket.until_s = self._clock.boot_s() + lease_s
        return Grant(name, ticket.number, ticket.until_s, str(ticket.number))

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        return self._give(grant.name, self._held(grant), lease_s)

    async def release(self, grant: Grant) -> None:
        for ticket in self._queues.get(grant.name, [])[:1]:
            if ticket.number == grant.fence:
                self._leave(grant.name, ticket)

    def _held(self, grant: Grant) -> _Ticket:
        for ticket in self._queues.get(grant.name, [])[:1]:
            if ticket.number == grant.fence and self._clock.boot_s() < ticket.until_s:
                return ticket
        raise LockLost("the lock was released, or its lease is over")

    def require(self, grant: Grant) -> None:
        """Return if a lock is held still: what a store asks in the same step in which it writes.

        Raises:
            LockLost: it is not.
        """
        self._held(grant)
