"""What is open of a session ends at the session's absolute end, and not at the idle end of the token that opened it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from ha_session_mw import SessionMiddleware, get_session
from ha_session_mw._core.cluster.proven_lead import PROVEN_AFTER_S
from ha_session_mw.asgi.deadlines import SPARE, Deadlines
from ha_session_mw.manager import node_of
from ha_session_mw.testing import Cluster, mint_session

from .driver import SECRET, Node, respond
from .wire import Wire, open_app

HOUR = 3600
IDLE_S = HOUR / 2
EVENTS = [(b"content-type", b"text/event-stream")]


class Open:
    """A node that runs, and connections to it."""

    def __init__(self, node: Node, tasks: anyio.abc.TaskGroup) -> None:
        self.node = node
        self.tasks = tasks

    async def open(self, kind: Any, token: str | None, answer_headers: Any = ()) -> Wire:
        wire = Wire(kind, token or "")
        wire.scope["answer_headers"] = answer_headers
        self.tasks.start_soon(wire.live, self.node.app)
        await anyio.wait_all_tasks_blocked()
        assert not wire.over
        return wire

    async def wait(self, seconds: float) -> None:
        """Let time pass, the last second by itself, as the node's tick needs it."""
        for part in (seconds - 1, 1):
            if part > 0:
                self.node.clock.advance(part)
                await anyio.wait_all_tasks_blocked()


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Open]:
    node = Node(**{"app": open_app, "idle_timeout": IDLE_S, "absolute_timeout": 12 * HOUR, **settings})
    async with node.manager.running(), anyio.create_task_group() as tasks:
        yield Open(node, tasks)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_websocket_is_closed_as_expired_within_a_second() -> None:
    async with running() as at:
        ada = await at.node.logged_in()
        wire = await at.open("websocket", ada.token)
        await at.wait(12 * HOUR - 1)
        assert wire.close_code is None
        await at.wait(1)
        assert wire.over
        assert wire.sent[-1] == {"type": "websocket.close", "code": 4401, "reason": "session_expired"}
        assert wire.left == [{"type": "websocket.disconnect", "code": 4401, "reason": "session_expired"}]
        assert len(at.node.app._connections) == 0


@pytest.mark.anyio
@pytest.mark.one_library
async def test_an_event_stream_ends_in_order_and_any_other_response_is_cut_off() -> None:
    async with running() as at:
        ada = await at.node.logged_in()
        events, other = await at.open("http", ada.token, EVENTS), await at.open("http", ada.token)
        await at.wait(12 * HOUR)
        assert (events.over, events.is_cut, events.sent[-1].get("more_body")) == (True, False, False)
        assert (other.over, other.is_cut, other.sent[-1].get("more_body")) == (True, True, True)


@pytest.mark.anyio
@pytest.mark.one_library
async def test_the_lives_of_a_log_in_of_its_own_count() -> None:
    async with running() as at:
        briefly, long = at.node.visitor(), await at.node.logged_in()
        await briefly.visit(lambda session: session.login("ada", absolute="1h"))
        wires = [await at.open("websocket", visitor.token) for visitor in (briefly, long)]
        await at.wait(HOUR)
        assert [wire.close_code for wire in wires] == [4401, None]


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_the_idle_end_of_its_token_ends_nothing(kind: Any) -> None:
    """Another request may have renewed the session since, and here one does so all the time."""
    async with running() as at:
        ada = await at.node.logged_in()
        wire = await at.open(kind, ada.token)
        for _ in range(4):
            await at.wait(IDLE_S * 0.9)
            assert (await ada.visit(path="/-/session/renew", method="POST")).status == 204
        assert not wire.over


