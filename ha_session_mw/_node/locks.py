"""Locks as an app uses them: waited for with a limit, kept while it works, let go whatever happens, and counted.

Who has a lock is decided by a service (:class:`~ha_session_mw.abc.LockService`). Here is what a holder owes to others: to
renew in time, and to stop by itself when that fails.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from .._core.names import require_name
from ..abc import Clock, Grant, LockService
from ..exceptions import LockLost, NotSupported, SessionLocked, StoreUnavailable

TIMEOUT_S = 10.0
"""How long to wait for a lock: as long as a person waits for an answer."""
LEASE_S = 6.0
"""How long others wait for a holder that has crashed. Less than they wait in all; and renewed at a third of it, it outlasts an
election, which takes two seconds."""
RENEWALS = 3
"""How many renewals a lease has time for: one may be lost, and one more be slow."""
RETRIES = 12
"""How many times in a lease a renewal is tried that could not be had."""
HINT_S = 0.25
"""After which a client whose request could not have a lock is to try again: the request waits by itself from then on."""
LET_GO_S = 5.0
"""How long to try to let a lock go. After that its lease is over soon."""

WAIT_BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""The upper ends of the intervals in which waiting times are counted; what is longer has a last one of its own."""


class Hold:
    """A lock that somebody has.

    Attributes:
        grant: as it was renewed last.
        lease_s: how long each renewal is for.
        kept: whether it is being renewed.
        lost: whether its lease was over, or others had it, before it was released.
    """

    def __init__(self, grant: Grant, lease_s: float) -> None:
        self.grant = grant
        self.lease_s = lease_s
        self.kept = False
        self.lost = False


