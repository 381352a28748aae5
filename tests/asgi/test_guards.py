"""Protection that travels with a handler refuses as ``HA_SESSION_PROTECT`` does, in the frameworks that people use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import litestar
import pytest
import quart
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.test.utils import override_settings  # type: ignore[import-untyped]
from django.urls import path as django_path  # type: ignore[import-untyped]
from fastapi import APIRouter, Depends, FastAPI
from fastapi import WebSocket as FastAPIWebSocket
from litestar.exceptions import WebSocketDisconnect as LitestarDisconnect
from quart import Quart
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ha_session_mw import ProblemError, Session, SessionMiddleware, Settings, TokenMissing, UsageError, get_session, require_session
from ha_session_mw._core.problems import document as problem_document
from ha_session_mw.exceptions import InsufficientUserAuthentication
from ha_session_mw.fastapi import AnySession, LoggedIn, describe_refusals
from ha_session_mw.testing import session_cookie

from .driver import SECRET, Answer, Node, answered_in_full, call, scope_of
from .test_frameworks import django_app

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]
REACHED = b"the guarded handler ran"
VARYING = {"instance"}


@require_session
async def guarded(request: Request) -> Response:
    return Response(REACHED)


@require_session
def guarded_in_a_thread(request: Request) -> Response:
    return Response(REACHED)


class Endpoint(HTTPEndpoint):
    @require_session
    async def get(self, request: Request) -> Response:
        return Response(REACHED)

    async def post(self, request: Request) -> Response:
        return Response(b"open")


@require_session
class WholeEndpoint(HTTPEndpoint):
    def get(self, request: Request) -> Response:
        return Response(REACHED)


@require_session
async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(REACHED)(scope, receive, send)


class Callable_:
    async def __call__(self, request: Request) -> Response:
        return Response(REACHED)


STARLETTE = Starlette(
    routes=[
        Route("/async", guarded),
        Route("/sync", guarded_in_a_thread),
        Route("/endpoint", Endpoint),
        Route("/whole", WholeEndpoint),
        Route("/partial", require_session(functools.partial(guarded.__wrapped__))),  # type: ignore[attr-defined]
        Route("/callable", require_session(Callable_())),
        Mount("/asgi", asgi),
    ]
)


def fastapi_app() -> FastAPI:
    app = FastAPI()
    inner = APIRouter(dependencies=[Depends(require_session)])

    @app.get("/depends")
    async def depends(session: Annotated[Session, Depends(require_session)]) -> str:
        return f"{REACHED.decode()} for {session.subject}"

    @app.get("/typed")
    async def typed(session: LoggedIn) -> str:
        return f"{REACHED.decode()} for {session.subject}"

    @app.get("/decorated")
    @require_session
    async def decorated(request: Request, q: str = "") -> str:
        return REACHED.decode()

    @inner.get("/router/{number}")
    def by_router(number: int) -> str:
        return REACHED.decode()

    @app.get("/open", responses={401: {"description": "our own words"}})
    def visits(session: AnySession, same: Annotated[Session, Depends(get_session)]) -> bool:
        return session is same

    @app.websocket("/ws")
    async def ws(websocket: FastAPIWebSocket, session: Annotated[Session, Depends(require_session)]) -> None:
        await websocket.accept()
        await websocket.send_text(str(session.subject))
        await websocket.close()

    @app.websocket("/any")
    async def any_ws(websocket: FastAPIWebSocket, session: Annotated[Session, Depends(get_session)], same: AnySession) -> None:
        await websocket.accept()
        await websocket.send_text(f"{session.subject} {session is same}")
        await websocket.close()

    app.include_router(inner)
    return app


@litestar.get("/guard", guards=[require_session])
async def litestar_guarded() -> bytes:
    return REACHED


@litestar.websocket("/ws", guards=[require_session])
async def litestar_ws(socket: litestar.WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_text(str(get_session(socket).subject))
    await socket.close()


LITESTAR: Any = litestar.Litestar([litestar_guarded, litestar_ws], openapi_config=None)

APPS: list[tuple[ASGIApp, str]] = [
    *((STARLETTE, path) for path in ("/async", "/sync", "/endpoint", "/whole", "/partial", "/callable", "/asgi/")),
    *((fastapi_app(), path) for path in ("/depends", "/typed", "/decorated", "/router/7")),
    (LITESTAR, "/guard"),
]


async def protected(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(REACHED)(scope, receive, send)


async def ask(node: Node, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> Answer:
    return await call(node.app, scope_of("http", path, headers=headers, method=method))


def told(answer: Answer) -> tuple[int, list[tuple[bytes, bytes]], Any]:
    """Everything that the client sees, but for what differs from answer to answer."""
    told = {name: value for name, value in answer.problem.items() if name not in VARYING}
    return answer.status, sorted(answer.start["headers"]), told


REFUSED: list[list[tuple[bytes, bytes]]] = [
    [],
    [(b"cookie", b"session=rubbish")],
    [(b"cookie", b"session=hs1.a.b.c.d")],
    [(b"authorization", b"Bearer hs1.a.b.c.d")],
    [(b"authorization", b"Bearer hs1.a.b.c.d"), (b"cookie", b"session=hs1.e.f.g.h")],
    [(b"cookie", b"session=" + b"x" * 5000)],
]


@pytest.mark.parametrize(("app", "path"), APPS, ids=[path for _, path in APPS])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_guard_refuses_exactly_as_a_protected_path(app: ASGIApp, path: str, anyio_backend: str) -> None:
    node, like = Node(app=app), Node(app=protected, protect="*")
    for headers in REFUSED:
        answer = await ask(node, path, *headers)
        assert told(answer) == told(await ask(like, path, *headers)), headers
        assert REACHED not in answer.body
    for_people = await ask(node, path, (b"accept", b"text/html"))
    assert (for_people.status, for_people.header("content-type")) == (401, "text/html; charset=utf-8")


@pytest.mark.parametrize(("app", "path"), APPS, ids=[path for _, path in APPS])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_user_passes_and_the_answer_is_private(app: ASGIApp, path: str, anyio_backend: str) -> None:
    node = Node(app=app)
    cookie = session_cookie(node.manager, "ada")["session"].encode()
    answer = await ask(node, path, (b"cookie", b"session=" + cookie))
    assert answer.status == 200
    assert REACHED in answer.body
    assert answer.header("cache-control") == "private, no-store"
    assert "Cookie" in str(answer.header("vary"))


@pytest.mark.parametrize(("app", "path"), APPS, ids=[path for _, path in APPS])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_visitor_with_a_session_and_a_user_who_was_logged_out_do_not_pass(app: ASGIApp, path: str, anyio_backend: str) -> None:
    node = Node(app=app)
    visitor, user = (session_cookie(node.manager, subject, {"basket": ["book"]})["session"].encode() for subject in (None, "ada"))
    await node.manager.revoke_subject("ada")
    assert (await ask(node, path, (b"cookie", b"session=" + visitor))).code == "token_missing"
    assert (await ask(node, path, (b"cookie", b"session=" + user))).code == "session_revoked"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_that_looks_like_a_scope_is_none(anyio_backend: str) -> None:
    app = FastAPI()

    @app.post("/")
    @require_session
    async def handler(body: dict[str, Any], request: Request) -> str:
        return REACHED.decode()

    node = Node(app=app)
    body = {"type": "http", "ha_session_mw.session": {"subject": "ada"}}
    with TestClient(node.app) as client:
        assert client.post("/", json=body).json()["code"] == "token_missing"
        client.cookies.update(session_cookie(node.manager, "ada"))
        assert client.post("/", json=body).json() == REACHED.decode()


async def test_the_other_methods_of_an_endpoint_stay_open() -> None:
    assert (await ask(Node(app=STARLETTE), "/endpoint", method="POST")).body == b"open"


async def test_no_spelling_of_a_path_matters() -> None:
    for path in ("/async\n", "//async", "/async/"):
        scope = {**scope_of("http"), "path": path}
        assert REACHED not in (await call(Node(app=STARLETTE).app, scope)).body


@pytest.mark.parametrize("inside", [True, False], ids=["added", "around"])
@pytest.mark.parametrize("make", [lambda **k: Starlette(routes=[Route("/async", guarded)], **k), lambda **k: fastapi_at_async(**k)])
def test_the_client_gets_the_problem_wherever_the_middleware_stands(make: Callable[..., Any], inside: bool) -> None:
    settings = Settings(secret_key=SECRET)
    app = make(middleware=[Middleware(SessionMiddleware, settings=settings)]) if inside else SessionMiddleware(make(), settings=settings)
    response = TestClient(app, raise_server_exceptions=False).get("/async")
    assert (response.status_code, response.json()["code"]) == (401, "token_missing")


def fastapi_at_async(**kwargs: Any) -> FastAPI:
    app = FastAPI(**kwargs)
    app.get("/async", dependencies=[Depends(require_session)])(lambda: REACHED.decode())
    return app


def test_a_handler_of_the_apps_own_for_the_problem_decides_the_answer() -> None:
    def log_in_first(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, ProblemError)
        return JSONResponse({"please": "log in"}, 403)

    app = Starlette(
        routes=[Route("/async", guarded)],
        exception_handlers={TokenMissing: log_in_first},
        middleware=[Middleware(SessionMiddleware, settings=Settings(secret_key=SECRET))],
    )
    response = TestClient(app).get("/async")
    assert (response.status_code, response.json()) == (403, {"please": "log in"})


# WebSockets


@require_session
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(str(get_session(websocket).subject))
    await websocket.close()


class Greeting(WebSocketEndpoint):
    encoding = "text"

    @require_session
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(str(get_session(websocket).subject))
        await websocket.close()


@require_session
class WholeGreeting(Greeting):
    pass


SOCKETS: list[ASGIApp] = [
    Starlette(routes=[WebSocketRoute("/ws", socket)]),
    Starlette(routes=[WebSocketRoute("/ws", Greeting)]),
    Starlette(routes=[WebSocketRoute("/ws", WholeGreeting)]),
    fastapi_app(),
    LITESTAR,
]


@pytest.mark.parametrize("app", SOCKETS, ids=["function", "method", "class", "fastapi", "litestar"])
def test_a_handshake_is_refused_before_it_is_accepted(app: ASGIApp) -> None:
    node = Node(app=app)
    with pytest.raises(WebSocketDenialResponse) as denied, TestClient(node.app).websocket_connect("/ws"):
        pass
    assert (denied.value.status_code, denied.value.json()["code"]) == (401, "token_missing")
    with TestClient(node.app, cookies=session_cookie(node.manager, "ada")).websocket_connect("/ws") as ws:
        assert ws.receive_text() == "ada"
        with pytest.raises((WebSocketDisconnect, LitestarDisconnect)):
            ws.receive_text()


@pytest.mark.parametrize("app", SOCKETS, ids=["function", "method", "class", "fastapi", "litestar"])
async def test_a_server_without_denial_responses_closes_with_4401(app: ASGIApp) -> None:
    answer = await call(Node(app=app).app, scope_of("websocket", "/ws", subprotocols=[]))
    assert answer.messages == [{"type": "websocket.close", "code": 4401, "reason": "token_missing"}]


# What cannot work says so


def test_a_handler_that_takes_no_request_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="takes no request"):

        @require_session
        async def nothing() -> None: ...


@pytest.mark.parametrize("thing", [7, "text", object()])
def test_a_guard_takes_handlers_and_connections_only(thing: Any) -> None:
    with pytest.raises(TypeError, match="takes a handler or a request"):
        require_session(thing)
    with pytest.raises(TypeError, match="no HTTPEndpoint"):
        require_session(type(thing))


async def test_a_call_without_a_request_is_an_error_and_passes_nothing() -> None:
    with pytest.raises(TypeError, match="without a request"):
        await guarded(object())  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="add ha_session_mw"):
        await guarded(Request(scope_of("http")))


async def test_an_exempt_path_that_requires_a_log_in_is_a_mistake_of_the_app() -> None:
    node = Node(app=STARLETTE, exempt="/async")
    with pytest.raises(UsageError, match="HA_SESSION_PUBLIC"):
        await ask(node, "/async")


# Frameworks that turn an error of a handler into a 500


def django_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{REACHED.decode()} for {require_session(request).subject}")


async def django_async_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{REACHED.decode()} for {require_session(request).subject}")


urlpatterns = [
    django_path("view", django_view),
    django_path("async", django_async_view),
    django_path("decorated", require_session(django_view)),
]


@pytest.fixture
def _django_urls() -> Iterator[None]:
    django_app()  # configures Django
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[]):
        yield


def quart_app() -> Quart:
    app = Quart(__name__)

    @app.get("/view")
    async def view() -> str:
        return f"{REACHED.decode()} for {require_session(quart.request).subject}"

    return app


@pytest.mark.usefixtures("_django_urls")
@pytest.mark.parametrize(
    ("make", "path"),
    [
        (get_asgi_application, "/view"),
        (get_asgi_application, "/async"),
        (get_asgi_application, "/decorated"),
        (quart_app, "/view"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_in_the_handler_refuses_in_frameworks_that_answer_500(make: Callable[[], Any], path: str, anyio_backend: str) -> None:
    node, like = Node(app=make()), Node(app=protected, protect="*")
    for headers in REFUSED[:3]:
        answer = await answered_in_full(node.app, scope_of("http", path, headers=headers))
        assert told(answer) == told(await ask(like, path, *headers))
    cookie = session_cookie(node.manager, "ada")["session"].encode()
    answer = await answered_in_full(node.app, scope_of("http", path, headers=[(b"cookie", b"session=" + cookie)]))
    assert (answer.status, answer.header("cache-control")) == (200, "private, no-store")
    assert REACHED + b" for ada" in answer.body


# OpenAPI


def operations(document: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, item in document["paths"].items() for operation in item.values()]


def test_the_openapi_document_lists_the_refusals() -> None:
    app = fastapi_app()
    app.add_middleware(SessionMiddleware, settings=Settings(secret_key=SECRET))
    for _ in range(2):
        document = TestClient(app).get("/openapi.json").json()
        for path, operation in operations(document):
            responses = operation["responses"]
            if path == "/open":
                assert responses["401"] == {"description": "our own words"}
                assert "503" not in responses
                continue
            for status in ("401", "409", "503"):
                schema = responses[status]["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/SessionProblem"}, path
        schema = document["components"]["schemas"]["SessionProblem"]
        sent = problem_document(InsufficientUserAuthentication(max_age_s=5), endpoints="", instance="")
        assert set(schema["properties"]) == set(sent)
        assert set(schema["required"]) == set(sent) - {"retry_after_ms", "max_age"}


def test_the_document_of_an_app_that_the_middleware_is_around_lists_them_too() -> None:
    settings = Settings(secret_key=SECRET, track="on", devices="on", step_up="/password")
    document = TestClient(SessionMiddleware(fastapi_app(), settings=settings)).get("/openapi.json").json()
    assert "503" in document["paths"]["/depends"]["get"]["responses"]


def test_a_document_that_no_request_asks_for_lists_them_after_a_call_by_hand() -> None:
    app = fastapi_app()
    describe_refusals(app)
    describe_refusals(app)
    assert "503" in app.openapi()["paths"]["/depends"]["get"]["responses"]
    assert not app.openapi()["paths"]["/depends"]["get"].get("parameters")


def test_an_app_of_another_kind_has_no_document_to_change() -> None:
    describe_refusals(STARLETTE)
    describe_refusals(None)


def test_a_web_socket_of_fastapi_gets_its_session_too() -> None:
    node = Node(app=fastapi_app())
    with TestClient(node.app).websocket_connect("/any") as ws:
        assert ws.receive_text() == "None True"
    with TestClient(node.app, cookies=session_cookie(node.manager, "ada")).websocket_connect("/any") as ws:
        assert ws.receive_text() == "ada True"


def test_both_dependencies_give_the_same_session() -> None:
    app = fastapi_app()
    app.add_middleware(SessionMiddleware, settings=Settings(secret_key=SECRET))
    assert TestClient(app).get("/open").json() is True
