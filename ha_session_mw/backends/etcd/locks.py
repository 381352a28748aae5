"""``etcd://``: the locks of a cluster. A ticket is a key that hangs on a lease, and the key's create revision is its number.

etcd ends leases late rather than early (8 s became 16.9 s after a leader was killed), and grants nothing to others until then. So the
holder stops by its own clock, counted from before it asked, and a store asks for the key itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256

import anyio

from ..._node.background import Background
from ...abc import Clock, Grant
from ...exceptions import LockLost, StoreUnavailable
from ..common.queued_locks import Admission, QueuedLocks, Ticket
from .api import EtcdError, end_of, put, unchanged_since
from .gateway import EtcdGateway

logger = logging.getLogger("ha_session_mw.etcd")

DRIFT_S = 1.0
"""How much longer a lease is in etcd than its holder asked for: etcd counts whole seconds, and the two clocks differ."""
LEAST_S = 2.5
"""How long etcd has to answer a request that does not wait for others: longer than most elections take."""
LAST_LOOK_S = 0.5
"""How much longer etcd has for its answer to the last look, which takes milliseconds as a rule."""
LET_GO_S = 0.5
"""How long a release waits for etcd. The node goes on in the background, and a lease ends by itself."""
KEPT = 3
"""How many times during a lease a waiting ticket is kept."""


def ticket_key(prefix: str, name: str, holder: str) -> bytes:
    """Return the key of a ticket. The lock's name is hashed: it may be long, and may tell whose session it is."""
    return _queue(prefix, name) + holder.encode()


def guard_of(prefix: str, grant: Grant) -> Mapping[str, object]:
    """Return the comparison that a lock is still held, for the transaction that it guards."""
    return unchanged_since(ticket_key(prefix, grant.name, grant.holder), grant.fence)


def _queue(prefix: str, name: str) -> bytes:
    return f"{prefix}/lock/{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}/".encode()


class EtcdLocks(QueuedLocks):
    """One process's part in the queues.

    Args:
        clock: for leases, as their holder counts them, and for how long to wait.
        gateway: calls etcd.
        prefix: of all keys.
    """

    def __init__(self, clock: Clock, gateway: EtcdGateway, prefix: str) -> None:
        super().__init__(clock)
        self._gateway = gateway
        self._prefix = prefix
        self._leaving = Background()

    async def run(self) -> None:
        async with self._gateway.opened():
            await self._leaving.run()

    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        with self._asked(max(within_s, LEAST_S) + LAST_LOOK_S):
            return await super().acquire(name, within_s=within_s, lease_s=lease_s)
        raise StoreUnavailable("etcd gives no answer in time")

    async def _enter(self, name: str, lease_s: float, end_s: float) -> Ticket:
        begun_s = self._clock.boot_s()
        lease = (await self._gateway.grant_lease(math.ceil(lease_s + DRIFT_S))).id
        return Ticket(name, f"{lease:x}", lease_s, end_s, begun_s, begun_s + lease_s / KEPT)

    async def _join(self, ticket: Ticket) -> None:
        key = ticket_key(self._prefix, ticket.name, ticket.holder)
        await self._gateway.transact([put(key, b"", lease=int(ticket.holder, 16))], compare=[unchanged_since(key, 0)])

    async def _stand(self, ticket: Ticket) -> Admission:
        start, key = _queue(self._prefix, ticket.name), ticket_key(self._prefix, ticket.name, ticket.holder)
        numbers = {pair.key: pair.create_revision for pair in (await self._gateway.page(start, end_of(start))).kvs}
        own = numbers.get(key, 0)
        ahead = sum(not own or number < own for number in numbers.values())
        now_s = self._clock.boot_s()
        is_over = bool(ahead) and now_s >= ticket.end_s
        if now_s >= ticket.keep_at_s and not is_over:
            ticket.kept_s, ticket.keep_at_s = now_s, now_s + ticket.lease_s / KEPT
            if not await self._gateway.keep_lease(int(ticket.holder, 16)):
                own = 0  # etcd has ended the lease, for want of an answer in time
        return Admission(ahead, own)

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        with self._asked(LEAST_S + LAST_LOOK_S):
            return await super().renew(grant, lease_s=lease_s)
        raise StoreUnavailable("etcd gives no answer in time")

    async def _extend(self, grant: Grant, lease_s: float) -> None:  # noqa: ARG002 - etcd knows how long
        if not await self._gateway.keep_lease(int(grant.holder, 16)):
            raise LockLost("the lock was released, or its lease is over")

    async def _leave(self, name: str, holder: str) -> None:  # noqa: ARG002 - the lease is enough
        # A put that is still under way comes to nothing without its lease.
        left = anyio.Event()
        if not self._leaving.start(self._revoke, int(holder, 16), left):
            logger.warning("the locks of this node do not run; a lock is free later, at the end of its lease")
            return
        with anyio.CancelScope(shield=True), self._clock.move_on_after(LET_GO_S):
            await left.wait()

    async def _revoke(self, lease: int, left: anyio.Event) -> None:
        try:
            await self._gateway.revoke_lease(lease)
        except EtcdError as exc:
            logger.warning("etcd %s; a lock is free later, at the end of its lease", exc)
        left.set()

    @contextmanager
    def _asked(self, limit_s: float) -> Iterator[None]:
        """Limit how long the calls inside take together, and translate their errors."""
        try:
            with self._clock.move_on_after(limit_s):
                yield
        except EtcdError as exc:
            raise StoreUnavailable(f"etcd {exc}") from exc
