"""Other session middlewares in the same app: each keeps its own session, wherever it stands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import litestar
import pytest
from litestar.connection import ASGIConnection
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.types import Empty
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from starsessions import InMemoryStore
from starsessions import SessionAutoloadMiddleware as Autoload
from starsessions import SessionMiddleware as Starsessions

from ha_session_mw import Session, SessionMiddleware, Settings, get_session

from .driver import SECRET, Node, call, look, respond, scope_of, who, why

STARLETTES = Middleware(StarlettesMiddleware, secret_key="another", session_cookie="inner")
STARSESSIONS = [Middleware(Starsessions, store=InMemoryStore(), cookie_name="inner", cookie_https_only=False), Middleware(Autoload)]


class PlainDict:
    """A middleware that puts an empty dict in the session's place, as a sub-app without cookies may do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = {}
        await self.app(scope, receive, send)


INNER = {"Starlette": [STARLETTES], "starsessions": STARSESSIONS, "a plain dict": [Middleware(PlainDict)], "ours": []}


async def read(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def write(request: Request) -> Response:
    request.session["inner"] = request.session.get("inner", 0) + 1
    return JSONResponse(dict(request.session))


async def empty(request: Request) -> Response:
    request.session.clear()
    return JSONResponse({})


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    websocket.session["inner"] = 1
    await websocket.send_json(dict(websocket.session))
    await websocket.close()


async def log_in(request: Request) -> Response:
    get_session(request).login("ada")
    return Response()


async def whole(request: Request) -> Response:
    session = get_session(request)
    return JSONResponse({"subject": session.subject, "data": dict(session)})


def app_around(*inner: Middleware, **arguments: Any) -> Starlette:
    routes = [Route("/read", read), Route("/write", write), Route("/empty", empty), WebSocketRoute("/socket", socket)]
    ours = [Route("/log-in", log_in), Route("/put", write), Route("/whole", whole)]
    arguments = arguments or {"secret_key": SECRET}
    mount = Mount("/inner", Starlette(routes=routes, middleware=inner))
    return Starlette(routes=[*ours, mount], middleware=[Middleware(SessionMiddleware, **arguments)])


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("inner", ["Starlette", "starsessions", "a plain dict"])
def test_a_mounted_app_with_sessions_of_its_own_changes_nothing_of_ours(inner: str, logged_in: bool) -> None:
    with TestClient(app_around(*INNER[inner])) as client:
        client.get("/put")
        if logged_in:
            client.get("/log-in")
        before, cookie = client.get("/whole").json(), client.cookies["session"]
        assert client.get("/inner/read").json() == {}
        assert client.get("/inner/write").json() == {"inner": 1}
        with client.websocket_connect("/inner/socket") as websocket:
            websocket.receive_json()
        client.get("/inner/empty")
        assert client.get("/inner/read").json() == {}
        assert client.get("/whole").json() == before == {"subject": "ada" if logged_in else None, "data": {"inner": 1}}
        assert client.cookies["session"] == cookie


@pytest.mark.parametrize("inner", ["Starlette", "starsessions", "a plain dict"])
def test_a_mounted_app_may_have_sessions_on_an_exempt_path(inner: str) -> None:
    with TestClient(app_around(*INNER[inner], settings=Settings(secret_key=SECRET, exempt="/inner/*"))) as client:
        client.get("/log-in")
        assert client.get("/inner/write").json() == {"inner": 1}
        with client.websocket_connect("/inner/socket") as websocket:
            assert "inner" in websocket.receive_json()
        assert client.get("/inner/empty").status_code == 200
        assert client.get("/whole").json() == {"subject": "ada", "data": {}}


def test_a_mounted_app_without_sessions_of_its_own_shares_ours() -> None:
    with TestClient(app_around()) as client:
        client.get("/log-in")
        client.get("/inner/write")
        assert client.get("/whole").json() == {"subject": "ada", "data": {"inner": 1}}
        client.get("/inner/empty")
        assert client.get("/whole").json() == {"subject": None, "data": {}}


class CountingMiddleware:
    """Changes the session before the app that it is around."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            session = get_session(scope)
            session["requests"] = session.get("requests", 0) + 1
        await self.app(scope, receive, send)


@pytest.mark.parametrize("protect", ["", "/protected"])
def test_a_mounted_app_with_a_middleware_of_the_same_settings_has_the_same_session(protect: str) -> None:
    """Each of two sessions would set a cookie of its own, and the log-in would be lost."""
    ours = Middleware(SessionMiddleware, settings=Settings(secret_key=SECRET, protect=protect))
    routes = [Route("/log-in", log_in), Route("/whole", whole), Route("/empty", empty)]
    inner = Starlette(routes=[*routes, Route("/protected", whole)], middleware=[ours])
    app = Starlette(routes=[*routes, Mount("/inner", inner)], middleware=[ours, Middleware(CountingMiddleware)])
    with TestClient(app) as client:
        assert client.get("/inner/protected").status_code == (401 if protect else 200)
        client.cookies.clear()
        assert client.get("/inner/whole").json() == {"subject": None, "data": {"requests": 1}}
        assert len(client.get("/inner/log-in").headers.get_list("set-cookie")) == 1
        for path in ("/whole", "/inner/whole", "/inner/protected"):
            assert client.get(path).json()["subject"] == "ada"
        assert client.get("/inner/-/session/livez").status_code == 200
        assert client.get("/inner/empty").headers["session-revocation"] == "fenced"
        assert client.get("/whole").json()["subject"] is None


# The scope belongs to all


FOREIGN: list[Callable[[Scope], Any]] = [
    lambda scope: scope.update(session={"b": 2}),
    lambda scope: scope.update(session={}),
    lambda scope: scope.update(session=None),
    lambda scope: scope.update(session=Empty),
    lambda scope: scope.update(session=Session(b=2)),
    lambda scope: scope.pop("session"),
]


def replacing(act: Callable[[Scope], Any]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        act(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            act(scope)
        else:
            await respond(send)
            act(scope) if "session" in scope else None

    return app


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/", "/exempt"])
@pytest.mark.parametrize("subject", ["ada", None])
@pytest.mark.parametrize("act", FOREIGN[:-1])
async def test_an_object_that_an_app_puts_in_the_place_of_the_session_is_the_apps(
    act: Callable[[Scope], Any], subject: str | None, path: str, kind: str
) -> None:
    node = Node(exempt="/exempt")
    visitor = node.visitor()
    if subject:
        await visitor.visit(lambda session: session.login(subject))
    await visitor.visit(lambda session: session.update(a=1))
    obliging, node.app.app = node.app.app, replacing(act)
    answer = await call(node.app, scope_of(kind, path, headers=[(b"cookie", f"session={visitor.token}".encode())]))
    headers = answer.start["headers"] if kind == "http" else answer.messages[0].get("headers", ())
    assert [name for name, _ in headers if name == b"set-cookie"] == []
    node.app.app = obliging
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == (subject, {"a": 1})


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_session_taken_out_of_the_scope_stays(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    obliging, node.app.app = node.app.app, replacing(FOREIGN[-1])
    assert (await visitor.visit()).cookies() == []
    node.app.app = obliging
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {"a": 1})


@pytest.mark.anyio
@pytest.mark.one_library
async def test_a_change_of_ours_is_saved_though_another_session_stands_in_its_place(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)

    def act(scope: Scope) -> None:
        scope["session"] = {"b": 2}
        get_session(scope).setdefault("c", 3)

    obliging, node.app.app = node.app.app, replacing(act)
    await visitor.visit()
    node.app.app = obliging
    assert (await visitor.visit(look)).result == {"a": 1, "c": 3}


def test_a_session_middleware_around_ours_saves_its_own_session() -> None:
    """Starlette's reads ``scope["session"]`` when the response starts, and would put our data into its cookie."""

    class Counting:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                HTTPConnection(scope).session["outer"] = True
            await self.app(scope, receive, send)
            if scope["type"] != "lifespan":
                seen.append(dict(HTTPConnection(scope).session))

    seen: list[dict[str, Any]] = []
    routes = [Route("/write", write), Route("/whole", whole)]
    inner = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, secret_key=SECRET)])
    outer = Middleware(StarlettesMiddleware, secret_key="another", session_cookie="outer")
    show = Route("/show", read)
    with TestClient(Starlette(routes=[show, Mount("/in", inner)], middleware=[outer, Middleware(Counting)])) as client:
        assert client.get("/in/write").json() == {"inner": 1}
        assert client.get("/show").json() == {"outer": True}
        assert client.get("/in/whole").json()["data"] == {"inner": 1}
    assert seen == [{"outer": True}] * 3


