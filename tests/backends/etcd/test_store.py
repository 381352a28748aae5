"""Session data on etcd: three processes and a real server, and the effect of a lost answer, a lost history and a lost lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from ha_session_mw import LockLost, Session, SessionManager, SessionMiddleware, Settings, StoreUnavailable
from ha_session_mw.abc import Conflict, OnGap, OnNewer, Record, ignore
from ha_session_mw.backends.etcd.api import EtcdCompacted, Transaction, put
from ha_session_mw.backends.etcd.backend import EtcdBackend
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.backends.etcd.store import EtcdStore
from ha_session_mw.clocks import SystemClock
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET

from ...asgi.driver import Answer, call, look, obliging, scope_of
from ...engines import Etcd, patient
from ...waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]

LARGE = "x" * 5000
END_MS = int(SystemClock().wall_s() * 1000) + 3_600_000


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


def settings_of(server: Etcd, **more: Any) -> Settings:
    return Settings(secret_key=SECRET, cluster=server.cluster(f"records/{token_hex(4)}"), heartbeat="100ms", **more)


# Whole sessions


class Nodes:
    """Three processes on one etcd."""

    def __init__(self, settings: Settings) -> None:
        self.managers = [SessionManager(settings) for _ in range(3)]
        self.apps = [SessionMiddleware(obliging, manager=manager) for manager in self.managers]

    async def visit(self, number: int, act: Callable[[Session], Any], token: str = "") -> Answer:
        headers = [(b"cookie", b"session=" + token.encode())] if token else []
        scope = scope_of("http", headers=headers, act=act, status=200, answer_headers=[])
        answer = await call(self.apps[number], scope)
        answer.result = scope.get("result")
        return answer

    def copies(self) -> list[int]:
        return [len(node_of(manager).copies) for manager in self.managers]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Nodes]:
    nodes = Nodes(settings)
    async with AsyncExitStack() as stack:
        for manager in nodes.managers:
            await stack.enter_async_context(manager.running())
        await eventually(lambda: all(manager.why_not_ready() is None for manager in nodes.managers))
        yield nodes


def log_in(session: Session) -> None:
    session.login("ada")
    session["text"] = LARGE


async def test_a_session_that_outgrows_its_token_is_seen_and_changed_on_all_nodes_and_ends_on_all(one_etcd: Etcd) -> None:
    async with running(settings_of(one_etcd)) as nodes:
        token = (await nodes.visit(0, log_in)).token or ""
        for number in (1, 2, 0):
            token = (await nodes.visit(number, lambda session, n=number: session.update({f"by {n}": n}), token)).token or ""  # type: ignore[misc]
        expected = {"text": LARGE, "by 0": 0, "by 1": 1, "by 2": 2}
        assert [(await nodes.visit(number, look, token)).result for number in range(3)] == [expected] * 3

        async def write(number: int) -> None:
            assert (await nodes.visit(number % 3, lambda session: session.update({f"key {number}": 1}), token)).status == 200

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(write, number)
        found: dict[str, Any] = {}
        with anyio.fail_after(LIMIT_S):
            while len(found) < len(expected) + 6:  # with an older token: as soon as this node has heard of the others
                answer = await nodes.visit(0, look, token)
                assert answer.status == 200
                found = answer.result
                await checkpoint()  # answers from memory do not suspend, so this loop would starve the watch
        assert found == {**expected, **{f"key {number}": 1 for number in range(6)}}

        answer = await nodes.visit(1, lambda session: session.clear(), token)
        assert answer.header("session-revocation") == "fenced"
        assert (await nodes.visit(2, lambda session: session.problem and session.problem.code, token)).result == "session_revoked"
        await eventually(lambda: nodes.copies() == [0, 0, 0])


# The store alone


def store_of(settings: Settings, *, on_newer: OnNewer = ignore, on_gap: OnGap = ignore) -> EtcdStore:
    store = EtcdBackend(settings).open_store("session", SystemClock(), None, on_newer=on_newer, on_gap=on_gap)
    assert isinstance(store, EtcdStore)
    return store


@asynccontextmanager
async def opened(server: Etcd, kind: type[EtcdGateway] = EtcdGateway, *, on_newer: OnNewer = ignore) -> AsyncIterator[EtcdStore]:
    store = store_of(settings_of(server), on_newer=on_newer)
    store._gateway.__class__ = kind
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        await eventually(lambda: store._position)
        yield store
        tasks.cancel_scope.cancel()


class LosesAnswers(EtcdGateway):
    """Each transaction is applied, its answer is lost, and it is sent again."""

    async def transact(self, *args: Any, **kwargs: Any) -> Transaction:
        await super().transact(*args, **kwargs)
        return await super().transact(*args, **kwargs)


async def test_a_put_whose_answer_was_lost_is_recognised(one_etcd: Etcd) -> None:
    async with opened(one_etcd, LosesAnswers) as store:
        first = await store.put(Record("id", b"1", END_MS, "ada"))
        second = await store.put(replace(first, content=b"2"))
        assert await store.get("id") == second
        with pytest.raises(Conflict) as conflict:
            await store.put(first)
        assert conflict.value.current == second


async def test_a_guard_is_compared_in_the_same_step(one_etcd: Etcd) -> None:
    settings = settings_of(one_etcd)
    locks, store = EtcdBackend(settings).open_locks(SystemClock()), store_of(settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(locks.run)
        tasks.start_soon(store.run)
        await eventually(lambda: store._position)
        grant = await locks.acquire("lock", within_s=1, lease_s=30)
        stored = await store.put(Record("id", b"1", END_MS), guard=grant)
        with pytest.raises(Conflict):
            await store.put(replace(stored, version=0), guard=grant)
        await locks.release(grant)
        with pytest.raises(LockLost):
            await store.put(stored, guard=grant)
        await locks.acquire("lock", within_s=1, lease_s=30)
        with pytest.raises(LockLost):
            await store.put(stored, guard=grant)
        assert await store.get("id") == stored
        tasks.cancel_scope.cancel()


async def test_a_lease_that_etcd_has_lost_is_asked_for_again(one_etcd: Etcd) -> None:
    async with opened(one_etcd) as store:
        stored = await store.put(Record("id", b"1", int(SystemClock().wall_s() * 1000) + 1000))
        [lease] = store._leases.values()
        await store._gateway.revoke_lease(lease)
        assert await store.get("id") is None  # etcd deleted the keys of the lease
        again = await store.put(replace(stored, version=0))
        assert again.version > stored.version


async def test_a_page_is_filled_from_behind_those_that_belong_to_another_subject_now(one_etcd: Etcd) -> None:
    async with opened(one_etcd) as store:
        moved = [await store.put(Record(f"{number}", b"", END_MS, "ada")) for number in range(4)]
        for record in moved:
            await store.put(replace(record, subject="grace"))
        last = await store.put(Record("last", b"", END_MS, "ada"))
        assert await store.of_subject("ada", limit=2) == [last]


class LosesHistory(EtcdGateway):
    """Of the first watch, the history is gone."""

    watched = 0

    async def watch(self, *args: Any, **kwargs: Any) -> None:
        self.watched += 1
        if self.watched == 1:
            raise EtcdCompacted("has compacted the history that was asked for")
        await super().watch(*args, **kwargs)


async def test_a_node_whose_history_is_gone_learns_of_it_and_continues_from_there(one_etcd: Etcd) -> None:
    settings = settings_of(one_etcd)
    heard: list[tuple[str, int]] = []
    gaps: list[int] = []
    writer = store_of(settings)
    store = store_of(settings, on_newer=lambda *news: heard.append(news), on_gap=lambda: gaps.append(store._position))
    store._gateway.__class__ = LosesHistory
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.run)
        await eventually(lambda: writer._position)
        before = await writer.put(Record("before", b"", END_MS))
        tasks.start_soon(store.run)
        await eventually(lambda: len(gaps) == 2)  # at the start, and when the history was gone
        after = await writer.put(Record("after", b"", END_MS))
        await eventually(lambda: heard)
        tasks.cancel_scope.cancel()
    assert min(gaps) >= before.version
    assert heard == [("after", after.version)]
    assert store._position == after.version


async def test_a_record_of_another_release_is_reported_and_left_until_its_session_has_ended(one_etcd: Etcd) -> None:
    async with opened(one_etcd) as store:
        content = store._content_key("id")
        await store._gateway.transact([put(content, b"\x95\x02\x00\xc0\xc4\x00\xc4\x00")])
        for call_it in (store.get("id"), store.put(Record("id", b"1", END_MS))):
            with pytest.raises(StoreUnavailable):
                await call_it
        await store.delete("id")
        assert await store.get("id") is None


async def test_a_key_of_another_program_does_not_stop_the_news(one_etcd: Etcd) -> None:
    heard: set[tuple[str, int]] = set()
    async with opened(one_etcd, on_newer=lambda *news: heard.add(news)) as store:
        await store._gateway.transact([put(store._versions + b"\xff", b"")])
        stored = await store.put(Record("id", b"", END_MS))
        await eventually(lambda: ("id", stored.version) in heard)
