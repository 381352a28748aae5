"""Locks as an app uses them: acquired within a limit, renewed during the work, released in any case, and counted.

A :class:`~ha_session_mw.abc.LockService` decides which holder has a lock. This module does a holder's duties: it renews the lease
in time, and cancels the work if the lease is lost.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext

import anyio

from .._core.names import require_name
from .._core.tally import Tally
from ..abc import Clock, Grant, LockService
from ..exceptions import LockLost, NotSupported, SessionLocked, StoreUnavailable

TIMEOUT_S = 10.0
"""Default limit for acquiring a lock: as long as a person waits for an answer."""
LEASE_S = 6.0
"""Default lease: how long others wait for a holder that has crashed. It is shorter than ``TIMEOUT_S``. Renewed at a third, it outlasts
an election, which takes two seconds."""
RENEWALS = 3
"""Renewals per lease: one may be lost, and another one slow."""
RETRIES = 12
"""Tries per lease after a renewal has failed."""
HINT_S = 0.25
"""When a client whose request did not get the lock should try again. The next request waits for the lock by itself, so soon."""
LET_GO_S = 5.0
"""Limit for releasing a lock. Soon after that the lease is over anyway."""

WAIT_BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds of the buckets of waiting times, in seconds. A last bucket counts longer waits."""

NO_GUARD = nullcontext[None](None)
"""Guards a change that was made without a lock."""


class Hold:
    """A lock that this node holds.

    Attributes:
        grant: the grant as last renewed.
        lease_s: the lease of each renewal.
        kept: whether a task is renewing it.
        lost: whether the lease was over, or another holder had the lock, before the release.
    """

    def __init__(self, grant: Grant, lease_s: float) -> None:
        self.grant = grant
        self.lease_s = lease_s
        self.kept = False
        self.lost = False


class Locks:
    """The locks of a node.

    Args:
        service: grants the locks; None if the backend has none.
        clock: measures leases and waiting times.
        backend: the scheme of ``HA_SESSION_CLUSTER``. An error names a backend without locks by it.
        require_loop: raises UsageError in an event loop other than the node's.

    Attributes:
        held, waiting: how many locks this node holds, and waits for.
        waits: the seconds that each wait took, with or without the lock.
        timed_out, lost: how many locks were not acquired in time, and how many were lost while held.
    """

    def __init__(self, service: LockService | None, clock: Clock, backend: str, *, require_loop: Callable[[], None] = lambda: None) -> None:
        self._service = service
        self._require_loop = require_loop
        self._clock = clock
        self._backend = backend
        self.held = self.waiting = self.timed_out = self.lost = 0
        self.waits = Tally(WAIT_BOUNDS_S)

    def require(self) -> LockService:
        """Return the lock service.

        Raises:
            NotSupported: the backend has no locks.
        """
        if self._service is None:
            raise NotSupported(f"{self._backend}:// has no locks; memory://, sqlite:// and etcd:// have them")
        return self._service

    async def acquire(self, name: str, *, timeout_s: float, lease_s: float) -> Hold:
        """Acquire a lock. The caller must :meth:`release` it.

        Args:
            name: the lock's path: ``app/…`` or ``session/…``.
            timeout_s: the longest wait.
            lease_s: of the lock, and of each renewal.

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
            self.waits.observe(self._clock.boot_s() - begun_s)
        self.held += 1
        return Hold(grant, lease_s)

    async def confirm(self, hold: Hold) -> None:
        """Renew a lock, so that it is held for a whole lease from now on.

        Raises:
            LockLost: the lock is no longer held.
            StoreUnavailable: the holder cannot be known.
        """
        try:
            hold.grant = await self.require().renew(hold.grant, lease_s=hold.lease_s)
        except LockLost:
            self._mark_lost(hold)
            raise

    def guard(self, hold: Hold | None) -> AbstractContextManager[Grant | None]:
        """Yield the grant that guards a change made under a lock; None if the change was made without one.

        Raises:
            LockLost: the lock was lost before, or the store found it lost.
        """
        return NO_GUARD if hold is None else self._guard(hold)

    @contextmanager
    def _guard(self, hold: Hold) -> Iterator[Grant]:
        try:
            if hold.lost:
                raise LockLost("the lock was lost before the change was saved")
            yield hold.grant
        except LockLost:
            self._mark_lost(hold)
            raise

    def _mark_lost(self, hold: Hold) -> None:
        self.lost += not hold.lost
        hold.lost = True

    async def release(self, hold: Hold) -> None:
        """Release a lock to the next waiter. Never raises."""
        self.held -= 1
        with anyio.move_on_after(LET_GO_S, shield=True):
            await self.require().release(hold.grant)

    @asynccontextmanager
    async def keep(self, hold: Hold) -> AsyncIterator[None]:
        """Renew a lock while the block runs, and cancel the block if the lock is lost.

        Raises:
            LockLost: the lock was lost before the block ended.
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
            self._mark_lost(hold)
            raise LockLost("the lock's lease was over before the work was done")

    async def _renew_until_lost(self, hold: Hold, work: anyio.CancelScope) -> None:
        """Renew at a third of the lease, and more often while renewals fail. Ends with the lease at the latest."""
        pause_s = hold.lease_s / RENEWALS
        while (left_s := hold.grant.until_s - self._clock.boot_s()) > 0 and not hold.lost:
            await self._clock.sleep(min(pause_s, left_s))
            pause_s = hold.lease_s / (RENEWALS if await self._renew(hold) else RETRIES)
        self._mark_lost(hold)
        work.cancel()

    async def _renew(self, hold: Hold) -> bool:
        """Renew a lock; return whether that succeeded within its lease."""
        with self._clock.move_on_after(hold.grant.until_s - self._clock.boot_s()):
            try:
                await self.confirm(hold)
            except (LockLost, StoreUnavailable):
                return False
            return True
        return False

    @asynccontextmanager
    async def lock(self, name: str, *, timeout_s: float, lease_s: float) -> AsyncIterator[Grant]:
        """Hold a lock of the app's own while the block runs.

        Raises:
            SessionLocked, StoreUnavailable, NotSupported, TypeError, ValueError: the lock was not acquired, and the block did not run.
            LockLost: the lock was lost meanwhile, and the block cancelled.
        """
        require_name(name, "the name of a lock")
        hold = await self.acquire(f"app/{name}", timeout_s=timeout_s, lease_s=lease_s)
        try:
            async with self.keep(hold):
                yield hold.grant
        finally:
            await self.release(hold)

    async def run(self) -> None:
        """Run the lock service's background work until cancelled."""
        if self._service is not None:
            await self._service.run()

    def status(self) -> dict[str, object]:
        """Return the counts for operators and metrics. Holds no names."""
        return {
            "held": self.held,
            "waiting": self.waiting,
            "timed_out": self.timed_out,
            "lost": self.lost,
            "wait_seconds": dict(self.waits.cumulated()),
            "waited_s": self.waits.sum,
        }