def test_a_cookie_of_the_same_name_from_another_session_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    same = Middleware(StarlettesMiddleware, secret_key="another")
    with TestClient(app_around(same)) as client:
        client.get("/log-in")
        assert client.get("/inner/read").json() == {}
        assert not [message for message in caplog.messages if "same name" in message]
        client.get("/inner/write")
        client.get("/inner/write")
    found = [record for record in caplog.records if "same name" in record.message]
    assert [record.levelno for record in found] == [logging.WARNING]
    assert "'session'" in found[0].message
    assert "session_cookie" in found[0].message


# Litestar says on purpose that it replaces the session


def of_litestar(act: Callable[[ASGIConnection[Any, Any, Any, Any]], object]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        act(ASGIConnection(scope))  # type: ignore[arg-type]
        await respond(send)

    return app


@pytest.mark.anyio
@pytest.mark.one_library
async def test_the_content_that_litestar_sets_is_the_sessions_new_content(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    obliging, node.app.app = node.app.app, of_litestar(lambda conn: conn.set_session({"b": 2}))
    await visitor.visit()
    node.app.app = obliging
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {"b": 2})


@pytest.mark.anyio
@pytest.mark.one_library
async def test_content_that_is_changed_after_litestar_has_set_it_is_saved_as_it_is_then(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)

    def act(conn: ASGIConnection[Any, Any, Any, Any]) -> None:
        conn.set_session({"b": 1})
        conn.session["b"] = 2
        conn.set_session({**conn.session, "c": 3})

    obliging, node.app.app = node.app.app, of_litestar(act)
    await visitor.visit()
    node.app.app = obliging
    assert (await visitor.visit(look)).result == {"b": 2, "c": 3}


@pytest.mark.anyio
@pytest.mark.one_library
async def test_equal_content_that_litestar_sets_changes_nothing(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    node.app.app = of_litestar(lambda conn: conn.set_session({"a": 1}))
    assert (await visitor.visit()).cookies() == []


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("data", [{"a": 1}, {}])
@pytest.mark.parametrize("act", [lambda conn: conn.clear_session(), lambda conn: conn.set_session(Empty)])
async def test_litestars_clear_session_logs_out(node: Node, act: Callable[[Any], None], data: dict[str, Any]) -> None:
    visitor = await node.logged_in("ada", **data)
    captured, obliging = visitor.token, node.app.app
    node.app.app = of_litestar(act)
    assert (await visitor.visit()).token == ""
    node.app.app = obliging
    assert (await node.request(why, token=captured)).result == "session_revoked"


@pytest.mark.anyio
@pytest.mark.one_library
async def test_content_that_litestar_sets_after_a_log_out_begins_a_new_session(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    captured, obliging = visitor.token, node.app.app

    def act(conn: ASGIConnection[Any, Any, Any, Any]) -> None:
        conn.clear_session()
        conn.set_session({"flash": "bye"})

    node.app.app = of_litestar(act)
    await visitor.visit()
    node.app.app = obliging
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == (None, {"flash": "bye"})
    assert (await node.request(why, token=captured)).result == "session_revoked"


class Cart(BaseModel):
    items: list[str]


@dataclass
class Basket:
    items: list[str]


@pytest.mark.parametrize("model", [Cart(items=["book"]), Basket(items=["book"])])
def test_a_model_that_litestar_sets_is_saved_as_its_fields(model: Any) -> None:
    @litestar.get("/set")
    async def set_(request: litestar.Request[Any, Any, Any]) -> None:
        get_session(request).login("ada")
        request.set_session(model)

    @litestar.get("/look")
    async def look_(request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
        return {"subject": get_session(request).subject, **request.session}

    app: Any = litestar.Litestar([set_, look_])
    with TestClient(SessionMiddleware(app, secret_key=SECRET)) as client:
        client.get("/set")
        assert client.get("/look").json() == {"subject": "ada", "items": ["book"]}


@pytest.mark.anyio
@pytest.mark.one_library
async def test_an_object_put_there_after_litestars_is_not_taken_for_it(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ASGIConnection[Any, Any, Any, Any](scope).set_session({"b": 2})  # type: ignore[arg-type]
        scope["session"] = {"theirs": 1}
        ASGIConnection[Any, Any, Any, Any](scope).set_session({"theirs": 2})  # type: ignore[arg-type]
        await respond(send)

    obliging, node.app.app = node.app.app, app
    await visitor.visit()
    node.app.app = obliging
    assert (await visitor.visit(look)).result == {"b": 2}


def test_litestars_own_sessions_inside_ours_stay_its_own() -> None:
    @litestar.get("/set")
    async def set_(request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
        request.set_session({"n": request.session.get("n", 0) + 1})
        return dict(request.session)

    @litestar.get("/clear")
    async def clear(request: litestar.Request[Any, Any, Any]) -> None:
        request.clear_session()

    @litestar.get("/enter")
    async def enter(request: litestar.Request[Any, Any, Any]) -> None:
        get_session(request).login("ada")

    @litestar.get("/who")
    async def me(request: litestar.Request[Any, Any, Any]) -> str:
        return str(who(get_session(request)))

    config = ServerSideSessionConfig(key="inner")
    inner: Any = litestar.Litestar([set_, clear, enter, me], middleware=[config.middleware])
    with TestClient(SessionMiddleware(inner, secret_key=SECRET)) as client:
        client.get("/enter")
        assert [client.get("/set").json(), client.get("/set").json()] == [{"n": 1}, {"n": 2}]
        client.get("/clear")
        assert client.get("/set").json() == {"n": 1}
        assert client.get("/who").text == "ada"


def test_an_app_mounted_in_litestar_keeps_its_own_session() -> None:
    inner = Starlette(routes=[Route("/{anything:path}", write)], middleware=[STARLETTES])

    @litestar.asgi("/inner", is_mount=True, copy_scope=False)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    @litestar.get("/enter")
    async def enter(request: litestar.Request[Any, Any, Any]) -> None:
        request.set_session({"a": 1})

    @litestar.get("/look")
    async def look_(request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
        return dict(request.session)

    app: Any = litestar.Litestar([mounted, enter, look_])
    with TestClient(SessionMiddleware(app, secret_key=SECRET)) as client:
        client.get("/enter")
        assert client.get("/inner/write").json() == {"inner": 1}
        assert client.get("/look").json() == {"a": 1}
