"""``memory://`` beyond the contracts: the memory that it takes, and numbers that grow on in the next process."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

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
