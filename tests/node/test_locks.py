"""Locks as an app uses them: kept while it works, let go whatever happens, lost when the holder stood still, and counted."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import anyio
import pytest

from ha_session_mw import LockLost, NotSupported, SessionLocked, SessionManager, Settings, StoreUnavailable, UsageError
from ha_session_mw._node.locks import LEASE_S, Locks
from ha_session_mw.abc import Grant
from ha_session_mw.backends.memory.locks import MemoryLocks
from ha_session_mw.testing import SECRET, ManualClock

pytestmark = pytest.mark.anyio


class FlakyLocks(MemoryLocks):
    """A service that can be cut off, or hang, like one behind a network."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.cut_off = self.hanging = False
        self.renewals = 0

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        self.renewals += 1
        if self.hanging:
            await anyio.sleep_forever()
        if self.cut_off:
            raise StoreUnavailable("cut off")
        return await super().renew(grant, lease_s=lease_s)


@pytest.fixture
def service(clock: ManualClock) -> FlakyLocks:
    return FlakyLocks(clock)


@pytest.fixture
def locks(service: FlakyLocks, clock: ManualClock) -> Locks:
    return Locks(service, clock, "memory")


def loses_it() -> AbstractContextManager[object]:
    return pytest.raises(LockLost)


async def pass_time(clock: ManualClock, seconds: float) -> None:
    """Advance the clock in small steps, so that each task runs when it is due."""
    await anyio.wait_all_tasks_blocked()
    for _ in range(round(seconds / 0.25)):
        clock.advance(0.25)
        await anyio.wait_all_tasks_blocked()


def lock(locks: Locks, name: str = "x", timeout_s: float = 0, lease_s: float = LEASE_S) -> Any:
    return locks.lock(name, timeout_s=timeout_s, lease_s=lease_s)


async def is_free(locks: Locks, name: str = "x") -> bool:
    try:
        async with lock(locks, name):
            return True
    except SessionLocked:
        return False


# Kept


async def test_a_lock_is_renewed_for_as_long_as_the_work_takes(locks: Locks, clock: ManualClock) -> None:
    async with lock(locks):
        await pass_time(clock, 10 * LEASE_S)
        assert not await is_free(locks)
    assert await is_free(locks)


async def test_a_renewal_that_fails_is_tried_again_until_the_lease_is_over(locks: Locks, service: FlakyLocks, clock: ManualClock) -> None:
    async with lock(locks):
        service.cut_off = True
        await pass_time(clock, LEASE_S * 0.75)
        service.cut_off = False
        await pass_time(clock, 2 * LEASE_S)
        assert not await is_free(locks)
    assert service.renewals < 20


# Lost


@pytest.mark.parametrize("trouble", ["cut_off", "hanging"])
async def test_work_under_a_lock_that_cannot_be_renewed_is_cancelled_before_anybody_else_can_have_it(
    trouble: str, locks: Locks, service: FlakyLocks, clock: ManualClock
) -> None:
    ended_s: list[float] = []

    async def work() -> None:
        with loses_it():
            async with lock(locks) as grant:
                setattr(service, trouble, True)
                try:
                    await anyio.sleep_forever()
                finally:
                    assert clock.boot_s() == grant.until_s
                    ended_s.append(clock.boot_s())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        await pass_time(clock, LEASE_S - 0.25)
        assert not ended_s
        await pass_time(clock, 0.25)
        assert ended_s
    assert locks.lost == 1
    assert locks.held == 0


async def test_a_holder_that_was_paused_past_its_lease_gets_an_error_by_the_end_at_the_latest(
    locks: Locks, service: FlakyLocks, clock: ManualClock
) -> None:
    with loses_it():
        async with lock(locks) as grant:
            clock.advance(LEASE_S + 1)  # the whole process stood still, so no lease was renewed
            with loses_it():
                service.require(grant)
    assert (locks.lost, locks.held) == (1, 0)


async def test_a_paused_holder_and_its_successor_are_told_apart_by_the_fencing_number(
    locks: Locks, service: FlakyLocks, clock: ManualClock
) -> None:
    other = Locks(service, clock, "memory")
    with loses_it():
        async with lock(locks) as paused:
            clock.advance(LEASE_S)
            async with lock(other) as successor:
                assert successor.fence > paused.fence
                service.require(successor)
                with loses_it():
                    service.require(paused)
    assert await is_free(other)


# Let go


async def test_a_failure_of_the_work_reaches_its_caller_as_it_is_and_the_lock_is_let_go(locks: Locks) -> None:
    failure = KeyError("of the app's own")
    with pytest.raises(KeyError) as caught:
        async with lock(locks):
            raise failure
    assert caught.value is failure
    assert await is_free(locks)


