"""A recent log-in is asked for, after RFC 9470, and a log-in under a new id is one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import litestar
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp

from ha_session_mw import InsufficientUserAuthentication, Session, SessionReadOnly, require_session
from ha_session_mw.testing import session_cookie

from .driver import Node, Visitor, call, look, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]
REACHED = b"the guarded handler ran"
MINUTE = 60


async def handler(request: Request) -> Response:
    return Response(REACHED)


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def index(session: Annotated[Session, Depends(require_session(max_age="5m"))]) -> str:
        return REACHED.decode()

    return app


@litestar.get("/", guards=[require_session(max_age=300)])
async def litestar_index() -> bytes:
    return REACHED


APPS: dict[str, Any] = {
    "decorator": Starlette(routes=[Route("/", require_session(max_age="5m")(handler))]),
    "fastapi": fastapi_app(),
    "litestar": litestar.Litestar([litestar_index], openapi_config=None),
}


def token_of(node: Node) -> tuple[bytes, bytes]:
    return (b"cookie", b"session=" + session_cookie(node.manager, "ada")["session"].encode())


@pytest.mark.parametrize("how", APPS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_guard_asks_for_a_recent_log_in(how: str, anyio_backend: str) -> None:
    node = Node(app=APPS[how])
    cookie = token_of(node)
    node.clock.advance(5 * MINUTE)
    assert REACHED in (await call(node.app, scope_of("http", headers=[cookie]))).body
    node.clock.advance(0.5)
    answer = await call(node.app, scope_of("http", headers=[cookie]))
    assert (answer.status, answer.code, answer.problem["max_age"]) == (401, "insufficient_user_authentication", 300)
    assert answer.header("www-authenticate") == (
        'Bearer realm="session", error="insufficient_user_authentication", '
        'error_description="A more recent log-in is required", max_age="300"'
    )
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_a_log_in_the_log_in_is_missing(app: ASGIApp, anyio_backend: str) -> None:
    assert (await call(Node(app=app).app, scope_of("http"))).code == "token_missing"


# reauthenticate()


async def test_a_proof_of_presence_takes_a_new_id_in_the_same_family() -> None:
    node = Node()
    visitor = await node.logged_in("ada", cart=["book"])
    first = (await visitor.visit(lambda s: (s.id, s.family, s.authenticated_at, s.expires_at))).result
    old = visitor.token
    node.clock.advance(10 * MINUTE)
    assert (await visitor.visit(lambda s: s.require(max_age="5m"))).code == "insufficient_user_authentication"
    await visitor.visit(lambda s: s.reauthenticate())
    second = (await visitor.visit(lambda s: (s.id, s.family, s.authenticated_at, s.expires_at))).result
    assert second[0] != first[0]
    assert second[1] == first[1]
    assert (second[2] - first[2]).total_seconds() == 10 * MINUTE
    assert second[3] == first[3]
    assert (await visitor.visit(lambda s: s.require(max_age="5m"))).result == "ada"
    assert (await visitor.visit(look)).result == {"cart": ["book"]}
    assert (await node.request(why, token=old)).result == "session_superseded"


async def test_neither_use_nor_renewal_nor_cycle_counts_as_a_log_in() -> None:
    node = Node()
    visitor = await node.logged_in("ada")
    for act in (who, lambda s: s.update(a=1), lambda s: s.cycle()):
        node.clock.advance(16 * MINUTE)
        await visitor.visit(act)
    assert (await visitor.visit(lambda s: s.require(max_age="45m"))).code == "insufficient_user_authentication"


async def test_only_a_user_who_is_logged_in_can_do_it_again() -> None:
    node = Node()
    with pytest.raises(LookupError, match=r"call login\(\)"):
        await node.request(lambda s: s.reauthenticate())
    visitor = node.visitor()
    await visitor.visit(lambda s: s.update(basket=["book"]))
    with pytest.raises(LookupError):
        await visitor.visit(lambda s: s.reauthenticate())
    with pytest.raises(SessionReadOnly):
        await Node(exempt="*").request(lambda s: s.login("ada"))


@pytest.mark.parametrize("max_age", ["soon", 0, -1, float("nan"), True])
async def test_a_nonsensical_age_is_refused_at_once(max_age: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        require_session(max_age=max_age)


# By path


@pytest.fixture
def node() -> Node:
    return Node(step_up="/password,/admin/*", step_up_max_age="10m", track="on", devices="on")


async def late(node: Node, path: str, **how: Any) -> str | None:
    visitor = await node.logged_in("ada")
    node.clock.advance(11 * MINUTE)
    answer = await visitor.visit(look, path, **how)
    return answer.code if answer.status >= 400 else None


@pytest.mark.parametrize("path", ["/password", "/password/", "/./password", "/admin/x", "/x/../password"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_path_asks_for_a_recent_log_in_in_every_spelling(node: Node, path: str, method: str) -> None:
    assert await late(node, path, method=method) == "insufficient_user_authentication"
    assert (await node.request(path=path, method=method)).code == "token_missing"
    visitor = await node.logged_in("ada")
    answer = await visitor.visit(who, path, method=method)
    assert (answer.result, answer.header("cache-control")) == ("ada", "private, no-store")


@pytest.mark.parametrize("path", ["/", "/passwords", "/admin"])
async def test_other_paths_do_not(node: Node, path: str) -> None:
    assert await late(node, path) is None


async def test_a_visitor_with_a_session_does_not_pass(node: Node) -> None:
    visitor = node.visitor()
    await visitor.visit(lambda s: s.update(basket=["book"]))
    assert (await visitor.visit(who, "/password")).code == "token_missing"


async def test_the_path_counts_below_the_root_path(node: Node) -> None:
    assert await late(node, "/shop/password", root_path="/shop") == "insufficient_user_authentication"


async def test_the_device_routes_can_ask_for_it() -> None:
    node = Node(step_up="/-/session/devices*", track="on", devices="on")
    visitor = await node.logged_in("ada")
    assert (await visitor.visit(path="/-/session/devices")).status == 200
    node.clock.advance(6 * MINUTE)
    assert (await visitor.visit(path="/-/session/devices", method="DELETE")).code == "insufficient_user_authentication"
    assert (await visitor.visit(who)).result == "ada"
    await visitor.visit(lambda s: s.reauthenticate())
    answer = await visitor.visit(path="/-/session/devices")
    assert (answer.status, len(json.loads(answer.body)["sessions"])) == (200, 1)


def test_a_handshake_is_refused_too(node: Node) -> None:
    cookies = session_cookie(node.manager, "ada")
    node.clock.advance(11 * MINUTE)
    with pytest.raises(WebSocketDenialResponse) as denied, TestClient(node.app, cookies=cookies).websocket_connect("/password"):
        pass
    assert denied.value.json()["code"] == "insufficient_user_authentication"


async def test_a_browser_is_sent_to_the_log_in_page() -> None:
    node = Node(step_up="/password", login_url="/login")
    visitor = await node.logged_in("ada")
    node.clock.advance(6 * MINUTE)
    answer = await visitor.visit(look, "/password", headers=[(b"accept", b"text/html")])
    assert (answer.status, answer.header("location")) == (303, "/login?next=/password")


async def test_public_and_exempt_open_no_path_that_asks_for_it() -> None:
    node = Node(step_up="/admin/*", public="/admin/x")
    assert (await node.request(path="/admin/x")).code == "token_missing"
    moved = Visitor(node)
    await moved.visit(lambda s: s.login("ada"))
    node.clock.advance(6 * MINUTE)
    assert (await moved.visit(look, "/admin/x")).code == "insufficient_user_authentication"


def test_the_problem_says_how_recent() -> None:
    assert InsufficientUserAuthentication(max_age_s=60).max_age_s == 60
