"""``memory://`` beyond the contracts: the memory that it takes, and numbers that grow on in the next process."""

from __future__ import annotations

import anyio
import pytest
from msgspec.structs import replace

from ha_session_mw.abc import Record
from ha_session_mw.backends.memory.locks import MemoryLocks
from ha_session_mw.backends.memory.store import PRUNE_EVERY_S, RECORD_OVERHEAD_BYTES, MemoryRecords, MemoryStore
from ha_session_mw.exceptions import StoreUnavailable
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

pytestmark = pytest.mark.anyio


async def test_fencing_numbers_and_versions_grow_on_in_a_process_that_is_started_later(clock: ManualClock) -> None:
    async def given() -> tuple[int, int]:
        locks, store = MemoryLocks(clock), MemoryStore(MemoryRecords(clock))
        fence = (await locks.acquire("x", within_s=0, lease_s=60)).fence
        return fence, (await store.put(Record("id", b"", 1 << 50))).version

    before = await given()
    clock.advance(1)
    after = await given()
    assert before[0] < after[0]
    assert before[1] < after[1]


async def test_a_released_lock_takes_no_memory(clock: ManualClock) -> None:
    locks = MemoryLocks(clock)
    await locks.release(await locks.acquire("x", within_s=0, lease_s=60))
    assert locks._queues == {}


async def test_a_full_store_replaces_a_record_by_one_that_is_no_longer(clock: ManualClock) -> None:
    store = MemoryStore(MemoryRecords(clock, max_stored_bytes=RECORD_OVERHEAD_BYTES + 10))
    record = await store.put(Record("id", b"0123456789", 1 << 50))
    record = await store.put(replace(record, content=b"9876543210"))
    with pytest.raises(StoreUnavailable):
        await store.put(replace(record, content=b"0123456789+"))


SIZE = RECORD_OVERHEAD_BYTES + 10


def records_of(clock: ManualClock, *, most: int, visitors: int | None) -> MemoryRecords:
    """Records with room for so many of ten bytes."""
    return MemoryRecords(clock, max_stored_bytes=most * SIZE, max_visitors_bytes=visitors and visitors * SIZE)


async def test_visitors_fill_their_share_and_no_more_and_the_oldest_makes_room(clock: ManualClock) -> None:
    store = MemoryStore(records_of(clock, most=6, visitors=3))
    for user in range(3):
        await store.put(Record(f"user{user}", b"0123456789", 1 << 50, "ada"))
    first = await store.put(Record("visitor0", b"0123456789", 1 << 50))
    for visitor in range(1, 3):
        await store.put(Record(f"visitor{visitor}", b"0123456789", 1 << 50))
    await store.put(replace(first, content=b"9876543210"))
    for visitor in range(3, 100):
        await store.put(Record(f"visitor{visitor}", b"0123456789", 1 << 50))
        if visitor == 3:
            assert await store.get("visitor1") is None
            assert await store.get("visitor0") is not None
    found = [name for name in (f"visitor{visitor}" for visitor in range(100)) if await store.get(name)]
    assert found == ["visitor97", "visitor98", "visitor99"]
    assert all([await store.get(f"user{user}") for user in range(3)])


async def test_visitors_records_go_before_a_user_is_refused(clock: ManualClock) -> None:
    store = MemoryStore(records_of(clock, most=4, visitors=2))
    for visitor in range(2):
        await store.put(Record(f"visitor{visitor}", b"0123456789", 1 << 50))
    for user in range(4):
        await store.put(Record(f"user{user}", b"0123456789", 1 << 50, "ada"))
    assert await store.get("visitor1") is None
    with pytest.raises(StoreUnavailable):
        await store.put(Record("user4", b"0123456789", 1 << 50, "ada"))
    with pytest.raises(StoreUnavailable):
        await store.put(Record("visitor2", b"0123456789", 1 << 50))


async def test_records_without_a_subject_that_are_no_visitors_stay(clock: ManualClock) -> None:
    store = MemoryStore(records_of(clock, most=2, visitors=None))
    await store.put(Record("roster", b"0123456789", 1 << 50))
    await store.put(Record("another", b"0123456789", 1 << 50))
    with pytest.raises(StoreUnavailable):
        await store.put(Record("third", b"0123456789", 1 << 50))
    assert await store.get("roster") is not None


async def test_a_record_is_not_needed_any_more_from_its_very_end_on(clock: ManualClock) -> None:
    records = MemoryRecords(clock)
    store = MemoryStore(records)
    await store.put(Record("id", b"", int(clock.wall_s() * 1000)))
    records.prune()
    assert await store.get("id") is None


async def test_ended_records_are_forgotten_periodically(clock: ManualClock) -> None:
    store = MemoryStore(MemoryRecords(clock))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        await until_nothing_moves()
        await store.put(Record("id", b"", int(clock.wall_s() * 1000)))
        clock.advance(PRUNE_EVERY_S)
        await until_nothing_moves()
        assert await store.get("id") is None
        tasks.cancel_scope.cancel()
