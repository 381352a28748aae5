"""WebSockets and streams of a session that is logged out on another node end, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ha_session_mw import Session, SessionMiddleware, get_session
from ha_session_mw.asgi.streams import SessionEnded
from ha_session_mw.testing import Cluster, mint_session

from ..asgi.driver import SECRET, obliging
from ..asgi.wire import Wire, open_app
from .visits import Browser, log_out, logged_in

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def ada_connects(cluster: Cluster, kind: Literal["websocket", "http"]) -> tuple[Browser, Wire]:
    """Return the browser of a user who logged in on the first node, and a connection with its token that no node serves yet."""
    await cluster.ready()
    ada = await logged_in(cluster, cluster.nodes[0])
    assert ada.token
    return ada, Wire(kind, ada.token)


def by_session(session: Session) -> Any:
    return session.revoke()


def by_subject(session: Session) -> Any:
    return session.manager.revoke_subject("ada")


def by_sid(session: Session) -> Any:
    return session.manager.revoke_session(session.id or "")


def by_family(session: Session) -> Any:
    return session.manager.revoke_session(session.family or "")


def by_everybody(session: Session) -> Any:
    return session.manager.revoke_everybody()


@pytest.mark.parametrize("end", [by_session, by_subject, by_sid, by_family, log_out])
@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_it_ends_on_another_node_within_a_second_and_the_others_stay(kind: Any, end: Callable[[Session], Any]) -> None:
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        await cluster.ready()
        a, b, c = cluster.nodes
        ada, bob = await logged_in(cluster, a), await logged_in(cluster, a, "bob")
        other_of_ada = mint_session(c.manager, "ada") if end is not by_subject else mint_session(c.manager, "eve")
        assert ada.token
        assert bob.token
        hit, stay, stay_too = Wire(kind, ada.token), Wire(kind, bob.token), Wire(kind, other_of_ada)
        for wire in (hit, stay, stay_too):
            tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        assert len(c.middleware._connections) == 3

        await ada.visit(b, end)
        await cluster.advance(0.05)  # the promise is one second

        assert hit.over
        if kind == "websocket":
            assert hit.close_code == 4401
            assert hit.left[0]["code"] == 4401
        else:
            assert hit.is_cut
            assert hit.left == [{"type": "http.disconnect"}]
            assert hit.sent[-1]["more_body"]
        assert not stay.over
        assert not stay_too.over
        said = {"type": "websocket.receive", "text": "still there?"} if kind == "websocket" else {"type": "http.request", "body": b""}
        stay.say(said)
        await cluster.settle()
        assert stay.sent[-1].get("text", "still there?") == "still there?"
        tasks.cancel_scope.cancel()


async def test_a_log_out_of_everybody_ends_all_and_leaves_nothing_behind() -> None:
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        await cluster.ready()
        a, b, c = cluster.nodes
        wires = [Wire(kind, mint_session(a.manager, f"user-{i}")) for i, kind in enumerate(("websocket", "http", "websocket", "http"))]  # type: ignore[arg-type]
        for wire in wires:
            tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()

        await (await logged_in(cluster, b)).visit(b, by_everybody)
        await cluster.advance(0.05)

        assert all(wire.over for wire in wires)
        connections = c.middleware._connections
        assert len(connections) == 0
        assert not connections._by_id


async def test_one_that_was_opened_by_a_token_renewed_since_ends_too(cluster: Cluster) -> None:
    """The token changes with the data, the session stays."""
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "websocket")
        _, b, c = cluster.nodes
        tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        await ada.visit(b, lambda session: session.update(x=1))
        await ada.visit(b, log_out)
        await cluster.advance(0.05)
        assert wire.close_code == 4401


async def test_a_session_whose_id_is_cycled_keeps_the_family_but_not_the_connections_of_the_old_id() -> None:
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        ada, old = await ada_connects(cluster, "websocket")
        _, b, c = cluster.nodes
        tasks.start_soon(old.live, c.middleware)
        await cluster.settle()
        await ada.visit(b, lambda session: session.cycle())
        assert ada.token
        new = Wire("websocket", ada.token)
        tasks.start_soon(new.live, c.middleware)
        await cluster.advance(0.05)
        assert old.close_code == 4409
        assert old.sent[-1]["reason"] == "session_superseded"
        assert old.left == [{"type": "websocket.disconnect", "code": 4409, "reason": "session_superseded"}]
        assert new.close_code is None
        tasks.cancel_scope.cancel()


async def test_an_answer_that_is_over_is_not_ended_again_nor_is_the_apps_work_after_it() -> None:
    failures: list[str] = []

    async def streams_then_works(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        if "act" in scope:
            await obliging(scope, receive, send)
            return
        get_session(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await scope["go_on"].wait()
        raise ZeroDivisionError("in the background")

    async with Cluster(app=streams_then_works) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "http")
        _, b, c = cluster.nodes
        wire.scope["go_on"] = anyio.Event()

        async def serve() -> None:
            try:
                await wire.live(c.middleware)
            except ZeroDivisionError as exc:
                failures.append(str(exc))

        tasks.start_soon(serve)
        await cluster.settle()
        await Browser(cluster, ada.token).visit(b, log_out)
        await cluster.advance(0.05)
        wire.scope["go_on"].set()
        await cluster.settle()

    assert failures == ["in the background"]
    assert len(wire.sent) == 3


async def test_an_event_stream_that_has_said_nothing_yet_ends_too() -> None:
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "http")
        _, b, c = cluster.nodes
        wire.scope["answer_headers"] = [(b"content-type", b"Text/Event-Stream; charset=utf-8")]
        tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        assert [message["type"] for message in wire.sent] == ["http.response.start"]

        await ada.visit(b, log_out)
        await cluster.advance(0.05)

        assert wire.over
        assert not wire.is_cut
        assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_stream_whose_client_reads_nothing_is_cut_off() -> None:
    async with Cluster(app=open_app) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "http")
        _, b, c = cluster.nodes
        tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        wire.is_stalled = True
        wire.say({"type": "http.request", "body": b"", "more_body": True})
        await cluster.settle()

        await ada.visit(b, log_out)
        await cluster.advance(0.05)

        assert wire.is_cut
        assert [message.get("body") for message in wire.sent] == [None, b"hello"]


async def test_an_app_that_fails_because_its_client_has_gone_is_cut_off_all_the_same() -> None:
    async def exports(scope: Scope, receive: Receive, send: Send) -> None:
        await open_app(scope, receive, send)
        if "left" in scope:
            raise ZeroDivisionError("half a file")

    async with Cluster(app=exports) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "http")
        _, b, c = cluster.nodes
        tasks.start_soon(wire.live, c.middleware)
        await cluster.settle()
        await ada.visit(b, log_out)
        await cluster.advance(0.05)
        assert wire.is_cut


async def export(request: Request) -> Response:
    """Half a file, and no more for a long time."""
    get_session(request)

    async def parts() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        await anyio.sleep_forever()

    return StreamingResponse(parts(), media_type="text/csv")


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("where", ["bare", "inside", "outside"])
async def test_a_starlette_response_is_cut_off_also_with_a_middleware_that_completes_what_ends_early(where: str) -> None:
    """``BaseHTTPMiddleware`` sends the last message itself for an app that merely returns."""
    app: Any = Starlette(routes=[Route("/", export)])
    if where == "inside":
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    async def acts_or_exports(scope: Scope, receive: Receive, send: Send) -> None:
        await (obliging if "act" in scope else app)(scope, receive, send)

    async with Cluster(app=acts_or_exports) as cluster, anyio.create_task_group() as tasks:
        ada, wire = await ada_connects(cluster, "http")
        _, b, c = cluster.nodes
        wire.scope["asgi"] = {"version": "3.0", "spec_version": "2.3"}  # as uvicorn, hypercorn and granian say
        wire.say({"type": "http.request", "body": b"", "more_body": False})
        middleware: Any = BaseHTTPMiddleware(c.middleware, dispatch=pass_on) if where == "outside" else c.middleware

        async def live() -> None:
            with pytest.raises(AssertionError if where == "outside" else SessionEnded, match="logged out"):
                await middleware(wire.scope, wire.receive, wire.send)
            wire.over = True

        tasks.start_soon(live)
        await cluster.settle()
        assert wire.sent[-1]["body"] == b"a,b\n"

        await ada.visit(b, log_out)
        await cluster.advance(0.05)

        assert wire.over
        assert wire.sent[-1]["more_body"]


async def test_without_a_lifespan_an_event_stream_ends_in_order_when_its_app_does(anyio_backend_name: str) -> None:
    middleware = SessionMiddleware(open_app, secret_key=SECRET)
    wire = Wire("http", mint_session(middleware.manager, "ada"))
    wire.scope["answer_headers"] = [(b"content-type", b"text/event-stream")]

    async def live() -> None:
        await middleware(wire.scope, wire.receive, wire.send)
        wire.over = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        await middleware.manager.revoke_subject("ada")
        await anyio.wait_all_tasks_blocked()
        assert wire.over
        tasks.cancel_scope.cancel()
    assert wire.left == [{"type": "http.disconnect"}]
    assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
