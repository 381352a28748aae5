"""Session data on a fake etcd and clock: when each listener hears of a change, and which keys are listed and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import anyio
import pytest
from msgspec.structs import replace

from ha_session_mw import StoreUnavailable
from ha_session_mw.abc import Record, SessionStore
from ha_session_mw.backends.etcd.store import EtcdStore
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from .fake_etcd import FakeEtcd
from .test_lock_times import SLACK_S, passing

pytestmark = pytest.mark.anyio


@pytest.fixture
def etcd(clock: ManualClock) -> FakeEtcd:
    return FakeEtcd(clock)


@asynccontextmanager
async def opened(etcd: FakeEtcd, clock: ManualClock) -> AsyncIterator[EtcdStore]:
    numbers = count()
    store = EtcdStore(clock, etcd.gateway(clock), "shop", "session", lambda size: next(numbers).to_bytes(size))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        await until_nothing_moves()
        yield store
        tasks.cancel_scope.cancel()


def record(clock: ManualClock, id: str = "id", *, for_s: float = 60) -> Record:
    return Record(id, b"content", int((clock.wall_s() + for_s) * 1000), "ada")


CALLS: dict[str, Callable[[SessionStore, ManualClock], Awaitable[object]]] = {
    "get": lambda store, _: store.get("id"),
    "put": lambda store, clock: store.put(record(clock)),
    "delete": lambda store, _: store.delete("id"),
    "of_subject": lambda store, _: store.of_subject("ada"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_the_first_request_to_a_paused_etcd_waits_three_seconds_and_the_next_ones_one(
    etcd: FakeEtcd, clock: ManualClock, call: Callable[[SessionStore, ManualClock], Awaitable[object]]
) -> None:
    async with opened(etcd, clock) as store:
        for _ in range(2):
            etcd.frozen = True
            for limit_s in (3, 1, 1):
                told, took_s = await passing(clock, lambda: call(store, clock))
                assert isinstance(told, StoreUnavailable)
                assert limit_s <= took_s <= limit_s + SLACK_S
            etcd.frozen = False
            await store.get("another")  # it is well again


async def test_the_keys_of_a_record_go_an_hour_after_its_end_at_the_earliest_and_share_a_lease_with_others_of_that_hour(
    etcd: FakeEtcd, clock: ManualClock
) -> None:
    async with opened(etcd, clock) as store:
        clock.advance(3600 - clock.wall_s() % 3600)  # an hour begins
        for id, for_s in (("a", 10.0), ("b", 3600.0), ("c", 3601.0)):
            await store.put(record(clock, id, for_s=for_s))
        first, second = etcd.leases.values()
        assert {len(first.keys), len(second.keys)} == {6, 3}
        assert first.end_s == clock.boot_s() + 2 * 3600
        assert second.end_s == clock.boot_s() + 3 * 3600
        clock.advance(2 * 3600)
        assert await store.get("a") is None
        assert await store.get("c") is not None


async def test_a_record_that_ended_long_ago_can_still_be_put(etcd: FakeEtcd, clock: ManualClock) -> None:
    async with opened(etcd, clock) as store:
        await store.put(record(clock, for_s=-100_000))
        [lease] = etcd.leases.values()
        assert lease.ttl_s == 3600


async def test_a_list_is_as_long_as_was_asked_for_though_some_on_the_way_belong_to_another_subject_now(
    etcd: FakeEtcd, clock: ManualClock
) -> None:
    async with opened(etcd, clock) as store:
        stored = [await store.put(record(clock, f"{number}")) for number in range(7)]
        for number in (0, 2):
            await store.put(replace(stored[number], subject="grace"))
        assert await store.of_subject("ada", limit=3) == [stored[1], stored[3], stored[4]]
        assert await store.of_subject("ada", after="4", limit=3) == stored[5:]