async def test_work_that_is_cancelled_lets_the_lock_go(locks: Locks) -> None:
    with anyio.CancelScope() as scope:
        async with lock(locks):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await is_free(locks)
    assert locks.held == 0


async def test_a_cancelled_waiter_leaves_the_lock_to_the_others(locks: Locks) -> None:
    async def wait() -> None:
        async with lock(locks, timeout_s=60):
            pytest.fail("had it")

    async with anyio.create_task_group() as tasks, lock(locks):
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert locks.waiting == 1
        tasks.cancel_scope.cancel()
    assert (locks.waiting, locks.held) == (0, 0)
    assert await is_free(locks)


async def test_fifty_waiters_get_the_lock_one_after_the_other_in_their_order(locks: Locks) -> None:
    served: list[int] = []

    async def wait(number: int) -> None:
        async with lock(locks, timeout_s=60):
            served.append(number)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks, lock(locks):
        for number in range(50):
            tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
        assert served == []
    assert served == [*range(50)]


# Counted, and refused


async def test_waits_are_counted_by_how_long_they_took(locks: Locks, clock: ManualClock) -> None:
    async def wait(timeout_s: float) -> None:
        with ExitStack() as stack:
            if timeout_s < 1:
                stack.enter_context(pytest.raises(SessionLocked))
            async with lock(locks, timeout_s=timeout_s):
                pass

    async with anyio.create_task_group() as tasks, lock(locks):
        tasks.start_soon(wait, 0.5)
        tasks.start_soon(wait, 60)
        await pass_time(clock, 2)
        assert locks.status()["held"] == 1
        assert locks.status()["waiting"] == 1
    assert locks.status() == {
        "held": 0,
        "waiting": 0,
        "timed_out": 1,
        "lost": 0,
        "wait_seconds": {"0.001": 1, "0.005": 1, "0.025": 1, "0.1": 1, "0.5": 2, "2.5": 3, "10": 3, "+Inf": 3},
        "waited_s": 2.5,
    }


async def test_the_manager_has_locks_and_tells_of_them_without_names() -> None:
    manager = SessionManager(Settings(secret_key=SECRET))
    async with manager.lock("canary") as grant:
        assert grant.fence > 0
        assert "canary" not in repr(grant)
        status = await manager.status()
        assert status["locks"]["held"] == 1  # type: ignore[index]
        assert "canary" not in repr(status)
        with pytest.raises(SessionLocked):
            async with manager.lock("canary", timeout=0):
                pytest.fail("had it twice")


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("", {}),
        ("x" * 513, {}),
        ("x", {"timeout": -1}),
        ("x", {"lease": 0}),
        ("x", {"lease": math.inf}),
        ("x", {"timeout": math.nan}),
        ("half \ud800", {}),
    ],
)
async def test_a_name_or_time_that_is_none_is_refused(name: str, times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lock must have 1 to 512|need timeout >= 0 and lease > 0|must be text"):
        async with SessionManager(Settings(secret_key=SECRET)).lock(name, **times):
            pytest.fail("had it")


@pytest.mark.parametrize("time", [None, "5s", 5j])
@pytest.mark.parametrize("which", ["timeout", "lease"])
async def test_a_time_that_is_no_number_is_refused_by_name(which: str, time: Any) -> None:
    with pytest.raises(TypeError, match=f"^{which} must be a number of seconds, got "):
        async with SessionManager(Settings(secret_key=SECRET)).lock("x", **{which: time}):
            pytest.fail("had it")


async def test_without_an_engine_there_are_no_locks_and_the_error_names_the_engines_that_have_them() -> None:
    urls = tuple(f"http://{name}.test" for name in "abc")
    manager = SessionManager(Settings(secret_key=SECRET, cluster="peers://", peers=urls, advertise_url=urls[0], node_id="a"))
    with pytest.raises(NotSupported, match=r"peers:// has no locks; memory://, sqlite:// and etcd:// have them"):
        async with manager.lock("x"):
            pytest.fail("had it")


async def test_a_refused_event_loop_cannot_wait_for_a_lock(service: FlakyLocks, clock: ManualClock) -> None:
    def elsewhere() -> None:
        raise UsageError("another event loop")

    with pytest.raises(UsageError, match="another event loop"):
        async with Locks(service, clock, "etcd", require_loop=elsewhere).lock("x", timeout_s=1, lease_s=1):
            pytest.fail("had it")
