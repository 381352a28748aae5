"""A browser that needs a log-in is sent to the log-in page and comes back to where it wanted to go; all else gets the problem."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis.strategies import sampled_from, text
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from ha_session_mw import SessionMiddleware, Settings, get_session, next_path, require_session
from ha_session_mw.asgi.log_in_page import LONGEST_NEXT

from .driver import SECRET, Answer, Node, call, look, scope_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]
BROWSER = (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")


def location(answer: Answer) -> str | None:
    return answer.header("location")


async def test_a_browser_is_sent_to_the_log_in_page_with_the_way_back() -> None:
    node = Node(protect="/account/*", login_url="/login")
    answer = await node.request(path="/account/orders?page=2&q=a%20b", headers=[BROWSER])
    assert (answer.status, answer.body) == (303, b"")
    assert location(answer) == "/login?next=/account/orders%3Fpage%3D2%26q%3Da%2520b"
    assert (answer.header("cache-control"), answer.header("vary")) == ("no-store", "Accept, Cookie, Authorization")
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", [BROWSER]),
        ("HEAD", [BROWSER]),
        ("PUT", [BROWSER]),
        ("GET", []),
        ("GET", [(b"accept", b"*/*")]),
        ("GET", [(b"accept", b"application/json")]),
        ("GET", [(b"accept", b"text/html;q=0.5, application/json")]),
    ],
)
async def test_all_else_gets_the_problem(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    node = Node(protect="/account", login_url="/login")
    answer = await node.request(path="/account", method=method, headers=headers)
    assert (answer.status, location(answer)) == (401, None)


@pytest.mark.parametrize("token", ["rubbish", "hs1.a.b.c.d", "x" * 5000])
async def test_a_browser_whose_cookie_is_of_no_use_can_log_in(token: str) -> None:
    node = Node(protect="/account", login_url="/login")
    assert location(await node.request(path="/account", token=token, headers=[BROWSER])) == "/login?next=/account"


async def test_a_session_that_has_ended_leads_to_the_log_in_page_and_one_that_cannot_be_told_does_not() -> None:
    node = Node(protect="/account", login_url="/login", cluster="memory://")
    visitor = await node.logged_in("ada")
    token = visitor.token
    await node.manager.revoke_subject("ada")
    assert location(await node.request(path="/account", token=token, headers=[BROWSER])) == "/login?next=/account"


@pytest.mark.parametrize("token", [None, "of ada"])
async def test_an_infrastructure_fault_leads_nowhere(token: str | None) -> None:
    from ha_session_mw.manager import node_of

    node = Node(protect="/account", login_url="/login")
    token = token and (await node.logged_in("ada")).token
    node_of(node.manager).view.fresh_at = node.clock.boot_s()
    node.clock.advance(6)
    answer = await node.request(path="/account", token=token, headers=[BROWSER])
    assert answer.status == (303 if token is None else 503)


async def test_the_log_in_page_is_public_and_never_leads_to_itself() -> None:
    node = Node(protect="*", login_url="/login?from=guard")
    assert (await node.request(path="/login", headers=[BROWSER])).status == 200
    assert (await node.request(path="/login/x", headers=[BROWSER])).status == 303
    refusing = await node.request(lambda session: session.require(), "/login", headers=[BROWSER])
    assert refusing.status == 401
    assert location(await node.request(path="/x", headers=[BROWSER])) == "/login?from=guard&next=/x"


@pytest.mark.parametrize(
    ("page", "kept"),
    [
        ("/login", "/login?"),
        ("/login?", "/login?"),
        ("/login?from=guard&next=/home", "/login?from=guard&"),
        ("/login?next=/home&from=guard", "/login?from=guard&"),
        ("/login?next=/home&n%65xt=/b&next", "/login?"),
        ("/login?nextone=1&xnext=/a", "/login?nextone=1&xnext=/a&"),
    ],
)
async def test_the_way_back_takes_the_place_of_a_next_of_the_pages_own(page: str, kept: str) -> None:
    node = Node(protect="/account", login_url=page)
    found = location(await node.request(path="/account?a=1", headers=[BROWSER])) or ""
    assert found == kept + "next=/account%3Fa%3D1"
    assert next_path(scope_of("http", found)) == "/account?a=1"


async def test_without_a_way_back_the_pages_own_next_counts() -> None:
    node = Node(protect="/account", login_url="/login?next=/home")
    found = location(await node.request(path="/account?" + "x" * LONGEST_NEXT, headers=[BROWSER]))
    assert found == "/login?next=/home"


async def test_the_page_lies_below_the_root_path() -> None:
    node = Node(protect="/account", login_url="/login")
    for path in ("/shop/account", "/account"):
        answer = await node.request(path=path, root_path="/shop", headers=[BROWSER])
        assert location(answer) == "/shop/login?next=/shop/account"
    answer = await node.request(path="/sh\u00f6p/account", root_path="/sh\u00f6p", headers=[BROWSER])
    assert location(answer) == "/sh%C3%B6p/login?next=/sh%25C3%25B6p/account"


@pytest.mark.parametrize("root_path", ["//evil.example", "///evil.example", "evil.example"])
async def test_a_root_path_that_names_another_site_leads_nowhere(root_path: str) -> None:
    node = Node(protect="*", login_url="/login")
    answer = await node.request(path=f"{root_path}/x", root_path=root_path, headers=[BROWSER])
    assert (answer.status, location(answer)) == (401, None)


def test_a_router_that_takes_the_root_path_from_the_request_redirects_to_no_other_site() -> None:
    shop = SessionMiddleware(Starlette(), settings=Settings(secret_key=SECRET, protect="*", login_url="/login"))
    browser = TestClient(Starlette(routes=[Mount("/{tenant:path}", app=shop)]), follow_redirects=False)
    leads_to = browser.get("http://testserver//evil.example/x", headers={"Accept": "text/html"}).headers.get("location")
    # FastHTML, once imported, has every ``path`` of Starlette begin after the slash. The root path is then "/".
    assert leads_to in (None, "/login?next=/evil.example/x")


async def test_a_guard_in_a_mounted_app_sends_to_the_page_of_the_whole() -> None:
    @require_session
    async def inner(request: Request) -> Response:
        return PlainTextResponse("inner")

    node = Node(app=Starlette(routes=[Mount("/admin", routes=[Route("/x", inner)])]), login_url="/login")
    answer = await call(node.app, scope_of("http", "/admin/x?a=1", headers=[BROWSER]))
    assert location(answer) == "/login?next=/admin/x%3Fa%3D1"


HOSTILE = sampled_from(
    ["//", "/\\", "\\", "/", "evil.example", "\t", "\n", "@", ":", "http:", "%2f", "%09", "\x00", "\ud800", "\u00e9", ";", ".."]
)


@given(text(max_size=12) | HOSTILE, text(max_size=6) | HOSTILE, sampled_from(["", "/shop"]))
@example("//evil.example", "", "")
@example("/" * LONGEST_NEXT, "x", "")
def test_next_never_leads_to_another_site(begin: str, end: str, root_path: str) -> None:
    import anyio

    async def ask() -> None:
        node = Node(protect="*", login_url="/login")
        scope = {**scope_of("http", root_path=root_path, headers=[BROWSER], act=look), "path": begin + end}
        answer = await call(node.app, scope)
        if answer.status == 303:
            target = location(answer) or ""
            assert target.startswith(f"{root_path}/login")
            [way_back] = parse_qs(urlsplit(target).query).get("next", ["/"])
            assert way_back[0] == "/"
            assert way_back[1:2] not in ("/", "\\")
            assert way_back.isascii()
            assert way_back.isprintable()

    anyio.run(ask)


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\tx",
        "/\n/evil.example",
        "",
        "x",
    ],
)
def test_the_log_in_page_goes_on_to_no_other_site(target: str) -> None:
    assert next_path(Request({**scope_of("http"), "query_string": b"next=" + target.encode()}), "/home") == "/home"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"next=/account", "/account"),
        (b"next=/account%3Fpage%3D2%26q%3Da%2520b", "/account?page=2&q=a%20b"),
        (b"next=/", "/"),
        (b"", "/"),
        (b"next=/a&next=/b", "/"),
        (b"next=/" + b"x" * LONGEST_NEXT, "/"),
        (b"next=%2F%2Fevil.example", "/"),
        (b"next=/%0d%0aSet-Cookie:x", "/"),
        (b"next=/\xff", "/"),
    ],
)
def test_next_is_read_from_the_query(query: bytes, found: str) -> None:
    assert next_path({**scope_of("http"), "query_string": query}) == found


def test_a_browser_logs_in_and_arrives() -> None:
    async def log_in(request: Request) -> Response:
        if request.method == "GET":
            return PlainTextResponse("who are you?")
        get_session(request).login("ada")
        return RedirectResponse(next_path(request), 303)

    @require_session
    async def orders(request: Request) -> Response:
        return PlainTextResponse(f"orders of {get_session(request).subject}, {request.url.query}")

    app = Starlette(
        routes=[Route("/login", log_in, methods=["GET", "POST"]), Route("/orders", orders)],
        middleware=[Middleware(SessionMiddleware, settings=Settings(secret_key=SECRET, protect="*", login_url="/login"))],
    )
    browser = TestClient(app, headers={"accept": BROWSER[1].decode()})
    page = browser.get("/orders?page=2")
    assert page.text == "who are you?"
    assert browser.post(str(page.url)).text == "orders of ada, page=2"


@pytest.mark.parametrize("url", ["login", "//evil.example", "https://sso.example/", "/log in", "/login#x", "/*", "/\\x"])
def test_a_log_in_page_is_a_path_of_this_app(url: str) -> None:
    from ha_session_mw import ConfigurationError

    with pytest.raises(ConfigurationError, match="HA_SESSION_LOGIN_URL"):
        Settings(secret_key=SECRET, login_url=url)
