"""Locks on real etcd: the effect of its faults on holders and waiters, and the keys left in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex

import anyio
import anyio.to_thread
import pytest

from ha_session_mw import LockLost, Session, SessionLocked, SessionManager, SessionMiddleware, Settings, StoreUnavailable
from ha_session_mw.abc import Grant
from ha_session_mw.backends.etcd.locks import LAST_LOOK_S, LEAST_S, LET_GO_S
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET

from ...asgi.driver import Answer, Node, obliging
from ...engines import Etcd, etcd, patient
from ...waiting import LIMIT_S, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]

MARGIN_S = LAST_LOOK_S + LET_GO_S
SLACK_S = 10.0
"""Slack for a busy machine."""


LEASE_S = 5.0
"""After an election, etcd keeps a ticket that could not be taken back for up to twice as long. A busy machine may pause for less."""


@pytest.fixture(scope="module")
def three_members() -> Iterator[Etcd]:
    with etcd(3) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """Return the prefix that belongs to this test alone."""
    return f"locks/{token_hex(4)}"


@asynccontextmanager
async def managers(server: Etcd, prefix: str, count: int = 2) -> AsyncIterator[list[SessionManager]]:
    found = [SessionManager(Settings(secret_key=SECRET, cluster=server.cluster(prefix))) for _ in range(count)]
    async with AsyncExitStack() as stack:
        for manager in found:
            await stack.enter_async_context(manager.running())
        yield found


def tickets(server: Etcd, prefix: str) -> list[int]:
    """Return the leases of the tickets in a cluster's queues, in their order."""
    first, end = f"{prefix}/lock/", f"{prefix}/lock0"
    answer = server.post("/v3/kv/range", {"key": b64encode(first.encode()).decode(), "range_end": b64encode(end.encode()).decode()})
    return [int(pair["lease"]) for pair in sorted(answer.get("kvs", []), key=lambda pair: int(pair["create_revision"]))]


def left_s(server: Etcd, lease: int) -> int:
    """Return after how many seconds etcd ends a lease, unless it is kept."""
    return int(server.post("/v3/lease/timetolive", {"ID": lease})["TTL"])


