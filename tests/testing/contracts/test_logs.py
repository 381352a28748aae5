"""The contract of a cluster log, against every backend."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex

import anyio
import pytest

from ha_session_mw import SessionManager, Settings
from ha_session_mw.events import ClusterEvent
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, Cluster, ClusterLogContract, Member, Node, Nodes

from ...engines import Etcd, memory_folder, patient
from ...waiting import LIMIT_S

pytestmark = pytest.mark.anyio


def member_of(manager: SessionManager) -> Member:
    events: list[ClusterEvent] = []
    manager.on_event(events.append)
    return Member(node_of(manager).log, node_of(manager).view, manager.clock, events)


class Memory(Nodes):
    def __init__(self) -> None:
        self.members = [member_of(SessionManager(Settings(secret_key=SECRET)))]


class TestMemory(ClusterLogContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Nodes]:
        yield Memory()


class OneMachine(Nodes):
    """Three workers that share a file. Another program locks it to break it."""

    can_break = True
    wait_s = LIMIT_S

    def __init__(self, path: Path) -> None:
        self.managers = [SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{path}")) for _ in range(3)]
        self.members = [member_of(manager) for manager in self.managers]
        self._intruder = sqlite3.connect(path, isolation_level=None)

    async def break_off(self, member: Member) -> None:
        self._intruder.execute("BEGIN IMMEDIATE")

    async def mend(self, member: Member) -> None:
        self._intruder.execute("ROLLBACK")

    def close(self) -> None:
        self._intruder.close()


@pytest.mark.one_library
class TestSqlite(ClusterLogContract):
    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        with memory_folder() as folder:  # a busy disk may take longer for a write than a store waits
            self.path = folder / "sessions.db"
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Nodes]:
        machine = OneMachine(self.path)
        try:
            async with AsyncExitStack() as stack:
                for manager in machine.managers:
                    await stack.enter_async_context(manager.running())
                yield machine
        finally:
            machine.close()


class Peers(Nodes):
    """Three nodes in one process, with links that can be cut, and a clock that moves while a call waits."""

    can_break = True

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.members = [member_of(node.manager) for node in cluster.nodes]

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        await self.cluster.run(function)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        await self.cluster.wait_until(condition)

    async def break_off(self, member: Member) -> None:
        self.cluster.cut(self._node(member))

    async def mend(self, member: Member) -> None:
        self.cluster.heal(self._node(member))

    def _node(self, member: Member) -> Node:
        return self.cluster.nodes[self.members.index(member)]


@pytest.mark.one_library
class TestPeers(ClusterLogContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Nodes]:
        async with Cluster() as cluster:
            await cluster.ready()
            yield Peers(cluster)


class OnEtcd(Nodes):
    """Three processes on one etcd. Freezing etcd breaks it for all of them."""

    can_break = True
    wait_s = limit_s = LIMIT_S

    def __init__(self, server: Etcd, prefix: str, patience: pytest.MonkeyPatch) -> None:
        patient(patience)
        self.server, self._patience = server, patience
        settings = Settings(secret_key=SECRET, cluster=server.cluster(prefix), heartbeat="100ms", freshness_limit="2s")
        self.managers = [SessionManager(settings) for _ in range(3)]
        self.members = [member_of(manager) for manager in self.managers]

    async def break_off(self, member: Member) -> None:
        self._patience.undo()
        self.server.members[0].freeze()

    async def mend(self, member: Member) -> None:
        self.server.members[0].thaw()


@pytest.mark.real
@pytest.mark.one_library
class TestEtcd(ClusterLogContract):
    @pytest.fixture(autouse=True)
    def _server(self, one_etcd: Etcd) -> Iterator[None]:
        self.server = one_etcd
        with pytest.MonkeyPatch.context() as self.patience:
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Nodes]:
        nodes = OnEtcd(self.server, f"contract/{token_hex(4)}", self.patience)
        async with AsyncExitStack() as stack:
            for manager in nodes.managers:
                await stack.enter_async_context(manager.running())
            await nodes.wait_until(
                lambda: all(member.log.why_not_ready() is None and len(member.log.members()) == 2 for member in nodes.members)
            )
            yield nodes


class ForgetfulNodes(Memory):
    """A log that waits before it merges, as if it wrote first."""

    def __init__(self) -> None:
        super().__init__()
        log = self.members[0].log
        append = log.append

        async def late(entries):  # type: ignore[no-untyped-def]
            await anyio.lowlevel.checkpoint()
            return await append(entries)

        log.append = late  # type: ignore[method-assign]


async def test_a_log_that_breaks_the_contract_is_detected() -> None:
    class Broken(ClusterLogContract):
        def opened(self) -> AbstractAsyncContextManager[Nodes]:
            return forgetful()

    with pytest.raises(AssertionError):
        await Broken().test_appended_entries_are_merged_before_the_first_suspension_whatever_happens_then()


@asynccontextmanager
async def forgetful() -> AsyncIterator[Nodes]:
    yield ForgetfulNodes()
