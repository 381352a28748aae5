"""In the frameworks that people use, as they use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import django  # type: ignore[import-untyped]
import litestar
import pytest
from django.conf import settings as django_settings  # type: ignore[import-untyped]
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse, JsonResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]
from django.utils.deprecation import MiddlewareMixin  # type: ignore[import-untyped]
from fastapi import Depends, FastAPI, Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from ha_session_mw import ProblemError, Session, SessionLocked, SessionMiddleware, StateStale, TokenMissing, get_session

from .driver import SECRET, respond

MakeClient = Callable[..., TestClient]


@pytest.fixture
def client_of(anyio_backend_name: Literal["asyncio", "trio"], request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Makes clients that run an app's lifespan, on both event loops."""
    clients: list[TestClient] = []

    def make(app: ASGIApp, **kwargs: Any) -> TestClient:
        client = TestClient(app, backend=anyio_backend_name, **kwargs)
        clients.append(client.__enter__())
        return client

    yield make
    for client in reversed(clients):
        client.__exit__(None, None, None)


def captured(client: TestClient) -> dict[str, str]:
    return {"Cookie": f"session={client.cookies['session']}"}


def logs_in_and_out(client: TestClient, who: Callable[[Any], Any] = lambda response: response.json()["subject"]) -> None:
    """The story that every framework has to tell the same way."""
    assert who(client.get("/me")) is None
    assert client.post("/login").is_success
    assert who(client.get("/me")) == "ada"
    stolen = captured(client)
    response = client.post("/logout")
    assert response.headers["session-revocation"] == "fenced"
    assert "session" not in client.cookies
    assert who(client.get("/me")) is None
    assert who(client.get("/me", headers=stolen)) is None


# FastAPI


def current(request: Request) -> Session:
    return get_session(request)


Current = Annotated[Session, Depends(current)]


def signed_in(session: Current) -> str:
    if session.subject is None:
        raise TokenMissing("no user is logged in")
    return session.subject


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET, session_cookie="session")

    @app.post("/login")
    def login(session: Current) -> None:  # in a worker thread
        session.login("ada")

    @app.post("/logout")
    async def logout(request: Request) -> None:
        request.session.clear()

    @app.get("/me")
    async def me(session: Current) -> dict[str, str | None]:
        return {"subject": session.subject}

    @app.get("/secret")
    async def secret(subject: Annotated[str, Depends(signed_in)]) -> str:
        return subject

    @app.post("/count")
    async def count(request: Request) -> int:
        request.session["n"] = int(request.session.get("n", 0)) + 1
        return int(request.session["n"])

    return app


def test_fastapi(client_of: MakeClient) -> None:
    client = client_of(fastapi_app())
    logs_in_and_out(client)
    assert [client.post("/count").json() for _ in range(3)] == [1, 2, 3]


def test_a_fastapi_dependency_may_refuse_with_a_problem(client_of: MakeClient) -> None:
    client = client_of(fastapi_app())
    response = client.get("/secret")
    assert (response.status_code, response.json()["code"]) == (401, "token_missing")
    client.post("/login")
    assert client.get("/secret").json() == "ada"


# Litestar


@litestar.post("/login")
async def litestar_login(request: litestar.Request[Any, Any, Any]) -> None:
    get_session(request).login("ada")


@litestar.post("/logout")
async def litestar_logout(request: litestar.Request[Any, Any, Any]) -> None:
    request.clear_session()


