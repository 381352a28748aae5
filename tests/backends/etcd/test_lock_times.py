"""Time limits of locks on etcd, with a fake etcd and clock: when a request is answered, and which keys it leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from ha_session_mw import LockLost, SessionLocked, StoreUnavailable
from ha_session_mw.abc import Grant
from ha_session_mw.backends.etcd.api import KeyValue
from ha_session_mw.backends.etcd.gateway import CALL_S
from ha_session_mw.backends.etcd.locks import LAST_LOOK_S, LEAST_S, LET_GO_S, EtcdLocks, ticket_key
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from .fake_etcd import FakeEtcd, Lease

pytestmark = pytest.mark.anyio

GRANT, PUT, LOOK, KEEP, LEAVE = "/v3/lease/grant", "/v3/kv/txn", "/v3/kv/range", "/v3/lease/keepalive", "/v3/lease/revoke"
STEP_S = 0.05
SLACK_S = 2 * STEP_S
MARGIN_S = LAST_LOOK_S + LET_GO_S


@pytest.fixture
def etcd(clock: ManualClock) -> FakeEtcd:
    return FakeEtcd(clock)


@asynccontextmanager
async def opened(etcd: FakeEtcd, clock: ManualClock) -> AsyncIterator[EtcdLocks]:
    locks = EtcdLocks(clock, etcd.gateway(clock), "shop")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(locks.run)
        await until_nothing_moves()
        yield locks
        tasks.cancel_scope.cancel()


async def passing(clock: ManualClock, call: Callable[[], Awaitable[object]]) -> tuple[object, float]:
    """Return the result or failure of a call while time passes, and how long it took."""
    begun_s = clock.boot_s()
    found: list[object] = []

    async def run() -> None:
        try:
            found.append(await call())
        except (SessionLocked, StoreUnavailable) as exc:
            found.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await pass_time(clock, lambda: found)
    return found[0], clock.boot_s() - begun_s


async def pass_time(clock: ManualClock, until: Callable[[], object]) -> None:
    await until_nothing_moves()
    while not until():
        clock.advance(STEP_S)
        await until_nothing_moves()


async def acquire(locks: EtcdLocks, within_s: float, lease_s: float = 6.0) -> Grant:
    return await locks.acquire("x", within_s=within_s, lease_s=lease_s)


@pytest.mark.parametrize("frozen_at", [GRANT, PUT, LOOK])
@pytest.mark.parametrize("within_s", [0, 2, 30])
async def test_a_newcomer_to_a_frozen_etcd_gets_an_error_in_bounded_time(
    etcd: FakeEtcd, clock: ManualClock, frozen_at: str, within_s: float
) -> None:
    async with opened(etcd, clock) as locks:
        etcd.freezes_at = frozen_at
        told, took_s = await passing(clock, lambda: acquire(locks, within_s))
    assert isinstance(told, StoreUnavailable)
    assert took_s <= max(within_s, LEAST_S) + MARGIN_S + SLACK_S
    assert took_s <= CALL_S + MARGIN_S + SLACK_S


@pytest.mark.parametrize("frozen_at", [LOOK, KEEP])
@pytest.mark.parametrize("frozen_after_s", [0.5, 2.4, 3.9])
async def test_a_waiter_gets_an_error_soon_after_its_time_is_over_when_etcd_freezes(
    etcd: FakeEtcd, clock: ManualClock, frozen_at: str, frozen_after_s: float
) -> None:
    async with opened(etcd, clock) as locks, anyio.create_task_group() as tasks:
        await acquire(locks, 0, lease_s=60)

        async def freeze() -> None:
            with clock.move_on_after(frozen_after_s):
                await anyio.sleep_forever()
            etcd.freezes_at = frozen_at

        tasks.start_soon(freeze)
        told, took_s = await passing(clock, lambda: acquire(locks, 4))
    assert isinstance(told, StoreUnavailable if etcd.frozen else SessionLocked)
    assert 4 <= took_s <= 4 + MARGIN_S + SLACK_S


async def test_a_waiter_that_does_not_get_the_lock_gets_the_right_error_at_its_time_limit(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        await acquire(locks, 0, lease_s=60)
        for within_s in (0, 1, 10):
            told, took_s = await passing(clock, lambda within_s=within_s: acquire(locks, within_s))  # type: ignore[misc]
            assert isinstance(told, SessionLocked)
            assert within_s <= took_s <= within_s + SLACK_S


async def test_a_renewal_that_etcd_does_not_answer_fails_in_bounded_time(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0)
        etcd.freezes_at = KEEP
        told, took_s = await passing(clock, lambda: locks.renew(grant, lease_s=6))
    assert isinstance(told, StoreUnavailable)
    assert took_s <= LEAST_S + LAST_LOOK_S + SLACK_S


async def test_a_lock_that_is_let_go_while_etcd_stands_still_is_free_as_soon_as_it_goes_on(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0, lease_s=60)
        etcd.freezes_at = LEAVE
        _, took_s = await passing(clock, lambda: locks.release(grant))
        assert took_s <= LET_GO_S + SLACK_S
        await pass_time(clock, lambda: etcd.asked.count(LEAVE) == 4)
        etcd.freezes_at = ""
        etcd.frozen = False  # the earlier requests are lost
        await pass_time(clock, lambda: not etcd.keys)
        assert (await acquire(locks, 0)).fence > grant.fence


async def test_a_request_that_etcd_took_too_late_keeps_no_place_in_the_queue(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        etcd.freezes_at = PUT
        told, _ = await passing(clock, lambda: acquire(locks, 0, lease_s=60))
        assert isinstance(told, StoreUnavailable)
        etcd.thaw()
        await pass_time(clock, lambda: not etcd.leases)
        await acquire(locks, 0)


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_cancelled_waiter_leaves_in_bounded_time_and_keeps_no_place(etcd: FakeEtcd, clock: ManualClock, frozen: bool) -> None:
    async def give_up() -> None:
        with clock.move_on_after(3):
            await acquire(locks, 60)

    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0, lease_s=60)
        etcd.freezes_at = LEAVE if frozen else ""
        _, took_s = await passing(clock, give_up)
        assert took_s <= 3 + (LET_GO_S if frozen else 0) + SLACK_S
        etcd.thaw()
        assert [*etcd.leases] == [int(grant.holder, 16)]


async def test_a_lock_that_is_released_after_the_end_is_logged_and_raises_no_error(
    etcd: FakeEtcd, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0)
    await locks.release(grant)
    assert "a lock is free later, at the end of its lease" in caplog.text


# Leases


@pytest.mark.parametrize("lease_s", [0.3, 1.0, 1.5, 6.0])
async def test_a_lease_is_over_for_its_holder_a_second_before_it_is_for_etcd(etcd: FakeEtcd, clock: ManualClock, lease_s: float) -> None:
    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0, lease_s=lease_s)
        [lease] = etcd.leases.values()
        assert grant.until_s == clock.boot_s() + lease_s
        assert grant.until_s + 1 <= lease.end_s < grant.until_s + 2
        clock.advance(lease_s / 3)
        renewed = await locks.renew(grant, lease_s=lease_s)
        assert renewed.until_s == clock.boot_s() + lease_s
        assert renewed.until_s + 1 <= lease.end_s < renewed.until_s + 2


async def test_a_lease_counts_from_before_etcd_was_asked(clock: ManualClock) -> None:
    class SlowToAnswer(FakeEtcd):
        """Let both clocks go on before etcd hears of the call."""

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            clock.advance(0.2)
            return await super().handle_async_request(request)

    async with opened(SlowToAnswer(clock), clock) as locks:
        begun_s = clock.boot_s()
        grant = await acquire(locks, 0)
        assert grant.until_s == begun_s + 6
        begun_s = clock.boot_s()
        assert (await locks.renew(grant, lease_s=6)).until_s == begun_s + 6


async def test_a_long_waiter_keeps_its_place_and_its_lease_counts_from_the_last_renewal(etcd: FakeEtcd, clock: ManualClock) -> None:
    found: list[Grant] = []

    async def wait() -> None:
        found.append(await acquire(locks, 60, lease_s=3))

    async with opened(etcd, clock) as locks, anyio.create_task_group() as tasks:
        first = await acquire(locks, 0, lease_s=60)
        tasks.start_soon(wait)
        begun_s = clock.boot_s()
        await pass_time(clock, lambda: clock.boot_s() >= begun_s + 20)
        assert etcd.asked.count(KEEP) in (19, 20)  # three times in a lease, and no more: each is a write
        await locks.release(first)
        await pass_time(clock, lambda: found)
    assert clock.boot_s() + 3 - 1 - SLACK_S <= found[0].until_s <= clock.boot_s() + 3
    assert found[0].fence > first.fence
    assert etcd.asked.count(PUT) == 2


async def test_a_place_that_was_lost_while_etcd_stood_still_is_taken_anew(etcd: FakeEtcd, clock: ManualClock) -> None:
    found: list[Grant] = []

    async def wait() -> None:
        found.append(await acquire(locks, 60, lease_s=1))

    async with opened(etcd, clock) as locks, anyio.create_task_group() as tasks:
        first = await acquire(locks, 0, lease_s=60)
        tasks.start_soon(wait)
        begun_s = clock.boot_s()
        await pass_time(clock, lambda: clock.boot_s() >= begun_s + 1)
        etcd.frozen = True
        await pass_time(clock, lambda: clock.boot_s() >= begun_s + 4)
        etcd.frozen = False
        await locks.release(first)
        await pass_time(clock, lambda: found)
        [lease] = etcd.leases.values()
        assert lease.keys == {key for key in etcd.keys if key.endswith(b"/" + found[0].holder.encode())}
        assert clock.boot_s() < found[0].until_s


async def test_a_place_whose_answer_was_lost_is_taken_once_so_guarded_data_can_be_written(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        etcd.loses = PUT
        await passing(clock, lambda: acquire(locks, 0))
        [place] = etcd.keys.values()
        assert etcd.asked.count(PUT) == 2
        assert place.mod_revision == place.create_revision


@pytest.mark.parametrize("key_stays", [False, True])
async def test_a_place_that_etcd_has_ended_too_early_is_left_for_another_one(etcd: FakeEtcd, clock: ManualClock, key_stays: bool) -> None:
    async with opened(etcd, clock) as locks, anyio.create_task_group() as tasks:
        await acquire(locks, 0, lease_s=60)
        tasks.start_soon(acquire, locks, 60, 3)
        await until_nothing_moves()
        [_, lost] = etcd.leases
        if key_stays:
            del etcd.leases[lost]  # its keys are deleted a moment later
        else:
            etcd.end_lease(lost)
        begun_s = clock.boot_s()
        await pass_time(clock, lambda: etcd.asked.count(PUT) == 3 or clock.boot_s() > begun_s + 10)
        assert clock.boot_s() - begun_s <= (1 if key_stays else 0) + SLACK_S  # when it keeps the lease, or when it looks
        tasks.cancel_scope.cancel()


async def test_a_lock_that_was_let_go_cannot_be_renewed(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as locks:
        grant = await acquire(locks, 0)
        await locks.release(grant)
        with pytest.raises(LockLost):
            await locks.renew(grant, lease_s=6)


async def test_those_far_back_in_the_queue_look_more_rarely_and_twice_a_second_at_the_least(etcd: FakeEtcd, clock: ManualClock) -> None:
    looks: list[int] = []
    async with opened(etcd, clock) as locks:
        for ahead in (1, 10, 100):
            while len(etcd.keys) < ahead:
                number = 1000 + len(etcd.keys)
                key = ticket_key("shop", "x", f"{number:x}")
                etcd.leases[number], etcd.keys[key] = Lease(1000, clock.boot_s() + 1000), KeyValue(key, b"", 1, 1)
            etcd.asked.clear()
            told, took_s = await passing(clock, lambda: acquire(locks, 5, lease_s=60))
            assert isinstance(told, SessionLocked)
            assert took_s <= 5 + SLACK_S
            looks.append(etcd.asked.count(LOOK))
    assert looks[0] > 60  # each 10 to 20 ms, in steps of the clock's 50
    assert 25 <= looks[1] < 60
    assert 10 <= looks[2] <= 25
