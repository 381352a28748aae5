"""The contract of a lock service, against every backend."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import anyio
import pytest
from msgspec.structs import replace

from ha_session_mw import LockLost
from ha_session_mw.abc import Grant, Record, SessionStore
from ha_session_mw.backends.common.queued_locks import Admission, Ticket
from ha_session_mw.backends.etcd.api import put, unchanged_since
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.locks import EtcdLocks, guard_of
from ha_session_mw.backends.memory.locks import MemoryLocks
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.backends.sqlite.lock_file import LockFile
from ha_session_mw.backends.sqlite.locks import SqliteLocks
from ha_session_mw.backends.sqlite.record_file import RecordFile
from ha_session_mw.backends.sqlite.store import SqliteStore
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import LockNode, LockNodes, LockServiceContract, ManualClock

from ...engines import Etcd, memory_folder, patient
from ...waiting import LIMIT_S

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class OneClock(LockNodes):
    """Nodes with a fast clock. It stands still while a thread works on a file."""

    def __init__(self) -> None:
        self.clock = ManualClock()

    def is_busy(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        found: list[T] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            with anyio.fail_after(LIMIT_S):
                found.append(await function())
            tasks.cancel_scope.cancel()
        return found[0]

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(0.001)
            if not self.is_busy():
                self.clock.advance(0.02)


class Memory(OneClock):
    def __init__(self) -> None:
        super().__init__()
        self.desks = [self.desk(MemoryLocks(self.clock))]

    def desk(self, locks: MemoryLocks) -> LockNode:
        records = MemoryRecords(self.clock)
        records.require_held = locks.require
        return LockNode(locks, MemoryStore(records), self.clock)


class TestMemory(LockServiceContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LockNodes]:
        yield Memory()


class OneMachine(OneClock):
    """Three workers that share a file. Another program locks it to break it."""

    can_break = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.services = [SqliteLocks(self.clock, LockFile(path, self.clock.boot_s)) for _ in range(3)]
        self.stores = [SqliteStore(self.clock, RecordFile(path), "session") for _ in self.services]
        self.desks = [LockNode(locks, store, self.clock) for locks, store in zip(self.services, self.stores, strict=True)]
        self._intruder: sqlite3.Connection | None = None

    def is_busy(self) -> bool:
        return any(service._threads.get().borrowed_tokens for service in self.services) or any(
            store._writes.get().is_committing for store in self.stores
        )

    async def break_off(self, desk: LockNode) -> None:
        self._intruder = sqlite3.connect(desk.locks._file.path, isolation_level=None)  # type: ignore[attr-defined]
        self._intruder.execute("BEGIN IMMEDIATE")

    async def mend(self, desk: LockNode) -> None:
        if self._intruder is not None:
            self._intruder.execute("ROLLBACK")
            self._let_go()

    def _let_go(self) -> None:
        intruder, self._intruder = self._intruder, None
        if intruder is not None:
            intruder.close()

    def close(self) -> None:
        self._let_go()
        for file in (*(service._file for service in self.services), *(store._file for store in self.stores)):
            file.close()


@pytest.mark.one_library
class TestSqlite(LockServiceContract):
    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        with memory_folder() as folder:  # a busy disk may take longer for a write than the service waits
            self.path = folder / "sessions.db-records"
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LockNodes]:
        machine = OneMachine(self.path)
        try:
            yield machine
        finally:
            machine.close()


class GuardedKeys(SessionStore):
    """The part of a store on etcd that checks locks. A record is a key, and its version is the revision of the last write."""

    max_bytes = 1000

    def __init__(self, gateway: EtcdGateway, prefix: str) -> None:
        self._gateway = gateway
        self._prefix = prefix

    def _key(self, id: str) -> bytes:
        return f"{self._prefix}/test/{id}".encode()

    async def get(self, id: str) -> Record | None:
        key = self._key(id)
        found = (await self._gateway.page(key, key + b"\0")).kvs
        return Record(id, found[0].value, 0, version=found[0].mod_revision) if found else None

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        key, held = self._key(record.id), [guard_of(self._prefix, guard)] if guard else []
        compare = [unchanged_since(key, record.version), *held]
        done = await self._gateway.transact([put(key, record.content)], compare=compare)
        if not done.succeeded:
            raise LockLost("or another version is stored, which does not come up here")
        return replace(record, version=done.header.revision)

    async def delete(self, id: str) -> None:
        raise NotImplementedError

    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        raise NotImplementedError


class OnEtcd(LockNodes):
    """Three processes on one etcd. Freezing etcd breaks it for all of them."""

    can_break = True
    wait_s = limit_s = LIMIT_S
    lease_s = 1.0
    late_s = 2.5  # it is a second longer there, counted from when etcd was asked; and etcd looks twice a second

    def __init__(self, server: Etcd, prefix: str, patience: pytest.MonkeyPatch) -> None:
        patient(patience)
        self.server, self._patience = server, patience
        clock = SystemClock()
        gateways = [EtcdGateway(server.endpoints, clock) for _ in range(3)]
        self.desks = [LockNode(EtcdLocks(clock, gateway, prefix), GuardedKeys(gateway, prefix), clock) for gateway in gateways]

    async def break_off(self, desk: LockNode) -> None:
        self._patience.undo()
        self.server.members[0].freeze()

    async def mend(self, desk: LockNode) -> None:
        self.server.members[0].thaw()


@pytest.mark.real
@pytest.mark.one_library
class TestEtcd(LockServiceContract):
    @pytest.fixture(autouse=True)
    def _server(self, one_etcd: Etcd) -> Iterator[None]:
        self.server = one_etcd
        with pytest.MonkeyPatch.context() as self.patience:
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LockNodes]:
        nodes = OnEtcd(self.server, f"contract/{token_hex(4)}", self.patience)
        with ExitStack() as stack:
            stack.callback(self.server.members[0].thaw)
            async with anyio.create_task_group() as tasks:
                for desk in nodes.desks:
                    tasks.start_soon(desk.locks.run)
                await anyio.wait_all_tasks_blocked()
                yield nodes
                tasks.cancel_scope.cancel()


# A service that breaks the contract fails a test.


class Stubborn(MemoryLocks):
    """Keeps a ticket in the queue for a request that was given up."""

    async def _leave(self, name: str, holder: str) -> None:
        """Keep the ticket: the request may come back."""


class Generous(MemoryLocks):
    """Renews a lock that another holder has by now."""

    async def renew(self, grant: Grant, *, lease_s: float) -> Grant:
        return grant


class Credulous(MemoryLocks):
    """Accepts every fencing number."""

    def require(self, grant: Grant) -> None:
        """Accept it."""


class Crowded(MemoryLocks):
    """Admits every ticket at once."""

    async def _stand(self, ticket: Ticket) -> Admission:
        return (await super()._stand(ticket))._replace(ahead=0)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Stubborn, LockServiceContract.test_a_request_that_is_cancelled_while_it_waits_leaves_no_ticket),
        (Stubborn, LockServiceContract.test_a_released_lock_is_granted_at_once_and_cannot_be_renewed),
        (Generous, LockServiceContract.test_a_lock_whose_lease_is_over_goes_to_the_next_and_is_lost_to_its_holder),
        (Credulous, LockServiceContract.test_a_holder_that_was_paused_beyond_its_lease_cannot_write_when_another_has_had_the_lock),
        (Crowded, LockServiceContract.test_a_lock_has_one_holder_at_a_time_on_whichever_node),
    ],
    ids=lambda value: value.__name__,
)
async def test_a_service_that_breaks_the_contract_is_detected(
    kind: type[MemoryLocks], test: Callable[[LockServiceContract], Awaitable[None]]
) -> None:
    class Broken(LockServiceContract):
        def opened(self) -> AbstractAsyncContextManager[LockNodes]:
            return broken(kind)

    with pytest.raises((BaseExceptionGroup, Exception)):
        await test(Broken())


@asynccontextmanager
async def broken(kind: type[MemoryLocks]) -> AsyncIterator[LockNodes]:
    nodes = Memory()
    nodes.desks = [nodes.desk(kind(nodes.clock))]
    yield nodes
