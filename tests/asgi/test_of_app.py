"""The session manager of an app is found, in whichever way the middleware was added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import litestar
import pytest
from fastapi import FastAPI
from litestar.middleware import DefineMiddleware
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from ha_session_mw import (
    ConfigurationError,
    SessionManager,
    SessionMiddleware,
    Settings,
    UsageError,
    get_session,
    manager_of,
)
from ha_session_mw.testing import mint_session, session_cookie, who_is_there

from .driver import SECRET

SETTINGS = Settings(secret_key=SECRET, cookie_name="of-app")


class Derived(SessionMiddleware):
    def __init__(self, app: Any, secret: str) -> None:
        super().__init__(app, settings=Settings(secret_key=secret, cookie_name="of-app"))


async def whoami(request: Request) -> JSONResponse:
    return JSONResponse(get_session(request).subject)


ROUTES = [Route("/", whoami)]


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(SessionMiddleware, settings=SETTINGS)
    app.add_api_route("/", lambda request: get_session(request).subject, response_model=None)
    app.router.routes[-1:] = ROUTES
    return app


@litestar.get("/")
async def litestar_whoami(request: litestar.Request[Any, Any, Any]) -> str | None:
    return get_session(request).subject


def quart_app() -> Quart:
    app = Quart(__name__)

    @app.get("/")
    async def index() -> Any:
        from quart import jsonify, request

        return jsonify(get_session(request).subject)

    app.asgi_app = SessionMiddleware(app.asgi_app, settings=SETTINGS)  # type: ignore[method-assign]
    return app


APPS: dict[str, Callable[[], Any]] = {
    "starlette": lambda: Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, settings=SETTINGS)]),
    "positional": lambda: Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, SECRET, "of-app")]),
    "subclass": lambda: Starlette(routes=ROUTES, middleware=[Middleware(Derived, SECRET)]),
    "fastapi": fastapi_app,
    "mounted": lambda: Starlette(
        routes=[Mount("/", Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, settings=SETTINGS)]))]
    ),
    "litestar": lambda: litestar.Litestar(
        [litestar_whoami],
        middleware=[DefineMiddleware(SessionMiddleware, settings=SETTINGS)],
        openapi_config=None,
    ),
    "around litestar": lambda: SessionMiddleware(litestar.Litestar([litestar_whoami]), settings=SETTINGS),
    "quart": quart_app,
    "another around ours": lambda: CORSMiddleware(SessionMiddleware(Starlette(routes=ROUTES), settings=SETTINGS)),
}


@pytest.mark.parametrize("how", APPS)
def test_a_test_gets_a_session_of_the_app_before_and_after_its_start(how: str) -> None:
    app = APPS[how]()
    before = manager_of(app)
    client = TestClient(app, cookies=session_cookie(app, "ada"))
    assert list(session_cookie(app, "ada")) == ["of-app"]
    assert client.get("/").text.strip('"\n') == "ada"
    assert manager_of(app) is before
    assert TestClient(app, cookies=session_cookie(app, "grace")).get("/").text.strip('"\n') == "grace"


def test_the_manager_is_the_one_that_serves() -> None:
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, settings=SETTINGS)])
    manager = manager_of(app)
    with TestClient(app) as client:
        client.cookies.update(session_cookie(app, "ada"))
        assert client.get("/").json() == "ada"
        assert client.portal is not None
        client.portal.call(manager.revoke_subject, "ada")
        assert client.get("/").json() is None


def test_a_manager_of_the_apps_own_is_found() -> None:
    manager = SessionManager(SETTINGS)
    assert manager_of(Starlette(middleware=[Middleware(SessionMiddleware, manager=manager)])) is manager
    assert manager_of(SessionMiddleware(who_is_there, manager=manager)) is manager


def test_looking_for_the_manager_adds_no_tasks_to_it() -> None:
    from ha_session_mw.manager import node_of

    app = Starlette(middleware=[Middleware(SessionMiddleware, settings=SETTINGS)])
    manager = manager_of(app)
    known = len(node_of(manager).supervisor.known)
    manager_of(app)
    assert len(node_of(manager).supervisor.known) == known


@pytest.mark.parametrize("app", [Starlette(), FastAPI(), who_is_there, None, litestar.Litestar([], openapi_config=None)])
def test_an_app_without_the_middleware_is_an_error(app: Any) -> None:
    with pytest.raises(LookupError, match="no SessionMiddleware"):
        session_cookie(app, "ada")


@pytest.mark.parametrize(
    "make",
    [lambda: Starlette(middleware=[Middleware(SessionMiddleware)]), lambda: SessionMiddleware(who_is_there)],
    ids=["added", "around"],
)
def test_wrong_settings_are_reported_here_too(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HA_SESSION_SECRET_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="HA_SESSION_SECRET_KEY"):
        manager_of(make())


# A manager that nothing runs

PEERS = Settings(
    secret_key=SECRET, cluster="peers://", peers="http://10.9.8.1:1,http://10.9.8.2:1,http://10.9.8.3:1", advertise_url="http://10.9.8.1:1"
)


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize(
    "use",
    [
        lambda manager: manager.revoke_session("an-id-of-a-session"),
        lambda manager: manager.revoke_subject("ada"),
        lambda manager: manager.revoke_everybody(),
        lambda manager: manager.revoke_key("abc"),
        lambda manager: manager.sessions_of("ada"),
        lambda manager: manager.revoke_session_of("ada", "x"),
    ],
)
async def test_a_manager_that_nothing_runs_says_so(use: Callable[[SessionManager], Any]) -> None:
    with pytest.raises(UsageError, match=r"nothing runs the node .* peers://.*manager\.running"):
        await use(SessionManager(PEERS))


def test_a_session_of_a_node_that_must_hear_others_needs_a_node_that_runs() -> None:
    with pytest.raises(UsageError, match="nothing runs the node"):
        mint_session(SessionManager(PEERS), "ada")


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("cluster", ["memory://", "sqlite:///{}/sessions.db"])
async def test_a_node_that_needs_no_other_works_without_running(cluster: str, tmp_path: Any) -> None:
    manager = SessionManager(Settings(secret_key=SECRET, cluster=cluster.format(tmp_path)))
    assert (await manager.revoke_subject("ada")).mode == "fenced"
