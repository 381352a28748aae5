"""The cookie: its attributes, the moments when it is set, and the headers for caches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ha_session_mw import SessionMiddleware, get_session
from ha_session_mw.manager import node_of

from .driver import SECRET, Answer, Header, Node, call, look, obliging, scope_of, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def log_in(node: Node, **kwargs: Any) -> str:
    [cookie] = (await node.request(lambda s: s.login("ada"), **kwargs)).all("set-cookie")
    return cookie


# Attributes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "path=/; Max-Age=43200; httponly; samesite=lax"),
        ({"cookie_path": "/app"}, "path=/app; Max-Age=43200; httponly; samesite=lax"),
        ({"cookie_domain": "example.org"}, "path=/; Max-Age=43200; httponly; samesite=lax; domain=example.org"),
        ({"cookie_same_site": "strict"}, "path=/; Max-Age=43200; httponly; samesite=strict"),
        ({"cookie_https_only": True}, "path=/; Max-Age=43200; httponly; samesite=lax; secure"),
        ({"cookie_same_site": "none", "cookie_https_only": "true"}, "path=/; Max-Age=43200; httponly; samesite=none; secure"),
        ({"cookie_partitioned": True, "cookie_https_only": True}, "path=/; Max-Age=43200; httponly; samesite=lax; secure; partitioned"),
        ({"absolute_timeout": "1h"}, "path=/; Max-Age=3600; httponly; samesite=lax"),
    ],
)
async def test_the_cookie_has_the_attributes_that_are_set(settings: dict[str, Any], expected: str) -> None:
    cookie = await log_in(Node(**settings))
    assert re.sub(r"^session=hs1\.[\w.-]+; ", "", cookie) == expected


async def test_the_removal_has_the_attributes_of_the_cookie() -> None:
    node = Node(cookie_path="/app", cookie_domain="example.org", cookie_https_only=True)
    answer = await (await node.logged_in()).visit(lambda s: s.clear())
    expected = (
        "session=null; path=/app; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; httponly; samesite=lax; secure; domain=example.org"
    )
    assert answer.all("set-cookie") == [expected]


async def test_the_cookie_has_the_name_that_is_set() -> None:
    node = Node(cookie_name="__Host-sid", cookie_https_only=True)
    answer = await node.request(lambda s: s.login("ada"))
    [cookie] = answer.cookies("__Host-sid")
    header = (b"cookie", cookie.split(";")[0].encode())
    assert (await node.request(who, headers=[header])).result == "ada"


@pytest.mark.parametrize(
    ("scheme", "header", "secure"),
    [
        ("http", None, False),
        ("https", None, True),
        ("http", (b"x-forwarded-proto", b"https"), True),
        ("http", (b"x-forwarded-proto", b"HTTPS"), True),
        ("http", (b"x-forwarded-proto", b"http, https"), True),
        ("http", (b"x-forwarded-proto", b"http"), False),
        ("http", (b"x-forwarded-scheme", b"https"), True),
        ("http", (b"x-url-scheme", b"https"), True),
        ("http", (b"x-scheme", b"https"), True),
        ("http", (b"x-forwarded-ssl", b"on"), True),
        ("http", (b"x-forwarded-ssl", b"off"), False),
        ("http", (b"front-end-https", b"On"), True),
        ("http", (b"forwarded", b"for=192.0.2.1;proto=https"), True),
        ("http", (b"forwarded", b'for=192.0.2.1;Proto="https", for=10.0.0.1;proto=http'), True),
        ("http", (b"forwarded", b"for=192.0.2.1;proto=http;host=https.example"), False),
        ("https", (b"x-forwarded-proto", b"http"), True),
    ],
)
async def test_auto_makes_the_cookie_secure_whenever_anything_claims_https(
    node: Node, scheme: str, header: Header | None, *, secure: bool
) -> None:
    cookie = await log_in(node, scheme=scheme, headers=[header] if header else [])
    assert ("; secure" in cookie) is secure


@pytest.mark.parametrize(("https_only", "secure"), [("false", False), ("true", True)])
async def test_an_explicit_setting_decides_over_secure_for_both_schemes(https_only: str, *, secure: bool) -> None:
    for scheme in ("http", "https"):
        assert ("; secure" in await log_in(Node(cookie_https_only=https_only), scheme=scheme)) is secure


# The call as Starlette's


async def starlette_way(**arguments: Any) -> Answer:
    app = SessionMiddleware(obliging, SECRET, **arguments)
    return await call(app, scope_of("http", scheme="https", act=lambda s: s.update(a=1), status=200, answer_headers=()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "session=T; path=/; Max-Age=1209600; httponly; samesite=lax"),
        ({"session_cookie": "sid"}, "sid=T; path=/; Max-Age=1209600; httponly; samesite=lax"),
        ({"max_age": 60}, "session=T; path=/; Max-Age=60; httponly; samesite=lax"),
        ({"max_age": 0}, "session=T; path=/; Max-Age=0; httponly; samesite=lax"),
        ({"max_age": -1}, "session=T; path=/; Max-Age=-1; httponly; samesite=lax"),
        ({"max_age": None}, "session=T; path=/; httponly; samesite=lax"),
        ({"https_only": True, "partitioned": True}, "session=T; path=/; Max-Age=1209600; httponly; samesite=lax; secure; partitioned"),
        ({"domain": ".example.org", "path": "/x"}, "session=T; path=/x; Max-Age=1209600; httponly; samesite=lax; domain=.example.org"),
    ],
)
async def test_called_as_starlettes_it_does_as_starlettes(arguments: dict[str, Any], expected: str) -> None:
    [cookie] = (await starlette_way(**arguments)).all("set-cookie")
    assert re.sub(r"hs1\.[\w.-]+", "T", cookie) == expected


# When it is set


async def test_reading_sets_nothing_and_says_that_the_cookie_was_looked_at(node: Node) -> None:
    answer = await (await node.logged_in("ada", a=1)).visit(look)
    assert answer.all("set-cookie") == answer.all("session-token") == []
    assert answer.header("vary") == "Cookie, Authorization"


async def test_a_session_is_renewed_when_half_of_its_idle_life_is_gone(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    node.clock.advance(15 * 60 - 0.001)
    assert (await visitor.visit(look)).cookies() == []
    node.clock.advance(0.001)
    answer = await visitor.visit(look)
    assert answer.token
    assert (await visitor.visit(lambda s: (s.subject, dict(s)))).result == ("ada", {"a": 1})


async def test_renewal_keeps_a_session_alive_until_its_absolute_end(node: Node) -> None:
    visitor = await node.logged_in("ada")
    for _ in range(12 * 4):
        assert (await visitor.visit(who)).result == "ada"
        node.clock.advance(15 * 60)
    assert (await visitor.visit(why)).result == "session_expired"


async def test_a_session_that_is_not_used_is_over_without_leeway(node: Node) -> None:
    visitor = await node.logged_in("ada")
    node.clock.advance(30 * 60 - 0.001)
    token = visitor.token
    assert (await node.request(who, token=token)).result == "ada"
    node.clock.advance(0.001)
    assert (await node.request(why, token=token)).result == "session_idle_timeout"


async def test_two_tabs_on_two_nodes_get_the_same_successor(node: Node) -> None:
    parent = (await node.logged_in("ada", a=1)).token
    other = Node(clock=node.clock)
    node.clock.advance(16 * 60)
    first = await node.request(look, token=parent)
    node.clock.advance(30)
    second = await other.request(look, token=parent)
    assert first.token == second.token != parent
    assert first.token


async def test_a_session_that_the_app_never_reads_is_renewed_too(node: Node) -> None:
    parent = (await node.logged_in("ada")).token
    node.clock.advance(16 * 60)
    node.app.app = silent
    assert (await node.request(token=parent)).token


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


async def test_a_bearer_client_is_renewed_in_a_header(node: Node) -> None:
    parent = (await node.logged_in("ada")).token
    node.clock.advance(16 * 60)
    answer = await node.request(look, bearer=parent)
    assert answer.all("set-cookie") == []
    assert (await node.request(who, bearer=answer.header("session-token"))).result == "ada"


@pytest.mark.parametrize("transport", ["token", "bearer"])
async def test_the_outer_of_two_middlewares_does_not_renew_over_the_inner_ones_change(node: Node, transport: str) -> None:
    # A router and an app that it is mounted in may bring one each.
    ada = await node.logged_in(visits=1)
    node.clock.advance(900)
    node.app = SessionMiddleware(node.app, manager=node.manager)
    answer = await node.request(lambda s: s.update(visits=2), **{transport: ada.token})  # type: ignore[arg-type]
    [token] = answer.all("session-token") if transport == "bearer" else [answer.token]
    assert (await node.request(look, token=token)).result == {"visits": 2}


async def test_a_renewal_gives_way_to_the_apps_own_set_cookie(node: Node) -> None:
    ada = await node.logged_in()
    node.clock.advance(900)
    removed = (b"set-cookie", b"session=null; Max-Age=0")
    answer = await node.request(look, token=ada.token, answer_headers=[removed])
    assert answer.all("set-cookie") == ["session=null; Max-Age=0"]


async def test_no_renewal_on_a_5xx(node: Node) -> None:
    parent = (await node.logged_in("ada")).token
    node.clock.advance(16 * 60)
    assert (await node.request(look, token=parent, status=500)).cookies() == []


async def test_a_renewal_that_cannot_be_made_now_is_made_later(node: Node) -> None:
    parent = (await node.logged_in("ada")).token
    node.clock.advance(16 * 60)

    def lose_contact(session: Any) -> None:
        node_of(node.manager).view.fresh_at = node.clock.boot_s()
        node.clock.advance(6)

    assert (await node.request(lose_contact, token=parent)).cookies() == []
    node_of(node.manager).view.fresh_at = float("inf")
    assert (await node.request(look, token=parent)).token


@pytest.mark.parametrize(("before", "age_h"), [("2h", 1), ("12h", 6.9), ("14d", 8 * 24)])
async def test_a_shorter_idle_timeout_logs_no_active_user_out(node: Node, before: str, age_h: float) -> None:
    token = (await Node(clock=node.clock, idle_timeout=before, absolute_timeout="30d").logged_in("ada")).token
    node.clock.advance(age_h * 3600)
    visitor = Node(clock=node.clock, idle_timeout="30m", absolute_timeout="30d").visitor()
    visitor.token = token
    for _ in range(5):
        assert (await visitor.visit(who)).result == "ada"
        node.clock.advance(14 * 60)


# Caches


@pytest.mark.parametrize(
    ("transports", "vary"), [("cookie", "Cookie"), ("bearer", "Authorization"), ("cookie,bearer", "Cookie, Authorization")]
)
async def test_vary_names_the_fields_that_were_read(transports: str, vary: str) -> None:
    assert (await Node(transports=transports).request(look)).header("vary") == vary


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"Accept", "Accept, Cookie, Authorization"),
        (b"accept, cookie", "accept, cookie, Authorization"),
        (b"Cookie, Authorization", "Cookie, Authorization"),
        (b"*", "*"),
    ],
)
async def test_the_apps_own_vary_is_kept(node: Node, given: bytes, expected: str) -> None:
    assert (await node.request(look, answer_headers=[(b"vary", given)])).header("vary") == expected


async def test_an_app_may_send_the_same_list_of_fields_again_and_again() -> None:
    """As a response that is made once and kept. The field is there once, and a response with a new cookie changes nothing for the next."""
    kept = [(b"content-type", b"text/plain")]
    start = {"type": "http.response.start", "status": 200, "headers": kept}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        session.mark_accessed()
        if scope["path"] == "/write":
            session["x"] = 1
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    node = Node(app=app)
    for path in ("/", "/", "/write", "/", "/write", "/"):
        answer = await node.request(path=path)
        assert answer.header("vary") == "Cookie, Authorization"
        assert len(answer.cookies()) == (path == "/write")
    assert [name for name, _ in kept] == [b"content-type", b"vary"]


@pytest.mark.parametrize("fields", [iter, tuple])
@pytest.mark.parametrize("path", ["/", "/private/x"])
@pytest.mark.parametrize("writes", [False, True])
async def test_header_fields_may_be_any_iterable(fields: Callable[[list[Header]], Iterable[Header]], path: str, *, writes: bool) -> None:
    """As ASGI has it: also one that can be gone through once only."""
    sent = [(b"content-type", b"text/plain"), (b"x-app", b"1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        if writes:
            session["x"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": fields(sent)})
        await send({"type": "http.response.body", "body": b""})

    node = Node(app=app, protect="/private/*")
    answer = await node.request(path=path, token=node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode())
    assert answer.start["headers"][:2] == sent
    assert answer.header("vary") == "Cookie, Authorization"


async def test_a_response_that_has_nothing_to_do_with_the_session_is_left_alone(node: Node) -> None:
    sent = {"type": "http.response.start", "status": 200, "headers": []}
    node.app.app = silent
    answer = await node.request(token=(await Node(clock=node.clock).logged_in()).token)
    assert answer.start == sent


async def test_a_protected_path_is_always_private_and_varies() -> None:
    node = Node(app=silent, protect="/private/*")
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    answer = await node.request(path="/private/x", token=token)
    assert (answer.header("cache-control"), answer.header("vary")) == ("private, no-store", "Cookie, Authorization")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([b"public, max-age=60"], ["max-age=60, private"]),
        ([b"no-store"], ["no-store"]),
        ([b"private, max-age=5"], ["private, max-age=5"]),
        ([b"max-age=60", b"public"], ["max-age=60, private"]),
    ],
)
async def test_a_protected_paths_own_cache_control_is_kept_but_for_public(given: list[bytes], expected: list[str]) -> None:
    node = Node(protect="/private/*")
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    answer = await node.request(path="/private/x", token=token, answer_headers=[(b"cache-control", value) for value in given])
    found = answer.all("cache-control")
    assert found == expected
