"""Records as one node sees them: which copy is good enough, and for how long; and that no answer is older than the question."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from ha_session_mw import StoreUnavailable
from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._core.records.session_data import ELSEWHERE, Stored
from ha_session_mw._core.token import data
from ha_session_mw._node.peer_copies import Copy, decode_copy
from ha_session_mw._node.record_copies import COPY_OVERHEAD_BYTES, RecordCopies
from ha_session_mw._node.record_deletions import DELETE_AGAIN_S, DELETIONS_AT_ONCE, DELETIONS_PER_S, LIST_LIMIT_S
from ha_session_mw._node.records import Loaded, Records
from ha_session_mw._node.recoveries import Recoveries
from ha_session_mw._peering.asking import Asking
from ha_session_mw.abc import Grant, OnNewer, Record
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.events import ClusterEvent
from ha_session_mw.models import Claims, Deny
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves
from ha_session_mw.version import PROTOCOL

from ..core.builders import claims
from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio


class SlowStore(MemoryStore):
    """Reads at once, and answers when it is let: ``held`` counts the answers that wait."""

    slow = False
    held = 0
    reads = 0

    def __init__(self, records: MemoryRecords, *, on_newer: OnNewer) -> None:
        super().__init__(records, on_newer=on_newer)
        self.let = anyio.Event()

    async def get(self, id: str) -> Record | None:
        self.reads += 1
        found = await super().get(id)
        if self.slow:
            self.held += 1
            await self.let.wait()
        return found


class Rig:
    """A node's records, another node's store, and a session in it."""

    def __init__(self, clock: ManualClock, *, asking: Asking[Copy] | None = None, **bounds: Any) -> None:
        shared = MemoryRecords(clock)
        self.copies = RecordCopies(clock, **{"most": 10, "max_bytes": 1 << 20, "ttl_s": 300.0, **bounds})
        self.store, self.other = SlowStore(shared, on_newer=self.copies.hear), MemoryStore(shared)
        self.told: list[ClusterEvent] = []
        self.recoveries = Recoveries(self.told.append)
        self.records = Records(self.store, self.copies, clock, self.recoveries, asking=asking)

    async def write(self, content: dict[str, object], family: str = "family") -> Claims:
        """Another node writes; returns the claims of its answer's token."""
        current = await self.other.get(family)
        stored = Stored(current.version if current else 0, data.encode(content), b"origin")
        record = await self.other.put(Record(family, stored.encode(), 1 << 50, version=stored.version))
        return msgspec.structs.replace(claims(family=family), record=record.version, data=ELSEWHERE)

    async def load(self, of: Claims, peers: Sequence[str] = ()) -> dict[str, object]:
        return data.decode((await self.loaded(of, peers)).stored.data)

    async def loaded(self, of: Claims, peers: Sequence[str] = ()) -> Loaded:
        return await self.records.load(of, lambda: peers, give_up=anyio.lowlevel.checkpoint, is_revoked=lambda: False)


@pytest.fixture
def rig(clock: ManualClock) -> Rig:
    return Rig(clock)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.records.run)
        await until_nothing_moves()
        yield tasks
        tasks.cancel_scope.cancel()


async def test_a_copy_is_good_for_its_version_and_earlier_ones_and_until_somebody_replaces_it(rig: Rig) -> None:
    first = await rig.write({"n": 1})
    second = await rig.write({"n": 2})
    assert [await rig.load(of) for of in (second, first, second)] == [{"n": 2}] * 3
    assert rig.store.reads == 1
    third = await rig.write({"n": 3})
    assert [await rig.load(of) for of in (second, third)] == [{"n": 3}] * 2
    assert rig.store.reads == 2


async def test_a_copy_is_not_good_for_a_token_that_needs_a_later_version_though_this_node_has_not_heard_of_that(rig: Rig) -> None:
    await rig.load(await rig.write({"n": 1}))
    rig.other._records.stores.discard(rig.store)
    assert await rig.load(await rig.write({"n": 2})) == {"n": 2}


async def test_a_record_that_cannot_be_deleted_with_its_session_is_deleted_when_the_store_is_back(rig: Rig, clock: ManualClock) -> None:
    await rig.write({"n": 1})
    delete, tries = rig.store.delete, 0

    async def gone(id: str) -> None:
        nonlocal tries
        tries += 1
        await anyio.lowlevel.checkpoint()
        raise StoreUnavailable("as told")

    rig.store.delete = gone  # type: ignore[method-assign]
    async with running(rig):
        await rig.records.deletions.forget_soon("family")
        for expected in (1, 2):
            await until_nothing_moves()
            assert tries == expected
            clock.advance(DELETE_AGAIN_S)
        rig.store.delete = delete  # type: ignore[method-assign]
        await until_nothing_moves()
        clock.advance(DELETE_AGAIN_S)
        await until_nothing_moves()
        assert await rig.other.get("family") is None