@pytest.mark.anyio
@pytest.mark.one_library
async def test_an_absolute_end_that_a_renewal_cannot_move_ends_what_the_old_token_opened() -> None:
    async with running(absolute_timeout=4 * IDLE_S) as at:
        ada = await at.node.logged_in()
        wire = await at.open("websocket", ada.token)
        for _ in range(4):
            await at.wait(IDLE_S * 0.9)
            await ada.visit(path="/-/session/renew", method="POST")
        await at.wait(IDLE_S * 0.4)
        assert wire.close_code == 4401


async def logs_in(scope: Scope, receive: Receive, send: Send) -> None:
    """A chat in whose handshake the user logs in."""
    if scope["type"] == "websocket":
        get_session(scope).login("ada", absolute="1h")
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    await respond(send)


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_session_that_began_in_the_handshake_counts() -> None:
    async with running(app=logs_in) as at:
        wire = await at.open("websocket", None)
        await at.wait(HOUR)
        assert wire.close_code == 4401


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_session_that_was_over_when_it_began_ends_nothing() -> None:
    """Starlette's ``max_age=0``: its middleware leaves such a WebSocket open, too."""

    async def stores(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    middleware = SessionMiddleware(stores, secret_key=SECRET, max_age=0)
    wire = Wire("websocket", "")
    async with middleware.manager.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(wire.live, middleware)
        await anyio.wait_all_tasks_blocked()
        assert len(middleware._connections) == 1
        middleware._connections.end_expired(4e12)
        await anyio.wait_all_tasks_blocked()
        assert not wire.over
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_wall_clock_that_is_set_forward_ends_nothing_until_it_is_trusted() -> None:
    async with running() as at:
        ada = await at.node.logged_in()
        wire = await at.open("websocket", ada.token)
        at.node.clock.step_wall(13 * HOUR)
        await at.wait(30)
        assert not wire.over
        await at.wait(PROVEN_AFTER_S)  # it has kept its new time
        assert wire.close_code == 4401


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_wall_clock_that_is_set_back_keeps_nothing_open_beyond_the_floor() -> None:
    """Requests of the session are refused whatever the clock says, so what is open of it ends too."""
    async with running(idle_timeout=12 * HOUR) as at:
        ada = await at.node.logged_in()
        at.node.clock.advance(12 * HOUR - 1)
        wire = await at.open("websocket", ada.token)
        node_of(at.node.manager).view.raise_floor(int((at.node.clock.wall_s() + 1) * 1000))
        at.node.clock.step_wall(-HOUR)
        await at.wait(2)
        assert wire.close_code == 4401


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("cut_off", [False, True])
async def test_it_ends_on_each_node_also_on_one_that_is_out_of_contact(cut_off: bool) -> None:
    async with Cluster(app=open_app, idle_timeout=15, absolute_timeout=15) as cluster, anyio.create_task_group() as tasks:
        await cluster.ready()
        a, _, c = cluster.nodes
        wire = Wire("websocket", mint_session(a.manager, "ada"))
        tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        if cut_off:
            cluster.cut(c)
        await cluster.advance(14)
        assert not wire.over
        await cluster.advance(2)
        assert wire.sent[-1]["reason"] == "session_expired"


# The order


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["add", "discard", "take"]), st.integers(0, 9)), max_size=60))
def test_the_order_is_that_of_a_plain_search(steps: list[tuple[int, str, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    added = 0
    for end, step, which in steps:
        if step == "add":
            deadlines.add(added, end)
            model[added] = end
            added += 1
        elif step == "discard":
            deadlines.discard(which)
            model.pop(which, None)
        else:
            due = [item for item, its_end in sorted(model.items(), key=lambda one: (one[1], one[0])) if its_end <= end]
            assert [*deadlines.take_due(end)] == due
            for item in due:
                del model[item]
        assert len(deadlines) == len(model)


def test_connections_that_close_early_leave_no_memory_in_use_until_their_ends() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for item in range(10_000):
        deadlines.add(item, 10**12 + item)
        deadlines.discard(item)
    assert len(deadlines._order) <= 2 * SPARE