async def test_a_lock_holds_among_all_nodes_and_leaves_nothing_in_etcd(
    one_etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    async with managers(one_etcd, prefix) as (a, b):
        async with a.lock("canary") as first:
            keys = one_etcd.ctl("get", "--prefix", "--keys-only", prefix)
            assert "/lock/" in keys
            assert "canary" not in keys
            with pytest.raises(SessionLocked):
                async with b.lock("canary", timeout=0.1):
                    pytest.fail("two have it")
        async with b.lock("canary", timeout=0) as second:
            assert second.fence > first.fence
        assert tickets(one_etcd, prefix) == []


async def test_requests_at_three_nodes_that_count_under_a_sessions_lock_lose_no_count(
    one_etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)

    async def count_one_more(session: Session) -> None:
        async with session.lock(timeout=LIMIT_S):
            before = session.get("n", 0)
            await anyio.sleep(0.001)
            session["n"] = before + 1

    async with managers(one_etcd, prefix, 3) as found:
        nodes = [Node() for _ in found]
        for node, manager in zip(nodes, found, strict=True):
            node.manager, node.app = manager, SessionMiddleware(obliging, manager=manager)
        await eventually(lambda: not any(manager.why_not_ready() for manager in found))
        ada = await nodes[0].logged_in("ada")
        answers = list[Answer]()

        async def visit(node: Node) -> None:
            answers.append(await node.request(count_one_more, token=ada.token))  # all with the token of before

        async with anyio.create_task_group() as tasks:
            for number in range(9):
                tasks.start_soon(visit, nodes[number % 3])
        assert [answer.status for answer in answers] == [200] * 9
        assert (await nodes[0].request(token=answers[-1].token)).result == {"n": 9}


async def test_the_lease_of_one_that_waits_is_kept_and_so_is_its_place(
    one_etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    served: list[str] = []

    async def wait(name: str, manager: SessionManager) -> None:
        async with manager.lock("x", timeout=LIMIT_S, lease=LEASE_S):
            served.append(name)

    async with managers(one_etcd, prefix) as (a, b), anyio.create_task_group() as tasks, a.lock("x", lease=LIMIT_S):
        tasks.start_soon(wait, "first", b)
        await eventually(lambda: len(tickets(one_etcd, prefix)) == 2)
        seen_s = [left_s(one_etcd, tickets(one_etcd, prefix)[1])]
        tasks.start_soon(wait, "second", a)

        def is_kept() -> bool:
            seen_s.append(left_s(one_etcd, tickets(one_etcd, prefix)[1]))
            return seen_s[-1] > seen_s[-2] and len(tickets(one_etcd, prefix)) == 3

        await eventually(is_kept)
    assert served == ["first", "second"]


async def test_waiters_still_get_the_lock_one_after_the_other_when_the_leader_is_killed(three_members: Etcd, prefix: str) -> None:
    server, inside, most, fences = three_members, 0, 0, list[int]()

    async def work(manager: SessionManager) -> None:
        nonlocal inside, most
        async with manager.lock("x", timeout=2 * LIMIT_S, lease=LEASE_S) as grant:
            inside += 1
            most = max(most, inside)
            fences.append(grant.fence)
            try:
                await anyio.sleep(0.05)
            finally:
                inside -= 1

    async with managers(server, prefix, 3) as nodes, anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(persistently, work, nodes[number % 3])
        await eventually(lambda: fences)
        leader = await anyio.to_thread.run_sync(server.leader)
        await anyio.to_thread.run_sync(leader.kill)
    await anyio.to_thread.run_sync(server.start_member, leader)
    assert most == 1
    assert len(fences) >= 12
    assert fences == sorted(set(fences))


async def persistently(work, manager: SessionManager) -> None:  # type: ignore[no-untyped-def]
    """Do work under the lock; try again if the lock is unavailable or lost, because of an election."""
    for _ in range(20):
        try:
            await work(manager)
        except (StoreUnavailable, LockLost):
            await anyio.sleep(0.2)
        else:
            return
    pytest.fail("never had it")


async def test_a_holder_that_loses_etcd_stops_before_its_lease_is_over_for_anybody_else(
    one_etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, grants, ended_s = one_etcd.members[0], list[Grant](), 0.0

    async def work(manager: SessionManager) -> None:
        nonlocal ended_s
        async with manager.lock("x", timeout=LIMIT_S, lease=LEASE_S) as grant:
            grants.append(grant)
            member.freeze()
            try:
                await anyio.sleep_forever()
            finally:
                ended_s = manager.clock.boot_s()

    async with managers(one_etcd, prefix) as (a, b):
        try:
            with monkeypatch.context() as patience:
                patient(patience)  # so that only the end of its lease can end the work
                with pytest.raises(LockLost):
                    await work(a)
            [lost] = grants
            assert ended_s < lost.until_s + SLACK_S
            with pytest.raises(StoreUnavailable):
                async with b.lock("x", timeout=1):
                    pytest.fail("had it without knowing who else has it")
        finally:
            member.thaw()
        patient(monkeypatch)
        async with b.lock("x", timeout=LIMIT_S) as successor:
            assert successor.fence > lost.fence
            with pytest.raises(LockLost):
                await node_of(a).locks.require().renew(lost, lease_s=LEASE_S)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_paused_etcd_delays_no_waiter_newcomer_or_leaver_beyond_its_time(
    one_etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    took_s: dict[str, float] = {}

    async def want(manager: SessionManager, name: str, timeout_s: float) -> None:
        begun_s = manager.clock.boot_s()
        with pytest.raises(StoreUnavailable):
            async with manager.lock(name, timeout=timeout_s):
                pytest.fail("had it without knowing who else has it")
        took_s[name] = manager.clock.boot_s() - begun_s

    async with managers(one_etcd, prefix) as (a, b):
        with monkeypatch.context() as patience:
            patient(patience)
            hold = await node_of(a).locks.acquire("app/waited for", timeout_s=0, lease_s=30)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(want, b, "waited for", LEASE_S)
                await eventually(lambda: len(tickets(one_etcd, prefix)) == 2)
                one_etcd.members[0].freeze()
                tasks.start_soon(want, b, "come for", 0)
                begun_s = a.clock.boot_s()
                await node_of(a).locks.release(hold)
                took_s["left"] = a.clock.boot_s() - begun_s
        finally:
            one_etcd.members[0].thaw()
    assert took_s["waited for"] < LEASE_S + MARGIN_S + SLACK_S
    assert took_s["come for"] < LEAST_S + MARGIN_S + SLACK_S
    assert took_s["left"] < LET_GO_S + SLACK_S
