"""``memory://``: the locks of one process, and the reference for the other backends. A release wakes the next request at once."""

from __future__ import annotations

import math
from itertools import count

import anyio
import anyio.lowlevel
import msgspec

from ...abc import Clock, Grant
from ...exceptions import LockLost
from ..common.queued_locks import Admission, QueuedLocks, Ticket


class _Ticket(Ticket, eq=False):
    """A ticket that waits has no end: it is there for as long as its task is."""

    number: int = 0
    until_s: float = math.inf
    gone: anyio.Event = msgspec.field(default_factory=anyio.Event)


class MemoryLocks(QueuedLocks):
    """The queues of one process."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._queues: dict[str, list[_Ticket]] = {}
        # An app may have handed a number to a store that outlives this process, so the next process begins above all of them.
        self._numbers = count(int(clock.wall_s() * 1_000_000))

    async def _enter(self, name: str, lease_s: float, end_s: float) -> Ticket:
        number = next(self._numbers)
        ticket = _Ticket(name, str(number), lease_s, end_s, self._clock.boot_s(), number=number)
        self._queues.setdefault(name, []).append(ticket)
        return ticket

    async def _stand(self, ticket: Ticket) -> Admission:
        await anyio.lowlevel.checkpoint()
        now_s, queue = self._clock.boot_s(), self._queues[ticket.name]
        while queue[0].until_s <= now_s:
            queue.pop(0).gone.set()
        ahead = next(place for place, one in enumerate(queue) if one is ticket)
        own = queue[ahead]
        if not ahead:
            own.kept_s, own.until_s = now_s, now_s + own.lease_s
        return Admission(ahead, own.number)

    async def _wait_for_news(self, ticket: Ticket, admission: Admission) -> None:
        before = self._queues[ticket.name][admission.ahead - 1]
        with self._clock.move_on_after(min(ticket.end_s, before.until_s) - self._clock.boot_s()):
            await before.gone.wait()

    async def _extend(self, grant: Grant, lease_s: float) -> None:
        self._held(grant).until_s = self._clock.boot_s() + lease_s

    async def _leave(self, name: str, holder: str) -> None:
        queue = self._queues.get(name, [])
        for ticket in [ticket for ticket in queue if ticket.holder == holder]:
            queue.remove(ticket)
            ticket.gone.set()
        if not queue:
            self._queues.pop(name, None)

    def _held(self, grant: Grant) -> _Ticket:
        for ticket in self._queues.get(grant.name, [])[:1]:
            if ticket.number == grant.fence and self._clock.boot_s() < ticket.until_s:
                return ticket
        raise LockLost("the lock was released, or its lease is over")

    def require(self, grant: Grant) -> None:
        """Return if the lock is still held. A store asks in the same step in which it writes.

        Raises:
            LockLost: it is not.
        """
        self._held(grant)
