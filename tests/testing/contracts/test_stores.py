"""The contract of a store, against every backend."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from ha_session_mw import Settings
from ha_session_mw.abc import Grant, Record
from ha_session_mw.backends import open_backend
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.backends.sqlite.record_file import RecordFile
from ha_session_mw.backends.sqlite.store import SqliteStore
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import SECRET, News, SessionStoreContract, Stores

from ...engines import Etcd, memory_folder, patient
from ...waiting import LIMIT_S, eventually

pytestmark = pytest.mark.anyio


class Memory(Stores):
    """Three nodes of one process."""

    can_fill = True

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.records = MemoryRecords(self.clock)
        self.news = [News() for _ in range(3)]
        self.stores = [MemoryStore(self.records, on_newer=news.on_newer) for news in self.news]

    async def fill(self) -> None:
        self.records._max_stored_bytes = self.records._bytes


class TestMemory(SessionStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stores]:
        yield Memory()


Connected = tuple[sqlite3.Connection, tuple[tuple[int, int], ...]]


def full(connected: Callable[[float, float], Connected], busy_s: float, within_s: float) -> Connected:
    db, inodes = connected(busy_s, within_s)
    db.execute("PRAGMA max_page_count = 1")  # SQLite's minimum is the current size
    return db, inodes


class OneMachine(Stores):
    """Three workers that share a file. Another program locks it to break it; a limit on its size makes it full."""

    can_break = can_fill = reads_when_broken = True
    wait_s = LIMIT_S

    def __init__(self, path: Path) -> None:
        self.clock = SystemClock()
        self.files = [RecordFile(path) for _ in range(3)]
        self.news = [News() for _ in self.files]
        self.stores = [
            SqliteStore(self.clock, file, "session", on_newer=news.on_newer) for file, news in zip(self.files, self.news, strict=True)
        ]
        self._intruder = sqlite3.connect(path, isolation_level=None)

    async def break_off(self) -> None:
        self._intruder.execute("BEGIN IMMEDIATE")

    async def mend(self) -> None:
        self._intruder.execute("ROLLBACK")

    async def fill(self) -> None:
        for file in self.files:
            file.close()
            file._connected = partial(full, file._connected)  # type: ignore[method-assign]

    def close(self) -> None:
        self._intruder.close()


@pytest.mark.one_library
class TestSqlite(SessionStoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        with memory_folder() as folder:  # a busy disk may take longer for a write than a store waits
            self.path = folder / "records.db"
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stores]:
        machine = OneMachine(self.path)
        try:
            async with anyio.create_task_group() as tasks:
                for store in machine.stores:
                    tasks.start_soon(store.run)
                yield machine
                tasks.cancel_scope.cancel()
        finally:
            machine.close()


class OnEtcd(Stores):
    """Three processes on one etcd. Freezing etcd breaks it for all of them."""

    can_break = True
    wait_s = limit_s = LIMIT_S

    def __init__(self, server: Etcd, prefix: str, patience: pytest.MonkeyPatch) -> None:
        patient(patience)
        self.clock = SystemClock()
        self.server, self._patience = server, patience
        settings = Settings(secret_key=SECRET, cluster=server.cluster(prefix))
        self.news = [News() for _ in range(3)]
        opened = [
            open_backend(settings).open_store("session", self.clock, None, on_newer=news.on_newer, on_gap=news.on_gap) for news in self.news
        ]
        self.stores = [store for store in opened if store is not None]

    async def break_off(self) -> None:
        self._patience.undo()
        self.server.members[0].freeze()

    async def mend(self) -> None:
        self.server.members[0].thaw()


@pytest.mark.real
@pytest.mark.one_library
class TestEtcd(SessionStoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, one_etcd: Etcd) -> Iterator[None]:
        self.server = one_etcd
        with pytest.MonkeyPatch.context() as self.patience:
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stores]:
        nodes = OnEtcd(self.server, f"stores/{token_hex(4)}", self.patience)
        async with anyio.create_task_group() as tasks:
            for store in nodes.stores:
                tasks.start_soon(store.run)
            await eventually(lambda: all(store._position for store in nodes.stores))  # type: ignore[attr-defined]
            yield nodes
            tasks.cancel_scope.cancel()


class Careless(MemoryStore):
    """A store that checks no version: the last write wins."""

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        await anyio.lowlevel.checkpoint()
        current = self._records.get(record.id)
        return self._records.put(replace(record, version=current.version if current else 0), guard)


async def test_a_store_that_breaks_the_contract_is_detected() -> None:
    class Broken(SessionStoreContract):
        def opened(self) -> AbstractAsyncContextManager[Stores]:
            return careless()

    for name in (
        "test_a_put_onto_another_version_conflicts_and_changes_nothing",
        "test_one_of_many_puts_at_once_succeeds_and_the_others_conflict_with_it",
        "test_many_writers_that_try_again_lose_nothing",
    ):
        with pytest.raises(AssertionError):
            await getattr(Broken(), name)()


@asynccontextmanager
async def careless() -> AsyncIterator[Stores]:
    nodes = Memory()
    nodes.stores = [Careless(nodes.records) for _ in range(3)]
    yield nodes
