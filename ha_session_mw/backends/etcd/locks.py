"""``etcd://``: the locks of a cluster. A place in the queue is a key that hangs on a lease; the oldest one has the lock.

Its create revision is the fencing number. etcd ends leases late rather than early (8 s became 16.9 s after a leader was killed), and
until then nobody else is granted anything; so the holder stops by its own clock, counted from before it asked, and a store asks for
the key itself.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from ...abc import Clock, Grant, LockService
from ...exceptions import LockLost, SessionLocked, StoreUnavailable
from .api import (
    EtcdError,
    KeyValue,
    end_of,
    put,
    unchanged_since,
)
from .gateway import EtcdGateway

logger = logging.getLogger("ha_session_mw.etcd")

DRIFT_S = 1.0
"""How much longer than asked for a lease is in etcd, for its clock and the holder's. It counts in whole seconds."""
LEAST_S = 2.5
"""How long etcd is given, also by those who will not wait for others: longer than an election takes, as a rule."""
LAST_LOOK_S = 0.5
"""How much longer, for its answer to a last look. That takes milliseconds."""
LET_GO_S = 0.5
"""How long whoever leaves waits for etcd, which is told without them after that. What it never hears of is free at the end of its lease."""
LOOK_S = 0.02
MOST_LOOK_S = 0.5
"""How often the next one looks, at the most; each one who comes first makes it so much rarer, down to twice a second."""
KEPT = 3
"""How many times in a lease a place is kept by one who waits."""


def place_key(prefix: str, name: str, holder: str) -> bytes:
    """Where a place in the queue for a lock is kept. Names may be long, and may tell whose session it is."""
    return _queue(prefix, name) + holder.encode()


def guard_of(prefix: str, grant: Grant) -> Mapping[str, object]:
    """That a lock is held still, as a comparison for the transaction that it guards."""
    return unchanged_since(place_key(prefix, grant.name, grant.holder), grant.fence)


def _queue(prefix: str, name: str) -> bytes:
    return f"{prefix}/lock/{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}/".encode()


class _Place(NamedTuple):
    """One attempt to get a lock.

    Attributes:
        name: of the lock.
        key: of the place.
        lease: what it hangs on.
        lease_s: how long the lock is to be held.
        end_s: until when to wait.
    """

    name: str
    key: bytes
    lease: int
    lease_s: float
    end_s: float


class EtcdLocks(LockService):
    """One process's part in the queues.

    Args:
        clock: for leases, as their holder counts them, and for how long to wait.
        gateway: calls etcd.
        prefix: below which all keys stand.
    """

    def __init__(self, clock: Clock, gateway: EtcdGateway, prefix: str) -> None:
        self._clock = clock
        self._gateway = gateway
        self._prefix = prefix
        self._leaving: TaskGroup | None = None

    async def run(self) -> None:
        async with self._gateway.opened(), anyio.create_task_group() as tasks:
            self._leaving = tasks
            try:
                await anyio.sleep_forever()
            finally:
                self._leaving = None

    async def acquire(self, name: str, *, within_s: float, lease_s: float) -> Grant:
        end_s = self._clock.boot_s() + within_s
        with self._asked(max(within_s, LEAST_S) + LAST_LOOK_S):
            while True:
                begun_s = self._clock.boot_s()
                lease = (await self._gateway.grant_lease(math.ceil(lease_s + DRIFT_S))).id
                place = _Place(name, place_key(self._prefix, name, f"{lease:x}"), lease, lease_s, end_s)
                try:
                    grant = await self._wait_for_grant(place, begun_s)
                except BaseException:
                    await self._leave(lease)
                    raise
                if grant is not None:
                    return grant
        raise StoreUnavailable("etcd gives no answer in time")

    async def _wait_for_grant(self, place: _Place, kept_s: float) -> Grant | None:
        """The lock; None where the place was lost, for want of an answer in time."""
        await self._gateway.transact([put(place.key, b"", lease=place.lease)], compare=[unchanged_since(place.key, 0)])
        while True:
            ahead, own = await self._stand(place)
            now_s = self._clock.boot_s()
            if ahead and now_s >= place.end_s:
                raise SessionLocked("others had the lock all the time")
            keep_s = kept_s + place.lease_s / KEPT
            if now_s >= keep_s:
                kept_s, keep_s = now_s, now_s + place.lease_s / KEPT
                if not await self._gateway.keep_lease(place.lease):
                    return None
            if own is None:
                return None
            if not ahead:
                return Grant(place.name, own.create_revision, kept_s + place.lease_s, f"{place.lease:x}")
            await self._pause(ahead, min(place.end_s, keep_s))

    async def _stand(self, place: _Place) -> tuple[int, KeyValue | None]:
        """How many places come before one, and that one itself."""
        start = _queue(self._prefix, place.name)
        pairs = (await self._gateway.page(start, end_of(start))).kvs
        own = next((pair for pair in pairs if pair.key == place.key), None)
        first = own.create_revision if own else math.inf
        return sum(pair.create_revision < first for pair in pairs), own

    async def _pause(self, ahead: int, end_s: float) -> None:
        """Until the next look, or that time."""
        pause_s = min(LOOK_S * ahead, MOST_LOOK_S) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        with self._clock.move_on_after(min(pause_s, end_s - self._clock.boot_s())):
            await anyio.sleep_forever()

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        begun_s = self._clock.boot_s()
        with self._asked(LEAST_S + LAST_LOOK_S):
            if not await self._gateway.keep_lease(int(grant.holder, 16)):
                raise LockLost("the lock was released, or its lease is over")
            return replace(grant, until_s=begun_s + lease_s)
        raise StoreUnavailable("etcd gives no answer in time")

    async def release(self, grant: Grant) -> None:
        await self._leave(int(grant.holder, 16))

    async def _leave(self, lease: int) -> None:
        """Give up the place, and the lock with it. A put that is on its way comes to nothing without its lease."""
        left = anyio.Event()
        if self._leaving is None:
            logger.warning("the locks of this node do not run; a lock is free later, at the end of its lease")
            return
        self._leaving.start_soon(self._revoke, lease, left)
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
        """Calls of etcd, with a limit for all of them; told in the words of the port."""
        try:
            with self._clock.move_on_after(limit_s):
                yield
        except EtcdError as exc:
            raise StoreUnavailable(f"etcd {exc}") from exc