class Locks:
    """The locks of a node.

    Args:
        service: who decides; None where the backend has no locks.
        clock: for leases and waiting times.
        backend: the scheme of ``HA_SESSION_CLUSTER``, to tell what has no locks.
        require_loop: raises UsageError in an event loop in which a lock cannot be waited for.

    Attributes:
        held, waiting: how many this node has, and waits for.
        waits: how many were waited for, by :data:`WAIT_BOUNDS_S`, whether they were had in the end or not.
        waited_s: how long that was in all.
        timed_out, lost: how many were not had in time, and lost while they were held.
    """

    def __init__(self, service: LockService | None, clock: Clock, backend: str, *, require_loop: Callable[[], None] = lambda: None) -> None:
        self._service = service
        self._require_loop = require_loop
        self._clock = clock
        self._backend = backend
        self.held = self.waiting = self.timed_out = self.lost = 0
        self.waits = [0] * (len(WAIT_BOUNDS_S) + 1)
        self.waited_s = 0.0

    def require(self) -> LockService:
        """The service.

        Raises:
            NotSupported: there is none.
        """
        if self._service is None:
            raise NotSupported(f"{self._backend}:// has no locks; memory://, sqlite:// and etcd:// have them")
        return self._service

    async def acquire(self, name: str, *, timeout_s: float, lease_s: float) -> Hold:
        """A lock, to be let go by :meth:`release`.

        Args:
            name: with what it is of, as a path: ``app/…`` or ``session/…``.

        Raises:
            SessionLocked, StoreUnavailable: as :meth:`LockService.acquire`.
            NotSupported: this backend has no locks.
            TypeError, ValueError: a time is no number of seconds, or too small.
        """
        service = self.require()
        for which, time_s in (("timeout", timeout_s), ("lease", lease_s)):
            if not isinstance(time_s, (int, float)):
                raise TypeError(f"{which} must be a number of seconds, got {time_s!r}")
        self._require_loop()
        if not (timeout_s >= 0 and 0 < lease_s < math.inf):
            raise ValueError(f"need timeout >= 0 and lease > 0, and a lease that ends, got {timeout_s!r}, {lease_s!r}")
        begun_s = self._clock.boot_s()
        self.waiting += 1
        try:
            grant = await service.acquire(name, within_s=timeout_s, lease_s=lease_s)
        except SessionLocked as locked:
            self.timed_out += 1
            raise SessionLocked(locked.reason, retry_after_s=HINT_S) from None
        finally:
            self.waiting -= 1
            self._note_wait(self._clock.boot_s() - begun_s)
        self.held += 1
        return Hold(grant, lease_s)

    def _note_wait(self, seconds: float) -> None:
        self.waits[bisect_left(WAIT_BOUNDS_S, seconds)] += 1
        self.waited_s += seconds

    async def confirm(self, hold: Hold) -> None:
        """Make sure that a lock is held still, for a whole lease from now on.

        Raises:
            LockLost: it is not.
            StoreUnavailable: that cannot be known.
        """
        try:
            hold.grant = await self.require().renew(hold.grant, lease_s=hold.lease_s)
        except LockLost:
            self._note_lost(hold)
            raise

    @contextmanager
    def guard(self, hold: Hold | None) -> Iterator[Grant | None]:
        """The grant for a store to ask for, around a change that was made under a lock; None around one that was not.

        Raises:
            LockLost: the lock was lost before, or the store says so.
        """
        if hold is None:
            yield None
            return
        try:
            if hold.lost:
                raise LockLost("the lock was lost before the change was saved")
            yield hold.grant
        except LockLost:
            self._note_lost(hold)
            raise

    def _note_lost(self, hold: Hold) -> None:
        self.lost += not hold.lost
        hold.lost = True

    async def release(self, hold: Hold) -> None:
        """Let the next one have it. Never raises."""
        self.held -= 1
        with anyio.move_on_after(LET_GO_S, shield=True):
            await self.require().release(hold.grant)

    @asynccontextmanager
    async def keep(self, hold: Hold) -> AsyncIterator[None]:
        """Renews a lock while what is inside runs. When it is lost, what is inside is cancelled.

        Raises:
            LockLost: it was lost before what is inside had ended.
        """
        failure: BaseException | None = None
        hold.kept = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew_until_lost, hold, tasks.cancel_scope)
                try:
                    yield
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as exc:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
                    failure = exc
                tasks.cancel_scope.cancel()
        finally:
            hold.kept = False
        if failure is not None:
            raise failure
        if hold.lost or self._clock.boot_s() >= hold.grant.until_s:
            self._note_lost(hold)
            raise LockLost("the lock's lease was over before the work was done")

    async def _renew_until_lost(self, hold: Hold, work: anyio.CancelScope) -> None:
        """Renew at a third of the lease, and more often while that fails. Never later than the lease's end."""
        pause_s = hold.lease_s / RENEWALS
        while (left_s := hold.grant.until_s - self._clock.boot_s()) > 0 and not hold.lost:
            with self._clock.move_on_after(min(pause_s, left_s)):
                await anyio.sleep_forever()
            pause_s = hold.lease_s / (RENEWALS if await self._renew(hold) else RETRIES)
        self._note_lost(hold)
        work.cancel()

    async def _renew(self, hold: Hold) -> bool:
        """Whether a lock could be renewed within its lease. That it is lost is noted."""
        with self._clock.move_on_after(hold.grant.until_s - self._clock.boot_s()):
            try:
                await self.confirm(hold)
            except (LockLost, StoreUnavailable):
                return False
            return True
        return False

    @asynccontextmanager
    async def lock(self, name: str, *, timeout_s: float, lease_s: float) -> AsyncIterator[Grant]:
        """A lock of the app's for as long as what is inside runs.

        Raises:
            SessionLocked, StoreUnavailable, NotSupported, TypeError, ValueError: it cannot be had, and nothing ran.
            LockLost: it was lost meanwhile; what ran inside was cancelled.
        """
        require_name(name, "the name of a lock")
        hold = await self.acquire(f"app/{name}", timeout_s=timeout_s, lease_s=lease_s)
        try:
            async with self.keep(hold):
                yield hold.grant
        finally:
            await self.release(hold)

    async def run(self) -> None:
        """What the service does besides, until it is cancelled."""
        if self._service is not None:
            await self._service.run()

    def status(self) -> dict[str, object]:
        """For an operator, and for metrics. Holds no names."""
        waits = {f"{bound_s:g}": sum(self.waits[: number + 1]) for number, bound_s in enumerate(WAIT_BOUNDS_S)}
        return {
            "held": self.held,
            "waiting": self.waiting,
            "timed_out": self.timed_out,
            "lost": self.lost,
            "wait_seconds": {**waits, "+Inf": sum(self.waits)},
            "waited_s": self.waited_s,
        }