async def test_a_single_log_out_deletes_its_record_at_once_and_those_of_a_storm_are_deleted_together(rig: Rig, clock: ManualClock) -> None:
    delete_all = rig.store.delete_all
    deleted: list[int] = []

    async def noted(ids: Collection[str]) -> None:
        deleted.append(len(ids))
        await delete_all(ids)

    rig.store.delete_all = noted  # type: ignore[method-assign]
    async with running(rig):
        for number in range(200):  # in a second
            await rig.records.deletions.forget_soon(f"family {number}")
            await until_nothing_moves()
            assert len(deleted) == number + 1 or number >= DELETIONS_AT_ONCE
            clock.advance(0.005)
        clock.advance(1 / DELETIONS_PER_S)
        await until_nothing_moves()
    assert sum(deleted) == 200
    assert len(deleted) <= DELETIONS_AT_ONCE + 2 * DELETIONS_PER_S


async def hang(*_: object, **__: object) -> Any:
    await anyio.sleep_forever()


async def test_a_log_out_does_not_wait_for_a_store_that_hangs(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    await rig.load(of)
    rig.store.delete = hang  # type: ignore[method-assign]
    async with running(rig):
        with anyio.fail_after(LIMIT_S):
            await rig.records.deletions.forget_soon("family")
        assert len(rig.copies) == 0


async def test_a_log_out_of_a_subject_learns_after_a_while_all_that_can_be_known(
    rig: Rig, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    records = [await rig.other.put(Record(f"family-{number}", b"", 1 << 50, "ada")) for number in range(3)]
    found: list[str] = []

    async def first_page(subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        return await hang() if after else records[:2]

    async def ask() -> None:
        found.extend(await rig.records.deletions.of_subject("ada"))

    rig.store.of_subject = first_page  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until_nothing_moves()
        clock.advance(LIST_LIMIT_S)
        await until_nothing_moves()
        assert found == ["family-0", "family-1"]
        tasks.cancel_scope.cancel()
    assert "cannot all be listed" in caplog.text


async def test_a_copy_ends(rig: Rig, clock: ManualClock) -> None:
    of = await rig.write({"n": 1})
    await rig.load(of)
    clock.advance(301)
    assert len(rig.copies) == 0
    await rig.load(of)
    assert rig.store.reads == 2


async def test_copies_are_bounded_in_number(clock: ManualClock) -> None:
    rig = Rig(clock, most=3)
    for number in range(5):
        await rig.load(await rig.write({"n": number}, f"family-{number}"))
    assert [*rig.copies] == ["family-2", "family-3", "family-4"]


async def test_copies_are_bounded_in_number_and_in_bytes(clock: ManualClock) -> None:
    rig = Rig(clock, most=3, max_bytes=4 * COPY_OVERHEAD_BYTES)
    families = [await rig.write({"n": number}, f"family-{number}") for number in range(5)]
    for of in families:
        await rig.load(of)
    assert len(rig.copies) == 3
    await rig.load(families[-1])
    assert rig.store.reads == 5
    large = await rig.write({"text": "x" * 2 * COPY_OVERHEAD_BYTES}, "large")
    await rig.load(large)
    assert [*rig.copies] == ["large"]
    too_large = await rig.write({"text": "x" * 4 * COPY_OVERHEAD_BYTES}, "too large")
    assert [await rig.load(too_large) for _ in range(2)] == [{"text": "x" * 4 * COPY_OVERHEAD_BYTES}] * 2
    assert rig.copies.version("too large") == too_large.record  # so an older one in a token is not taken for the last


async def test_the_copy_in_a_token_is_used_unless_a_later_version_has_been_heard_of(rig: Rig) -> None:
    written = await rig.write({"n": 1})
    in_token = msgspec.structs.replace(written, data=Stored(0, data.encode({"n": 1}), b"origin").encode())
    rig.copies.forget_all()
    assert await rig.load(in_token) == {"n": 1}
    assert rig.store.reads == 0
    await rig.write({"n": 2})
    assert await rig.load(in_token) == {"n": 2}
    assert rig.store.reads == 1


async def test_a_later_answer_does_not_give_way_to_an_earlier_one(rig: Rig) -> None:
    first = await rig.write({"n": 1})
    rig.store.slow = True
    found: list[dict[str, object]] = []

    async def ask() -> None:
        found.append(await rig.load(first))

    async with running(rig) as tasks:
        tasks.start_soon(ask)
        await until_nothing_moves()
        second = await rig.write({"n": 2})
        rig.store.slow = False
        assert await rig.load(second) == {"n": 2}
        rig.store.let.set()
        await until_nothing_moves()
        assert found == [{"n": 1}]  # it asked before
        reads = rig.store.reads
        assert await rig.load(first) == {"n": 2}
        assert rig.store.reads == reads


async def test_a_read_after_an_acknowledged_change_is_not_served_by_an_earlier_look_up(rig: Rig) -> None:
    first = await rig.write({"n": 1})
    rig.copies.forget_all()
    rig.store.slow = True
    found: list[tuple[str, dict[str, object]]] = []

    async def ask(name: str) -> None:
        found.append((name, await rig.load(first)))

    async with running(rig) as tasks:
        tasks.start_soon(ask, "before")
        await until_nothing_moves()
        rig.other._records.stores.discard(rig.store)  # and this node hears nothing
        await rig.write({"n": 2})
        tasks.start_soon(ask, "after")
        tasks.start_soon(ask, "after")
        await until_nothing_moves()
        assert rig.store.held == 1  # the later question waits for its turn, and is one for both
        rig.store.let.set()
        await until_nothing_moves()
    assert sorted(found, key=str) == [("after", {"n": 2}), ("after", {"n": 2}), ("before", {"n": 1})]
    assert rig.store.reads == 2


async def test_a_cancelled_caller_does_not_cancel_the_others(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    rig.copies.forget_all()
    rig.store.slow = True
    found: list[dict[str, object]] = []

    async def ask() -> None:
        found.append(await rig.load(of))

    async with running(rig) as tasks:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as impatient:
                impatient.start_soon(ask)
                await until_nothing_moves()
                tasks.start_soon(ask)
                await until_nothing_moves()
                scope.cancel()
        rig.store.let.set()
        await until_nothing_moves()
    assert found == [{"n": 1}]


async def test_a_record_that_was_deleted_while_it_was_read_is_not_kept(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    rig.copies.forget_all()
    rig.store.slow = True
    async with running(rig) as tasks:
        tasks.start_soon(rig.load, of)
        await until_nothing_moves()
        await rig.other.delete("family")
        rig.store.let.set()
        await until_nothing_moves()
        assert len(rig.copies) == 0
        assert await rig.loaded(of) == (Stored.in_token(data.encode({})).in_place_of(of.record, version=of.record + 1), True)


async def test_a_record_that_was_read_before_a_node_hears_of_changes_is_not_kept(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    rig.other._records.stores.discard(rig.store)
    assert await rig.load(of) == {"n": 1}
    await rig.write({"n": 2})
    rig.copies.forget_all()
    assert await rig.load(of) == {"n": 2}


async def test_a_record_read_or_written_while_a_node_begins_to_hear_of_changes_is_not_kept(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    rig.other._records.stores.discard(rig.store)

    async def gap() -> None:
        await rig.write({"n": "of others"})
        rig.copies.forget_all()

    get, put = rig.store.get, rig.store.put

    async def read(id: str) -> Record | None:
        found = await get(id)
        await gap()
        return found

    async def written(record: Record, *, guard: Grant | None = None) -> Record:
        stored = await put(record, guard=guard)
        await gap()
        return stored

    async def save() -> None:
        mine: dict[str, object] = {"n": "mine"}
        base = (await rig.loaded(of)).stored
        await rig.records.save(
            of,
            base,
            mine,
            data.encode(mine),
            strict=False,
            guard=None,
            ensure_valid=lambda: None,
            is_revoked=lambda: False,
        )

    rig.store.put = written  # type: ignore[method-assign]
    await save()
    assert await rig.load(of) == {"n": "of others"}

    for ask in (rig.load, rig.records.newest):
        rig.copies.forget_all()
        rig.store.get = read  # type: ignore[method-assign]
        await ask(of)
        rig.store.get = get  # type: ignore[method-assign]
        assert len(rig.copies) == 0


async def test_a_record_that_is_being_deleted_when_the_node_ends_is_deleted_when_it_is_started_again(rig: Rig) -> None:
    await rig.write({"n": 1})
    await rig.write({"n": 1}, family="another")
    delete = rig.store.delete

    async def hangs(id: str) -> None:
        await anyio.sleep_forever()

    rig.store.delete = hangs  # type: ignore[method-assign]
    async with running(rig):
        await rig.records.deletions.forget_soon("family")
        await rig.records.deletions.forget_soon("another")
        await until_nothing_moves()
    rig.store.delete = delete  # type: ignore[method-assign]
    async with running(rig):
        await until_nothing_moves()
    assert [await rig.other.get(id) for id in ("family", "another")] == [None, None]


async def test_all_waiting_callers_get_the_error(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    rig.copies.forget_all()
    told: list[str] = []

    async def gone(id: str) -> Record | None:
        await anyio.lowlevel.checkpoint()
        raise StoreUnavailable("as told")

    async def ask() -> None:
        try:
            await rig.load(of)
        except StoreUnavailable as problem:
            told.append(problem.reason)

    rig.store.get = gone  # type: ignore[method-assign]
    async with running(rig) as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
        await until_nothing_moves()
    assert told == ["as told"] * 3


def test_a_node_that_is_started_again_on_another_event_loop_goes_on(clock: ManualClock) -> None:
    rig = Rig(clock)

    async def once() -> None:
        of = await rig.write({"n": 1})
        async with running(rig):
            assert await rig.load(of) == {"n": 1}
            rig.records.deletions.on_news([Deny("family", 1 << 50)])
            await until_nothing_moves()
            assert rig.other._records.get("family") is None

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(once, backend=backend)


async def test_a_copy_from_before_a_time_without_news_is_not_used(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    await rig.load(of)
    rig.other._records.stores.discard(rig.store)
    await rig.write({"n": 2})
    async with running(rig):  # again, after the task that followed the news had crashed
        assert await rig.load(of) == {"n": 2}


@pytest.mark.parametrize(
    "answer",
    [
        Copy(PROTOCOL.highest, "yes", 1, Stored(0, data.encode({"n": "older"}), b"").encode()),
        Copy(PROTOCOL.highest, "yes", 1 << 60, b"garbage"),
        Copy(PROTOCOL.highest + 1, "yes", 1 << 60, Stored(0, data.encode({"n": "foreign"}), b"").encode()),
        Copy(PROTOCOL.highest, "unknown"),
    ],
)
async def test_a_peers_copy_counts_only_if_it_is_of_the_needed_version(clock: ManualClock, answer: Copy) -> None:
    async def call(peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        return msgspec.msgpack.encode(answer)

    rig = Rig(
        clock,
        asking=Asking(call, clock, PeerFaults(), timeout_s=0.25, name="record", version_for=lambda _: PROTOCOL.highest, decode=decode_copy),
    )
    of = await rig.write({"n": 1})
    assert await rig.load(of, ["peer"]) == {"n": 1}
    assert rig.store.reads == 1


async def test_a_peers_copy_older_than_the_newest_known_version_does_not_count(clock: ManualClock) -> None:
    first = 0

    async def call(peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        return msgspec.msgpack.encode(Copy(PROTOCOL.highest, "yes", first, Stored(0, data.encode({"n": 1}), b"").encode()))

    rig = Rig(
        clock,
        asking=Asking(call, clock, PeerFaults(), timeout_s=0.25, name="record", version_for=lambda _: PROTOCOL.highest, decode=decode_copy),
    )
    of = await rig.write({"n": 1})
    first = of.record
    await rig.write({"n": 2})
    assert await rig.load(of, ["peer"]) == {"n": 2}


async def test_a_peer_is_given_a_copy_that_is_good_enough_for_it_and_no_other(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    await rig.load(of)

    async def says(*question: object) -> str:
        return decode_copy(await rig.records.peer_copies.on_question(msgspec.msgpack.encode(question))).says

    assert [await says(PROTOCOL.highest, "family", of.record - number) for number in (0, 1)] == ["yes", "yes"]
    assert await says(PROTOCOL.highest, "family", of.record + 1) == "unknown"
    assert await says(PROTOCOL.highest, "another", of.record) == "unknown"
    assert await says(PROTOCOL.highest + 1, "family", of.record) == "unknown"
    with pytest.raises(ValueError, match="Expected"):
        await says("family")


async def test_a_store_that_looks_is_looked_into_before_a_copy_is_used(clock: ManualClock) -> None:
    rig = Rig(clock)
    rig.other._records.stores.discard(rig.store)
    news: list[int] = []

    def poll_now() -> None:
        for version in news:
            rig.copies.hear("family", version)

    rig.store.poll_now = poll_now
    rig.records = Records(rig.store, rig.copies, clock, rig.recoveries)
    of = await rig.write({"n": 1})
    await rig.load(of)
    later = await rig.write({"n": 2})
    assert await rig.load(of) == {"n": 1}
    news.append(later.record)
    assert await rig.load(of) == {"n": 2}


async def test_word_of_a_version_that_is_here_already_costs_no_copy(rig: Rig) -> None:
    """Of a node's own write it hears as of others', and afterwards."""
    first = await rig.write({"n": 1})
    await rig.load(first)
    for version in (first.record, first.record - 1):
        rig.copies.hear("family", version)
    assert await rig.load(first) == {"n": 1}
    assert rig.store.reads == 1
    await rig.write({"n": 2})
    assert await rig.load(first) == {"n": 2}
    assert rig.store.reads == 2


async def test_a_record_without_content_is_not_taken_for_an_empty_one(rig: Rig) -> None:
    of = await rig.write({"n": 1})
    await rig.other.put(Record("family", b"", 1 << 50, version=of.record))
    assert (await rig.loaded(of)).is_lost