@litestar.get("/me")
async def litestar_me(request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
    session = get_session(request)
    return {"subject": session.subject, "data": dict(request.session)}


@litestar.post("/replace")
async def litestar_replace(request: litestar.Request[Any, Any, Any]) -> None:
    request.set_session({"colour": "blue"})


@litestar.post("/change")
async def litestar_change(request: litestar.Request[Any, Any, Any]) -> None:
    request.session["colour"] = "green"


@litestar.post("/clear-and-fail")
async def litestar_clear_and_fail(request: litestar.Request[Any, Any, Any]) -> None:
    request.clear_session()
    raise RuntimeError("broken")


HANDLERS: list[Any] = [litestar_login, litestar_logout, litestar_me, litestar_replace, litestar_change, litestar_clear_and_fail]


def around_litestar() -> ASGIApp:
    return SessionMiddleware(litestar.Litestar(HANDLERS), secret_key=SECRET)


def inside_litestar() -> ASGIApp:
    middleware = DefineMiddleware(SessionMiddleware, secret_key=SECRET)
    return litestar.Litestar(HANDLERS, middleware=[middleware])  # type: ignore[return-value]


@pytest.mark.parametrize("make", [around_litestar, inside_litestar])
def test_litestar(client_of: MakeClient, make: Callable[[], ASGIApp]) -> None:
    client = client_of(make())
    logs_in_and_out(client)
    for change, colour in (("/change", "green"), ("/replace", "blue")):
        assert client.post(change).is_success
        assert client.get("/me").json()["data"] == {"colour": colour}
    stolen = captured(client)
    client.post("/logout")
    assert client.get("/me", headers=stolen).json()["data"] == {}


@pytest.mark.parametrize("make", [around_litestar, inside_litestar])
def test_a_log_out_holds_though_the_litestar_handler_fails(client_of: MakeClient, make: Callable[[], ASGIApp]) -> None:
    client = client_of(make())
    client.post("/login")
    response = client.post("/clear-and-fail")
    assert (response.status_code, response.headers["session-revocation"]) == (500, "fenced")
    assert client.get("/me").json()["subject"] is None


@litestar.post("/late")
async def litestar_late(request: litestar.Request[Any, Any, Any]) -> None:
    await logged_out_meanwhile(get_session(request))


async def logged_out_meanwhile(session: Session) -> None:
    """A log-out arrives while the session is being changed, so the change cannot be committed."""
    session["a"] = 1
    assert session.family is not None
    await session.manager.revoke_session(session.family)


@pytest.mark.parametrize("inside", [False, True])
def test_litestar_makes_no_500_of_a_refusal_at_the_commit(client_of: MakeClient, *, inside: bool) -> None:
    each = [DefineMiddleware(SessionMiddleware, secret_key=SECRET)] if inside else []
    app: Any = litestar.Litestar([litestar_login, litestar_late], middleware=each)
    client = client_of(app if inside else SessionMiddleware(app, secret_key=SECRET))
    client.post("/login")
    response = client.post("/late")
    assert (response.status_code, response.json()["code"]) == (401, "session_revoked")


@litestar.post("/stale")
async def litestar_stale(request: litestar.Request[Any, Any, Any]) -> None:
    raise StateStale("out of contact")


def only_with_a_session(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if get_session(connection).subject is None:
        raise TokenMissing("no user is logged in")


@litestar.get("/guarded", guards=[only_with_a_session])
async def litestar_guarded() -> None: ...


def litestar_refuse(request: litestar.Request[Any, Any, Any], problem: ProblemError) -> litestar.Response[None]:
    get_session(request).refuse(problem)
    return litestar.Response(None, status_code=problem.status)


@pytest.mark.parametrize("inside", [False, True])
def test_litestar_propagates_an_exception_of_a_handler_or_a_guard(client_of: MakeClient, *, inside: bool) -> None:
    each = [DefineMiddleware(SessionMiddleware, secret_key=SECRET)] if inside else []
    handlers = {ProblemError: litestar_refuse}
    app: Any = litestar.Litestar([litestar_stale, litestar_guarded], middleware=each, exception_handlers=handlers)  # type: ignore[arg-type]
    client = client_of(app if inside else SessionMiddleware(app, secret_key=SECRET))
    response = client.post("/stale")
    assert (response.status_code, response.json()["code"]) == (503, "state_stale")
    response = client.get("/guarded")
    assert (response.status_code, response.json()["code"]) == (401, "token_missing")


# Django


async def django_login(request: HttpRequest) -> JsonResponse:
    get_session(request.scope).login("ada")
    return JsonResponse({})


def django_logout(request: HttpRequest) -> JsonResponse:  # in a worker thread
    get_session(request.scope).clear()
    return JsonResponse({})


async def django_me(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"subject": get_session(request.scope).subject})


async def django_stale(request: HttpRequest) -> JsonResponse:
    raise StateStale("out of contact")


def django_locked(request: HttpRequest) -> JsonResponse:  # in a worker thread
    raise SessionLocked("by a request that takes long")


class Refusals(MiddlewareMixin):  # type: ignore[misc]
    def process_exception(self, request: HttpRequest, failure: Exception) -> HttpResponse | None:
        if not isinstance(failure, ProblemError):
            return None
        get_session(request).refuse(failure)
        return HttpResponse(status=failure.status)


urlpatterns = [
    path("login", django_login),
    path("logout", django_logout),
    path("me", django_me),
    path("stale", django_stale),
    path("locked", django_locked),
]


def django_app() -> ASGIApp:
    if not django_settings.configured:
        here = {"ROOT_URLCONF": __name__, "MIDDLEWARE": [f"{__name__}.Refusals"]}
        django_settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY=SECRET, LOGGING_CONFIG=None, **here)
        django.setup()
    return SessionMiddleware(get_asgi_application(), secret_key=SECRET)


def test_django_which_has_no_lifespan() -> None:
    with TestClient(django_app()) as client:
        logs_in_and_out(client)


