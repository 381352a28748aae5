"""Protected, open and exempt paths, and the paths that the middleware serves itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from ha_session_mw import SessionReadOnly
from ha_session_mw.exceptions import problem_types
from ha_session_mw.manager import node_of

from .driver import Node, call, look, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app was called")


# PROTECT


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/private/x", 401),
        ("/private/", 401),
        ("/private/x/y", 401),
        ("/private", 200),
        ("/Private/x", 200),
        ("/privately", 200),
        ("/", 200),
        ("/admin", 401),
        ("/admin/x", 200),
        ("/a/b.json", 401),
    ],
)
async def test_a_protected_path_needs_a_session(path: str, status: int) -> None:
    node = Node(protect="/private/*, /admin, *.json")
    assert (await node.request(path=path)).status == status
    visitor = await node.logged_in()
    assert (await visitor.visit(who, path)).result == "ada"


async def test_a_visitors_session_will_do_on_a_protected_path() -> None:
    node = Node(protect="/private/*")
    visitor = node.visitor()
    await visitor.visit(lambda s: s.update(a=1))
    assert (await visitor.visit(look, "/private/x")).result == {"a": 1}


async def test_nothing_of_the_body_is_read_before_a_refusal() -> None:
    node = Node(app=unread, protect="*")
    for token in (None, "rubbish"):
        answer = await node.request(token=token, method="POST", incoming=[{"type": "http.request", "body": b"x", "more_body": True}])
        assert (answer.status // 100, answer.received) == (4, 0)


async def test_the_path_is_the_one_below_the_root_path() -> None:
    node = Node(protect="/private/*")
    assert (await node.request(path="/app/private/x", root_path="/app")).status == 401
    assert (await node.request(path="/app/private/x")).status == 200
    assert (await node.request(path="/private/x", root_path="/app")).status == 401  # a server that leaves the prefix out
    assert (await node.request(path="/application/private/x", root_path="/app")).status == 200


async def test_a_middleware_inside_a_mount_sees_the_path_below_it() -> None:
    node = Node(protect="/private/*")
    outside = Starlette(routes=[Mount("/sub", app=node.app)])
    scope: dict[str, Any] = {"act": look, "status": 200, "answer_headers": ()}
    answer = await call(outside, scope_of("http", "/sub/private/x", **scope))
    assert (answer.status, answer.problem["type"]) == (401, "/sub/-/session/problems/token_missing")
    assert (await call(outside, scope_of("http", "/sub/x", **scope))).status == 200
    page = await call(outside, scope_of("http", answer.problem["type"]))
    assert page.status == 200


async def test_mounts_inside_see_the_whole_path() -> None:
    inner = Starlette(routes=[Mount("/api", routes=[Route("/private/x", hello), Route("/open", hello)])])
    node = Node(app=inner, protect="/api/private/*")
    assert (await node.request(path="/api/private/x")).status == 401
    assert (await node.request(path="/api/open")).status == 200


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


# PUBLIC


async def test_a_visitor_logs_in_on_a_public_path_while_all_else_is_protected() -> None:
    node = Node(protect="*", public="/login")
    visitor = node.visitor()
    assert (await visitor.visit(who)).code == "token_missing"
    answer = await visitor.visit(lambda session: session.login("ada"), "/login", method="POST")
    assert (answer.status, answer.header("cache-control")) == (200, "private, no-store")
    assert (await visitor.visit(who)).result == "ada"


async def test_a_session_is_looked_at_on_a_public_path() -> None:
    node = Node(protect="*", public="/login")
    visitor = node.visitor()
    await visitor.visit(lambda session: session.login("ada"), "/login")
    assert (await visitor.visit(who, "/login")).result == "ada"
    await node.manager.revoke_subject("ada")
    assert (await visitor.visit(why, "/login")).result == "session_revoked"


async def test_an_exemption_inside_protection_is_an_exception_and_names_the_remedy_if_a_visitor_logs_in_there() -> None:
    node = Node(protect="*", exempt="/login")
    assert (await node.request(who, "/login")).result is None
    with pytest.raises(SessionReadOnly, match="HA_SESSION_PUBLIC"):
        await node.request(lambda session: session.login("ada"), "/login")
    assert (await node.request(who, "/account")).code == "token_missing"


async def test_public_opens_no_device_routes() -> None:
    node = Node(cluster="memory://", track="on", devices="on", public="*")
    assert (await node.request(path="/-/session/devices")).code == "token_missing"


# EXEMPT


async def test_an_exempt_path_is_never_looked_at() -> None:
    node = Node(exempt="/static/*")
    visitor = await node.logged_in("ada", a=1)
    for token in (visitor.token, "rubbish", "x" * 5000, None):
        answer = await node.request(lambda s: (s.subject, s.id, dict(s), s.problem), "/static/x", token=token)
        assert answer.result == (None, None, {}, None)
        assert answer.all("set-cookie") == []


async def test_an_exempt_path_has_the_manager_all_the_same() -> None:
    """A log-out that another system asks for, say, comes without any session."""
    node = Node(exempt="/hooks/*")
    visitor = await node.logged_in("ada")
    answer = await node.request(lambda s: s.manager.revoke_subject("ada"), "/hooks/left-the-company")
    assert answer.result.mode == "fenced"
    assert (await visitor.visit(why)).result == "session_revoked"


async def test_of_two_rules_the_safe_one_holds() -> None:
    node = Node(protect="/private/*", exempt="*")
    assert (await node.request(path="/private/x")).status == 401


async def test_an_exempt_path_is_served_by_a_node_that_knows_nothing() -> None:
    node = Node(exempt="/static/*")
    visitor = await node.logged_in()
    node_of(node.manager).view.fresh_at = node.clock.boot_s()
    node.clock.advance(6)
    assert (await visitor.visit(look, "/static/x")).status == 200
    assert (await visitor.visit(look, "/")).code == "state_stale"  # cannot tell is never anonymous
    assert (await node.request()).status == 200  # nor is a visitor anybody's session


# Probes and pages


@pytest.mark.parametrize("name", ["livez", "readyz", "startupz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_probes_answer_without_the_app_and_without_a_session(name: str, method: str) -> None:
    node = Node(app=unread, protect="*")
    answer = await node.request(path=f"/-/session/{name}", method=method, token="rubbish")
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    body = b'{"status":"pass"}'
    assert answer.header("content-length") == str(len(body))
    assert answer.body == (b"" if method == "HEAD" else body)


async def test_a_node_that_waits_for_others_is_not_ready_but_lives_and_has_started(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_of(node.manager), "why_not_ready", lambda: "has not learned enough")
    answer = await node.request(path="/-/session/readyz")
    assert answer.status == 503
    assert json.loads(answer.body) == {"status": "fail", "output": "has not learned enough"}
    for name in ("livez", "startupz"):
        assert (await node.request(path=f"/-/session/{name}")).status == 200


async def test_the_endpoints_stand_where_they_are_set() -> None:
    node = Node(endpoints="/_s", protect="*")
    assert (await node.request(path="/_s/livez")).status == 200
    assert (await node.request(path="/-/session/livez")).status == 401
    assert (await node.request()).problem["type"] == "/_s/problems/token_missing"


@pytest.mark.parametrize("path", ["/-/session/", "/-/session/x", "/-/session/problems/", "/-/session/problems/no", "/-/session/livez/"])
async def test_a_missing_path_is_404(path: str) -> None:
    assert (await Node(app=unread).request(path=path)).status == 404


@pytest.mark.parametrize("path", ["/-/session", "/-/sessions", "/-/session2/livez"])
async def test_a_path_that_only_looks_alike_is_the_apps(node: Node, path: str) -> None:
    assert (await node.request(path=path)).body == b"ok"


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_the_endpoints_are_read_only(node: Node, method: str) -> None:
    answer = await node.request(path="/-/session/livez", method=method)
    assert (answer.status, answer.header("allow"), answer.received) == (405, "GET, HEAD", 0)


@pytest.mark.parametrize("code", problem_types())
async def test_there_is_a_page_for_each_code(code: str) -> None:
    answer = await Node(app=unread).request(path=f"/-/session/problems/{code}")
    assert answer.status == 200
    assert answer.header("content-type") == "text/html; charset=utf-8"
    assert problem_types()[code].title in answer.body.decode().replace("&#x27;", "'")


async def test_a_websocket_below_the_endpoints_is_the_apps() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    answer = await call(Node(app=app).app, scope_of("websocket", "/-/session/livez"))
    assert answer.messages == [{"type": "websocket.close"}]
