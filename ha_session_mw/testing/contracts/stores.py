"""The contract of a store as tests: each sentence of :class:`~ha_session_mw.abc.SessionStore`, run against a backend.

The contract of locks tests the effect of a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from msgspec.structs import replace

from ...abc import Clock, Conflict, Record, SessionStore
from ...exceptions import StoreUnavailable
from .harness import Contract, Harness, raises

HOUR_MS = 3_600_000
WRITERS = 8
CHANGES = 5


class News:
    """The changes that one store has reported to its node. Open the store with ``on_newer=news.on_newer, on_gap=news.on_gap``.

    Attributes:
        newer: ids and versions of the records that were put, or deleted (version 0).
        gaps: how often changes may have been missed.
    """

    def __init__(self) -> None:
        self.newer: set[tuple[str, int]] = set()
        self.gaps = 0

    def on_newer(self, id: str, version: int) -> None:
        self.newer.add((id, version))

    def on_gap(self) -> None:
        self.gaps += 1


class Stores(Harness):
    """The nodes on which a store is tested.

    Attributes:
        stores: each node's access to the same records; one, if the backend has only one.
        news: the reports of each store, in the same order.
        clock: of the nodes.
        can_fill: whether :meth:`fill` works.
        reads_when_broken: whether stored records can be read while nothing can be written.
    """

    stores: Sequence[SessionStore]
    news: Sequence[News]
    clock: Clock
    can_fill = False
    reads_when_broken = False

    async def hear(self, store: SessionStore, condition: Callable[[], bool]) -> None:
        """Let time pass until a condition holds, polling a store for news. Override it where time does not pass by itself."""

        def has_heard() -> bool:
            if store.poll_now is not None:
                store.poll_now()
            return condition()

        await self.wait_until(has_heard)

    async def break_off(self) -> None:
        """Keep the stores from making anything durable, until :meth:`mend`."""
        raise NotImplementedError

    async def mend(self) -> None:
        """Undo :meth:`break_off`."""
        raise NotImplementedError

    async def fill(self) -> None:
        """Leave no room for anything more."""
        raise NotImplementedError


class SessionStoreContract(Contract[Stores]):
    """The tests of a store.

    Example:
        >>> class TestMyStore(SessionStoreContract):
        ...     def opened(self) -> AbstractAsyncContextManager[Stores]:
        ...         return my_stores()
    """

    def _record(self, nodes: Stores, content: bytes = b"content", subject: str | None = None) -> Record:
        end_ms = int(nodes.clock.wall_s() * 1000) + HOUR_MS
        return Record(f"record-{next(self._numbers):06}", content, end_ms, subject)

    # get and put

    async def test_what_was_put_is_there_on_each_node_as_it_was(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                for store in nodes.stores:
                    for record in (self._record(nodes), self._record(nodes, b"", "ada"), self._record(nodes, bytes(range(256)), "ü~\n 'x")):
                        stored = await store.put(record)
                        assert stored == replace(record, version=stored.version)
                        assert stored.version > 0
                        assert [await other.get(record.id) for other in nodes.stores] == [stored] * len(nodes.stores)

            await nodes.run(story)

    async def test_what_is_not_there_is_none(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                for store in nodes.stores:
                    assert await store.get("record") is None
                    assert await store.get("") is None

            await nodes.run(story)

    async def test_a_put_replaces_the_version_that_it_names(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                stored = await nodes.stores[0].put(self._record(nodes, b"0", "ada"))
                for number, store in enumerate([*nodes.stores, *nodes.stores]):
                    changed = replace(stored, content=b"%d" % number, until_ms=stored.until_ms + 1, subject=f"subject {number}")
                    later = await store.put(changed)
                    assert later.version > stored.version
                    assert await nodes.stores[0].get(stored.id) == later
                    stored = later

            await nodes.run(story)

    async def test_a_put_onto_another_version_conflicts_and_changes_nothing(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                one, last = nodes.stores[0], nodes.stores[-1]
                first = await one.put(self._record(nodes, b"first"))
                second = await one.put(replace(first, content=b"second"))
                for version in (0, first.version, second.version + 1000):
                    assert await conflict(last, replace(first, content=b"third", version=version)) == second
                assert await last.get(first.id) == second

            await nodes.run(story)

    async def test_a_put_onto_nothing_conflicts_unless_it_expects_nothing(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                for store in nodes.stores:
                    record = self._record(nodes)
                    assert await conflict(store, replace(record, version=7)) is None
                    assert await store.get(record.id) is None

            await nodes.run(story)

    async def test_a_version_is_never_given_again_not_even_after_a_delete(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                record, seen = self._record(nodes), 0
                for store in [*nodes.stores] * 3:
                    stored = await store.put(record)
                    changed = await store.put(stored)
                    assert seen < stored.version < changed.version
                    seen = changed.version
                    await store.delete(record.id)
                    assert await conflict(store, changed) is None

            await nodes.run(story)

    async def test_many_records_are_deleted_together_whether_they_are_there_or_not(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                one, last = nodes.stores[0], nodes.stores[-1]
                kept = await one.put(self._record(nodes))
                there = [await one.put(self._record(nodes, subject="ada")) for _ in range(3)]
                missing = [f"missing {number}" for number in range(300)]
                await last.delete_all([*missing[:150], *(record.id for record in there), *missing[150:]])
                assert [await one.get(record.id) for record in (*there, kept)] == [None, None, None, kept]
                assert await one.of_subject("ada") == []
                await last.delete_all([])

            await nodes.run(story)

    async def test_one_of_many_puts_at_once_succeeds_and_the_others_conflict_with_it(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                base = await nodes.stores[0].put(self._record(nodes))
                through: list[Record] = []
                current: list[Record | None] = []

                async def write(number: int) -> None:
                    store = nodes.stores[number % len(nodes.stores)]
                    try:
                        through.append(await store.put(replace(base, content=b"%d" % number)))
                    except Conflict as exc:
                        current.append(exc.current)

                async with anyio.create_task_group() as tasks:
                    for number in range(WRITERS):
                        tasks.start_soon(write, number)
                assert len(through) == 1
                assert current == through * (WRITERS - 1)
                assert await nodes.stores[-1].get(base.id) == through[0]

            await nodes.run(story)

    async def test_many_writers_that_try_again_lose_nothing(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                record = await nodes.stores[0].put(self._record(nodes, b"0"))

                async def add_one(number: int) -> None:
                    store = nodes.stores[number % len(nodes.stores)]
                    for _ in range(CHANGES):
                        current = await store.get(record.id)
                        while current is not None:
                            try:
                                await store.put(replace(current, content=b"%d" % (int(current.content) + 1)))
                            except Conflict as exc:
                                current = exc.current
                            else:
                                break

                async with anyio.create_task_group() as tasks:
                    for number in range(WRITERS):
                        tasks.start_soon(add_one, number)
                found = await nodes.stores[-1].get(record.id)
                assert found is not None
                assert int(found.content) == WRITERS * CHANGES

            await nodes.run(story)

    async def test_the_longest_content_is_taken_and_a_longer_one_is_not(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                store = nodes.stores[0]
                stored = await store.put(self._record(nodes, b"x" * store.max_bytes))
                for record in (replace(stored, content=b"x" * (store.max_bytes + 1)), self._record(nodes, b"x" * (store.max_bytes + 1))):
                    try:
                        await store.put(record)
                    except ValueError:
                        continue
                    raise AssertionError("the store has taken a record that is too long")
                assert await nodes.stores[-1].get(stored.id) == stored

            await nodes.run(story)

    # delete

    async def test_what_was_deleted_is_gone_on_each_node_whatever_its_version(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                for store in nodes.stores:
                    stored = await nodes.stores[0].put(self._record(nodes, subject="ada"))
                    await nodes.stores[-1].put(stored)
                    await store.delete(stored.id)
                    assert [await other.get(stored.id) for other in nodes.stores] == [None] * len(nodes.stores)
                    assert [*await store.of_subject("ada")] == []

            await nodes.run(story)

    async def test_nothing_to_delete_is_no_error(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                stored = await nodes.stores[0].put(self._record(nodes))
                for store in nodes.stores:
                    await store.delete("record")
                    await store.delete(stored.id)

            await nodes.run(story)

    # of_subject

    async def test_the_records_of_a_subject_come_in_the_order_of_their_ids_page_by_page(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                mine = [await nodes.stores[0].put(self._record(nodes, subject="ada")) for _ in range(7)]
                for subject in ("ad", "ada ", "Ada", "ada/x", None):
                    await nodes.stores[0].put(self._record(nodes, subject=subject))
                for store in nodes.stores:
                    assert [*await store.of_subject("ada")] == mine
                    assert [*await store.of_subject("ada", limit=3)] == mine[:3]
                    assert [*await store.of_subject("ada", after=mine[2].id, limit=3)] == mine[3:6]
                    assert [*await store.of_subject("ada", after=mine[5].id, limit=3)] == mine[6:]
                    assert [*await store.of_subject("ada", after=mine[6].id)] == []
                    assert [*await store.of_subject("nobody")] == []

            await nodes.run(story)

    async def test_a_record_that_changes_its_subject_is_listed_under_the_new_one_only(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                store, last = nodes.stores[0], nodes.stores[-1]
                stored = await store.put(self._record(nodes, subject="visitor"))
                moved = await last.put(replace(stored, subject="member"))
                assert [*await store.of_subject("visitor")] == []
                assert [*await store.of_subject("member")] == [moved]
                await last.put(replace(moved, subject=None))
                assert [*await store.of_subject("member")] == []

            await nodes.run(story)

    # on_newer, poll_now

    async def test_each_node_hears_of_what_is_put_and_deleted(self) -> None:
        async with self.opened() as nodes:

            async def all_hear(id: str, version: int) -> None:
                for store, news in zip(nodes.stores, nodes.news, strict=True):
                    await nodes.hear(store, lambda news=news: (id, version) in news.newer)  # type: ignore[misc]

            async def story() -> None:
                for writer in nodes.stores:
                    stored = await writer.put(self._record(nodes))
                    await all_hear(stored.id, stored.version)
                    later = await writer.put(stored)
                    await all_hear(stored.id, later.version)
                    await writer.delete(stored.id)
                    await all_hear(stored.id, 0)

            await nodes.run(story)

    # A store that cannot be reached, or is full

    async def test_a_store_that_cannot_make_anything_durable_raises_and_recovers(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_break:
                return

            async def story() -> None:
                store = nodes.stores[0]
                stored, kept = await store.put(self._record(nodes, subject="ada")), await store.put(self._record(nodes))
                await nodes.break_off()
                assert await raises(StoreUnavailable, lambda: store.put(replace(stored, content=b"changed")))
                assert await raises(StoreUnavailable, lambda: store.put(self._record(nodes)))
                assert await raises(StoreUnavailable, lambda: store.delete(kept.id))
                if nodes.reads_when_broken:
                    assert await store.get(stored.id) == stored
                else:
                    assert await raises(StoreUnavailable, lambda: store.get(stored.id))
                    assert await raises(StoreUnavailable, lambda: store.of_subject("ada"))
                await nodes.mend()
                await nodes.run(lambda: self._until_it_works(store, kept))
                # A call that raised may have been done all the same.
                current = await store.get(stored.id)
                assert current is not None
                assert current.content in (b"content", b"changed")

            await nodes.run(story)

    async def _until_it_works(self, store: SessionStore, kept: Record) -> None:
        while await raises(StoreUnavailable, lambda: store.delete(kept.id)):
            await anyio.sleep(0.05)
        assert await store.get(kept.id) is None

    async def test_a_full_store_says_so_and_keeps_what_it_has(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_fill:
                return

            async def story() -> None:
                store = nodes.stores[0]
                stored = await store.put(self._record(nodes))
                await nodes.fill()
                assert await raises(StoreUnavailable, lambda: store.put(self._record(nodes, b"x" * store.max_bytes)))
                assert await raises(StoreUnavailable, lambda: store.put(replace(stored, content=b"x" * store.max_bytes)))
                assert await store.get(stored.id) == stored

            await nodes.run(story)


async def conflict(store: SessionStore, record: Record) -> Record | None:
    """Return the record that a put conflicts with."""
    try:
        await store.put(record)
    except Conflict as exc:
        return exc.current
    raise AssertionError("the put has succeeded")
