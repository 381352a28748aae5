"""The lock of a session: one request at a time, until its changes are saved."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import anyio
import pytest

from ha_session_mw import LockLost, Session, SessionLocked, SessionManager, SessionMiddleware, Settings, StoreUnavailable
from ha_session_mw._node.locks import LEASE_S
from ha_session_mw.abc import Record
from ha_session_mw.backends.memory.locks import MemoryLocks
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock, mint_session

from ..asgi.driver import SECRET, Node, call, obliging, respond, scope_of
from ..shared import Shared

pytestmark = pytest.mark.anyio


def status(node: Node) -> Any:
    return node_of(node.manager).locks.status()


async def is_locked(node: Node, token: str | None) -> bool:
    async def take(session: Session) -> None:
        async with session.lock(timeout=0):
            pass

    return (await node.request(take, token=token)).status == 423


# Preconditions


async def test_a_visitor_without_a_session_has_nothing_to_lock() -> None:
    async def take(session: Session) -> None:
        with pytest.raises(
            LookupError, match=r"no session yet that could be locked: .* after login\(\), or from the request after the first write on"
        ):
            session.lock()

    assert (await Node().request(take)).status == 200


async def test_the_apps_own_locks_and_those_of_sessions_do_not_meet() -> None:
    node = Node()

    async def take(session: Session) -> None:
        async with node.manager.lock(f"session/{session.family}"), session.lock(timeout=0):
            pass

    assert (await (await node.logged_in()).visit(take)).status == 200


async def test_a_session_made_by_hand_has_nothing_to_lock() -> None:
    with pytest.raises(LookupError):
        Session(x=1).lock()


async def test_one_request_at_a_time_has_the_lock_also_after_a_change_of_id() -> None:
    node = Node()
    inside, most = 0, 0

    async def work(session: Session) -> None:
        nonlocal inside, most
        async with session.lock():
            inside += 1
            most = max(most, inside)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            inside -= 1

    async def take_another_id(session: Session) -> None:
        async with session.lock():
            session.cycle()
        await node.request(work_in_vain, token=ada.token)

    async def work_in_vain(session: Session) -> None:
        with pytest.raises(SessionLocked):
            async with session.lock(timeout=0):
                pytest.fail("had it")

    ada, grace = await node.logged_in(), await node.logged_in("grace")
    async with anyio.create_task_group() as tasks:
        for visitor in (ada, ada, grace):
            tasks.start_soon(visitor.visit, work)
    assert most == 2  # ada's one, and grace's
    assert (await ada.visit(take_another_id)).status == 200


async def test_a_waiter_beyond_its_time_limit_gets_a_423_with_a_hint() -> None:
    node = Node()
    ada = await node.logged_in()
    answers: list[Any] = []

    async def wait(session: Session) -> None:
        async with session.lock(timeout=3):
            pytest.fail("had it")

    async def hold(session: Session) -> None:
        async with session.lock(), anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for _ in range(5):
                await anyio.wait_all_tasks_blocked()
                node.clock.advance(1)

    async def ask() -> None:
        answers.append(await node.request(wait, token=ada.token))

    assert (await node.request(hold, token=ada.token)).status == 200
    [answer] = answers
    assert answer.status == 423
    assert {name: answer.problem[name] for name in ("code", "retryable", "retry_where", "retry_after_ms", "action")} == {
        "code": "session_locked",
        "retryable": True,
        "retry_where": "any",
        "retry_after_ms": 250,
        "action": "retry",
    }
    assert status(node)["timed_out"] == 1


# The session inside the lock


class SharedStore(MemoryStore):
    """Takes its time, as one behind a network does. May be gone for good."""

    gone = False

    async def get(self, id: str) -> Record | None:
        if self.gone:
            raise StoreUnavailable("gone")
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return await super().get(id)


class ThreeNodes:
    """Three managers that share a store and a lock service."""

    def __init__(self, clock: ManualClock) -> None:
        self.locks, self.records = MemoryLocks(clock), MemoryRecords(clock)
        self.records.require_held = self.locks.require
        self.nodes = [self.node(clock) for _ in range(3)]

    def node(self, clock: ManualClock) -> Node:
        node = Node(clock=clock)
        shared = Shared(lambda on_newer: SharedStore(self.records, on_newer=on_newer), self.locks)
        node.manager = SessionManager(Settings(secret_key=SECRET), clock=clock, backend=shared)
        self.store = shared.store
        node.app = SessionMiddleware(obliging, manager=node.manager)
        return node


class OneFile:
    """Three workers of a machine, on its file."""

    def __init__(self, path: Path) -> None:
        self.nodes = [Node(cluster=f"sqlite://{path}") for _ in range(3)]
        for node in self.nodes:
            node.manager = SessionManager(node.manager.settings)  # by the machine's clock
            node.app = SessionMiddleware(obliging, manager=node.manager)


@pytest.fixture(params=["memory", "sqlite"])
def nodes(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> list[Node]:
    return ThreeNodes(clock).nodes if request.param == "memory" else OneFile(tmp_path / "sessions.db").nodes


async def count_one_more(session: Session) -> None:
    async with session.lock():
        before = session.get("n", 0)
        await anyio.lowlevel.checkpoint()
        session["n"] = before + 1


@pytest.mark.parametrize("text", ["", "x" * 5000], ids=["in the token", "in the store"])
async def test_concurrent_requests_that_count_under_the_lock_lose_no_count(nodes: list[Node], text: str) -> None:
    ada = await nodes[0].logged_in("ada", text=text)
    answers: list[Any] = []

    async def visit(node: Node) -> None:
        answers.append(await node.request(count_one_more, token=ada.token))  # all with the token of before

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(visit, nodes[number % 3])
    assert [answer.status for answer in answers] == [200] * 12
    newest = answers[-1].token
    assert (await nodes[2].request(token=newest)).result == {"text": text, "n": 12}


async def test_the_session_holds_the_last_holders_state_and_this_requests_earlier_changes(nodes: list[Node]) -> None:
    a, b, _ = nodes
    ada = await a.logged_in("ada", left="by nobody", mine=0)
    before = ada.token

    async def leave(session: Session) -> None:
        async with session.lock():
            session["left"] = "by a"

    async def find(session: Session) -> dict[str, Any]:
        session["mine"] = 1
        assert session["left"] == "by nobody"
        async with session.lock():
            return dict(session)

    await ada.visit(leave)
    answer = await b.request(find, token=before)
    assert answer.result == {"left": "by a", "mine": 1}
    assert (await a.request(token=answer.token)).result == {"left": "by a", "mine": 1}


async def test_a_reader_under_the_lock_of_data_that_moved_to_the_store_gets_the_token_of_the_record(nodes: list[Node]) -> None:
    a, b, _ = nodes
    ada = await a.logged_in("ada", n=0)
    before = ada.token

    async def read(session: Session) -> dict[str, Any]:
        async with session.lock():
            return dict(session)

    await ada.visit(count_one_more)
    answer = await b.request(read, token=before)
    assert answer.result == {"n": 1}
    assert (await a.request(token=answer.token)).result == {"n": 1}


async def test_an_unreachable_store_raises_and_the_lock_is_released(clock: ManualClock) -> None:
    shared = ThreeNodes(clock)
    node = shared.nodes[-1]
    ada = await node.logged_in("ada", n=0)
    shared.store.gone = True
    assert (await ada.visit(count_one_more)).code == "store_unavailable"
    assert status(node)["held"] == 0
    shared.store.gone = False
    await ada.visit(count_one_more)
    assert (await ada.visit()).result == {"n": 1}


async def test_a_holder_that_was_paused_and_its_successor_do_not_both_write(clock: ManualClock) -> None:
    a, b, _ = ThreeNodes(clock).nodes
    ada = await a.logged_in("ada", n=0)
    successors: list[Any] = []

    async def pause(session: Session) -> None:
        async with session.lock():
            session["n"] = "by one that was paused"
        clock.advance(LEASE_S)
        successors.append(await b.request(count_one_more, token=ada.token))

    assert (await a.request(pause, token=ada.token)).code == "session_conflict"
    [successor] = successors
    assert (await a.request(token=successor.token)).result == {"n": 1}
    assert status(a)["lost"] == 1


# Until when


async def test_a_lock_under_which_nothing_was_changed_is_let_go_at_the_end_of_its_block() -> None:
    node = Node()
    ada = await node.logged_in()

    async def read(session: Session) -> None:
        async with session.lock():
            assert status(node)["held"] == 1
        assert status(node)["held"] == 0

    assert (await ada.visit(read)).token is None


@pytest.mark.parametrize("nested", [False, True])
async def test_a_lock_under_which_something_was_changed_is_held_until_that_is_saved(nested: bool) -> None:
    node = Node()
    ada = await node.logged_in(cart={})

    async def change(session: Session) -> None:
        async with session.lock():
            if nested:
                session["cart"]["apple"] = 1
            else:
                session["cart"] = {"apple": 1}
        assert await is_locked(node, ada.token)

    assert (await ada.visit(change)).token
    assert (await ada.visit()).result == {"cart": {"apple": 1}}
    assert status(node)["held"] == 0
    assert not await is_locked(node, ada.token)


async def test_a_request_may_take_its_lock_again_inside_and_afterwards() -> None:
    node = Node()
    ada = await node.logged_in()

    async def thrice(session: Session) -> None:
        async with session.lock() as first:
            async with session.lock(timeout=0) as inside:
                session["n"] = 1
            assert status(node)["held"] == 1
        node.clock.advance(LEASE_S / 2)
        async with session.lock(timeout=0) as afterwards:
            session["n"] += 1
        node.clock.advance(LEASE_S / 2)
        assert first.fence == inside.fence == afterwards.fence

    assert (await ada.visit(thrice)).status == 200
    assert (await ada.visit()).result == {"n": 2}
    assert status(node)["held"] == 0


async def test_a_block_that_outlives_the_one_that_took_the_lock_learns_that_it_was_not_alone() -> None:
    node = Node()
    ada = await node.logged_in()
    entered, ended = anyio.Event(), anyio.Event()

    async def take_it_again(session: Session) -> None:
        async with session.lock():
            entered.set()
            await ended.wait()
            session["n"] = 1

    async def in_two_tasks(session: Session) -> None:
        with pytest.RaisesGroup(LockLost):
            async with anyio.create_task_group() as tasks:
                async with session.lock():
                    tasks.start_soon(take_it_again, session)
                    await entered.wait()
                ended.set()
        raise RuntimeError("gives up")

    with pytest.raises(RuntimeError, match="gives up"):
        await ada.visit(in_two_tasks)
    assert not await is_locked(node, ada.token)


@pytest.mark.parametrize("answered", [500, None])
async def test_a_request_that_fails_lets_the_lock_go_and_saves_nothing(answered: int | None) -> None:
    node = Node()
    ada = await node.logged_in()

    async def fail(session: Session) -> None:
        async with session.lock():
            session["n"] = 1
            if answered is None:
                raise KeyError("of the app's own")

    if answered is None:
        with pytest.raises(KeyError):
            await ada.visit(fail)
    else:
        await ada.visit(fail, status=answered)
    assert status(node)["held"] == 0
    assert (await ada.visit()).result == {}


async def test_a_request_that_is_cancelled_lets_the_lock_go() -> None:
    node = Node()
    ada = await node.logged_in()

    async def hang(session: Session) -> None:
        async with session.lock():
            session["n"] = 1
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await ada.visit(hang)
    assert status(node)["held"] == 0
    assert not await is_locked(node, ada.token)


async def test_a_log_out_under_the_lock_holds_and_lets_it_go() -> None:
    node = Node()
    ada = await node.logged_in()
    before = ada.token

    async def leave(session: Session) -> None:
        async with session.lock():
            session.clear()

    assert (await ada.visit(leave)).header("session-revocation") == "fenced"
    assert status(node)["held"] == 0
    assert (await node.request(token=before)).result == {}


async def test_a_websocket_lets_the_lock_go_at_the_end_of_its_block() -> None:
    node = Node()
    token = mint_session(node.manager, "ada")
    held: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].lock():
            held.append(status(node)["held"])
        held.append(status(node)["held"])
        await send({"type": "websocket.close", "code": 1000})

    await call(SessionMiddleware(app, manager=node.manager), scope_of("websocket", headers=[(b"cookie", f"session={token}".encode())]))
    assert held == [1, 0]


async def test_a_websocket_under_the_lock_sees_the_changes_of_others(nodes: list[Node]) -> None:
    a, b, _ = nodes
    ada = await a.logged_in("ada", cart={"apples": 1})
    before = ada.token
    seen: list[Any] = []

    async def buy(session: Session) -> None:
        async with session.lock():
            session["cart"]["apples"] += 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(2):
            await ada.visit(buy)
            async with scope["session"].lock():
                seen.append(scope["session"]["cart"]["apples"])
        await send({"type": "websocket.close", "code": 1000})

    headers = [(b"cookie", f"session={before}".encode())]
    await call(SessionMiddleware(app, manager=b.manager), scope_of("websocket", headers=headers))
    assert seen == [2, 3]


async def test_a_response_that_streams_inside_the_block_keeps_the_lock_to_the_end_of_the_block() -> None:
    node = Node()
    token = mint_session(node.manager, "ada")
    held: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].lock():
            scope["session"]["n"] = 1
            await respond(send)
            held.append(status(node)["held"])
        held.append(status(node)["held"])

    await call(SessionMiddleware(app, manager=node.manager), scope_of("http", headers=[(b"cookie", f"session={token}".encode())]))
    assert held == [1, 0]


async def test_a_change_that_cannot_be_saved_inside_the_block_lets_the_lock_go() -> None:
    node = Node()
    ada = await node.logged_in(n=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].lock():
            scope["session"]["n"] = 1
            await node.request(lambda session: session.clear(), token=ada.token)
            await respond(send)

    headers = [(b"cookie", f"session={ada.token}".encode())]
    answer = await call(SessionMiddleware(app, manager=node.manager), scope_of("http", headers=headers))
    assert answer.code == "session_revoked"
    assert status(node)["held"] == 0


async def test_a_log_out_that_takes_too_long_when_the_app_fails_does_not_keep_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    ada = await node.logged_in()
    monkeypatch.setattr("ha_session_mw.asgi.exchange.GIVE_UP_S", 0.01)

    async def hang(claims: Any) -> Any:
        await anyio.sleep_forever()

    async def fail(session: Session) -> None:
        async with session.lock():
            session.clear()
            raise KeyError("of the app's own")

    monkeypatch.setattr(node_of(node.manager).revoker, "revoke", hang)
    with pytest.raises(KeyError):
        await ada.visit(fail)
    assert status(node)["held"] == 0


# Lost


async def test_a_holder_that_was_paused_between_its_block_and_its_answer_saves_nothing_and_gets_a_409() -> None:
    node = Node()
    ada = await node.logged_in(n=0)

    async def late(session: Session) -> None:
        async with session.lock():
            session["n"] = 1
        node.clock.advance(LEASE_S)  # others may have had the lock since

    answer = await ada.visit(late)
    assert (answer.status, answer.code, answer.token) == (409, "session_conflict", None)
    assert (await ada.visit()).result == {"n": 0}
    assert (status(node)["held"], status(node)["lost"]) == (0, 1)


async def test_changes_under_a_lost_lock_are_not_saved_even_if_the_app_continues() -> None:
    node = Node()
    ada = await node.logged_in(n=0)

    async def work(session: Session) -> None:
        async with session.lock():
            session["n"] = 1
            node.clock.advance(LEASE_S)

    async def stubborn(session: Session) -> None:
        with pytest.raises(LockLost):
            await work(session)

    assert (await ada.visit(stubborn)).code == "session_conflict"
    assert (await ada.visit()).result == {"n": 0}
    assert status(node)["held"] == 0


async def test_a_holder_that_has_lost_its_lock_by_its_own_clock_saves_nothing_though_the_store_would_take_it(clock: ManualClock) -> None:
    """etcd ends leases late."""
    shared = ThreeNodes(clock)
    node = shared.nodes[0]
    shared.records.require_held = lambda grant: None
    ada = await node.logged_in(n=0)

    async def work(session: Session) -> None:
        async with session.lock():
            session["n"] = 1
            clock.advance(LEASE_S)

    async def stubborn(session: Session) -> None:
        with pytest.raises(LockLost):
            await work(session)

    assert (await ada.visit(stubborn)).code == "session_conflict"
    assert (await ada.visit()).result == {"n": 0}


async def test_an_app_that_answers_by_itself_after_that_saves_nothing_either() -> None:
    node = Node()
    ada = await node.logged_in(n=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].lock():
            scope["session"]["n"] = 1
        node.clock.advance(LEASE_S)
        for _ in range(2):
            with contextlib.suppress(LockLost):
                await respond(send, 400)

    headers = [(b"cookie", f"session={ada.token}".encode())]
    answer = await call(SessionMiddleware(app, manager=node.manager), scope_of("http", headers=headers))
    assert not answer.started
    assert (await ada.visit()).result == {"n": 0}
    assert (status(node)["held"], status(node)["lost"]) == (0, 1)


async def test_an_app_may_answer_423_by_itself() -> None:
    node = Node()
    ada = await node.logged_in()

    async def try_it(session: Session) -> None:
        async with session.lock():
            await node.request(inner, token=ada.token)

    async def inner(session: Session) -> None:
        with pytest.raises(SessionLocked):
            async with session.lock(timeout=0):
                pytest.fail("had it")

    assert (await ada.visit(try_it)).status == 200