@pytest.mark.parametrize(("path", "status", "code"), [("/stale", 503, "state_stale"), ("/locked", 423, "session_locked")])
def test_django_propagates_an_exception_of_a_view(path: str, status: int, code: str) -> None:
    with TestClient(django_app()) as client:
        response = client.get(path)
        assert (response.status_code, response.json()["code"]) == (status, code)


# Starlette


async def home(request: StarletteRequest) -> Response:
    return JSONResponse({"subject": get_session(request).subject, "data": request.session})


async def login(request: StarletteRequest) -> Response:
    get_session(request).login("ada")
    return JSONResponse({})


async def logout(request: StarletteRequest) -> Response:
    request.session.clear()
    return JSONResponse({})


async def update(request: StarletteRequest) -> Response:
    request.session.update(await request.json())
    return JSONResponse(request.session)


async def fail(request: StarletteRequest) -> Response:
    request.session["lost"] = True
    raise RuntimeError("broken")


async def stale(request: StarletteRequest) -> Response:
    raise StateStale("out of contact")


async def socket(websocket: WebSocket) -> None:
    session = get_session(websocket)
    if session.subject is None:
        raise TokenMissing("no user is logged in")
    await websocket.accept()
    await websocket.send_json({"subject": session.subject, "data": websocket.session})
    await websocket.close()


ROUTES = [
    Route("/me", home),
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/update", update, methods=["POST"]),
    Route("/fail", fail, methods=["POST"]),
    Route("/stale", stale),
    WebSocketRoute("/socket", socket),
]


def starlette_app(*inner: Middleware) -> Starlette:
    return Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, secret_key=SECRET), *inner])


class Through(BaseHTTPMiddleware):
    """Many apps have one of these, and it runs the app in a task of its own."""

    async def dispatch(self, request: StarletteRequest, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def tells_the_whole_story(client: TestClient) -> None:
    logs_in_and_out(client)
    assert client.post("/update", json={"cart": ["book"]}).json() == {"cart": ["book"]}
    assert client.post("/fail").status_code == 500
    assert client.get("/me").json()["data"] == {"cart": ["book"]}
    response = client.get("/stale")
    assert (response.status_code, response.json()["code"]) == (503, "state_stale")


def test_starlette(client_of: MakeClient) -> None:
    tells_the_whole_story(client_of(starlette_app(), raise_server_exceptions=False))


def test_starlette_with_a_middleware_that_runs_the_app_in_a_task_of_its_own() -> None:
    # On asyncio only: on trio, BaseHTTPMiddleware leaves a generator to the garbage collector, which complains now and then.
    with TestClient(starlette_app(Middleware(Through)), raise_server_exceptions=False) as client:
        tells_the_whole_story(client)


async def late(request: StarletteRequest) -> Response:
    await logged_out_meanwhile(get_session(request))
    return JSONResponse({})


async def handle(request: StarletteRequest, problem: Exception) -> Response:
    return JSONResponse({"mine": str(problem)}, status_code=418)


def test_starlette_with_a_handler_of_its_own_makes_no_500_of_a_refusal_at_the_commit(client_of: MakeClient) -> None:
    routes = [Route("/login", login, methods=["POST"]), Route("/late", late), Route("/stale", stale)]
    middleware = [Middleware(SessionMiddleware, secret_key=SECRET)]
    client = client_of(Starlette(routes=routes, middleware=middleware, exception_handlers={ProblemError: handle}))
    client.post("/login")
    assert client.get("/stale").status_code == 418
    response = client.get("/late")
    assert (response.status_code, response.json()["code"]) == (401, "session_revoked")


def test_starlette_routes_with_a_middleware_each(client_of: MakeClient) -> None:
    each = [Middleware(SessionMiddleware, secret_key=SECRET)]
    routes = [
        Route("/me", home, middleware=each),
        *(Route(f"/{f.__name__}", f, methods=["POST"], middleware=each) for f in (login, logout)),
    ]
    logs_in_and_out(client_of(Starlette(routes=routes)))


def test_a_websocket_in_starlette(client_of: MakeClient) -> None:
    client = client_of(starlette_app())
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/socket"):
        pass
    assert (refused.value.status_code, refused.value.json()["code"]) == (401, "token_missing")
    client.post("/login")
    client.post("/update", json={"a": 1})
    with client.websocket_connect("/socket") as websocket:
        assert websocket.receive_json() == {"subject": "ada", "data": {"a": 1}}


# A plain callable


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    session = get_session(scope)
    if scope["path"] == "/login":
        session.login("ada")
    elif scope["path"] == "/logout":
        await session.revoke()
    await respond(send, body=(session.subject or "nobody").encode())


def test_a_plain_callable(client_of: MakeClient) -> None:
    client = client_of(SessionMiddleware(plain, secret_key=SECRET))
    logs_in_and_out(client, who=lambda response: None if response.text == "nobody" else response.text)
