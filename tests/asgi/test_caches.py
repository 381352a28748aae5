"""A session's token never gets into a cache: neither into a shared one, which would give it to others, nor into the browser's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from ha_session_mw import get_session
from ha_session_mw.asgi.headers import forbid_storing, is_for_everybody, make_private

from .driver import Header, Node, call, look, obliging, respond, scope_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

FOR_EVERYBODY: list[list[Header]] = [
    [(b"cache-control", b"public, max-age=31536000, immutable")],
    [(b"cache-control", b"Public")],
    [(b"cache-control", b"max-age=60"), (b"cache-control", b"s-maxage=600")],
    [(b"cache-control", b"max-age=31536000,immutable")],
    [(b"cdn-cache-control", b"max-age=60")],
    [(b"cloudflare-cdn-cache-control", b"max-age=60")],
    [(b"surrogate-control", b"max-age=60")],
    [(b"x-accel-expires", b"60")],
]
"""Fields by which an app lets shared caches give its answer to other clients."""

FOR_ONE: list[list[Header]] = [
    [],
    [(b"cache-control", b"no-cache")],
    [(b"cache-control", b"max-age=60")],
    [(b"cache-control", b"private, max-age=60")],
    [(b"cache-control", b"no-store")],
    [(b"cache-control", b"private"), (b"cdn-cache-control", b"max-age=60")],
]

IDLE_S = 1800
TOKEN_FIELDS = (b"set-cookie", b"session-token")
TARGETED = (b"cdn-cache-control", b"cloudflare-cdn-cache-control", b"surrogate-control", b"x-accel-expires")


def names(headers: list[Header]) -> set[bytes]:
    return {name for name, _ in headers}


def may_be_shared(headers: list[Header]) -> bool:
    """Whether a shared cache that obeys RFC 9111 and the fields that outrank it may store an answer."""
    given = b",".join(value for name, value in headers if name == b"cache-control").lower()
    forbidden = {b"private", b"no-store"} & {item.strip() for item in given.split(b",")}
    return not forbidden or bool(names(headers) & set(TARGETED))


@pytest.fixture
def node() -> Node:
    return Node(idle_timeout=IDLE_S)


async def public_file(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers a path of files without a look at the session, and others as the test asks."""
    if scope["path"].startswith("/static/"):
        await respond(send, headers=scope["answer_headers"])
    else:
        await obliging(scope, receive, send)


@pytest.mark.parametrize("headers", FOR_EVERYBODY)
@pytest.mark.parametrize("transport", ["token", "bearer"])
async def test_an_answer_for_everybody_carries_no_renewed_token_and_stays_as_it_is(headers: list[Header], transport: str) -> None:
    node = Node(app=public_file, idle_timeout=IDLE_S)
    ada = await node.logged_in()
    node.clock.advance(IDLE_S * 0.9)
    answer = await node.request(path="/static/logo.svg", answer_headers=headers, **{transport: ada.token})  # type: ignore[arg-type]
    assert answer.start["headers"] == [(b"content-type", b"text/plain"), *headers]
    read = await node.request(look, answer_headers=headers, **{transport: ada.token})  # type: ignore[arg-type]
    assert read.header("vary") == "Cookie, Authorization"
    assert not names(read.start["headers"]) & set(TOKEN_FIELDS)
    renewed = await node.request(look, **{transport: ada.token})  # type: ignore[arg-type]
    assert names(renewed.start["headers"]) & set(TOKEN_FIELDS), "the next answer renews the session"


@pytest.mark.parametrize("headers", FOR_ONE + FOR_EVERYBODY)
@pytest.mark.parametrize("transport", ["token", "bearer"])
async def test_no_cache_stores_an_answer_that_hands_out_a_token(node: Node, headers: list[Header], transport: str) -> None:
    ada = await node.logged_in()
    answer = await node.request(lambda session: session.cycle(), answer_headers=headers, **{transport: ada.token})  # type: ignore[arg-type]
    assert names(answer.start["headers"]) & set(TOKEN_FIELDS)
    assert answer.header("cache-control") is not None
    assert "no-store" in str(answer.header("cache-control"))
    assert not may_be_shared(answer.start["headers"])
    assert not names(answer.start["headers"]) & set(TARGETED), "they outrank Cache-Control in the caches that know them"


@pytest.mark.parametrize("headers", FOR_ONE + FOR_EVERYBODY)
async def test_no_cache_stores_an_answer_that_removes_the_cookie(node: Node, headers: list[Header]) -> None:
    ada = await node.logged_in()
    answer = await ada.visit(lambda session: session.clear(), answer_headers=headers)
    assert answer.token == ""
    assert "no-store" in str(answer.header("cache-control"))
    assert not may_be_shared(answer.start["headers"])


async def no_visitor(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that logs in whom a handshake comes from, and refuses the handshake."""
    get_session(scope).login("ada")
    await receive()
    await send({"type": "websocket.http.response.start", "status": 404, "headers": scope["answer_headers"]})
    await send({"type": "websocket.http.response.body", "body": b""})


@pytest.mark.parametrize("headers", FOR_ONE + FOR_EVERYBODY)
async def test_no_cache_stores_a_refused_handshake_that_hands_out_a_token(headers: list[Header]) -> None:
    node = Node(app=no_visitor)
    answer = await call(node.app, scope_of("websocket", extensions={"websocket.http.response": {}}, answer_headers=headers))
    given = answer.start["headers"]
    assert names(given) & set(TOKEN_FIELDS)
    assert b"no-store" in dict(given)[b"cache-control"]
    assert not may_be_shared(given)


@pytest.mark.parametrize("headers", FOR_ONE)
async def test_a_renewed_token_makes_the_answer_private(node: Node, headers: list[Header]) -> None:
    ada = await node.logged_in()
    node.clock.advance(IDLE_S * 0.9)
    answer = await ada.visit(answer_headers=headers)
    assert answer.token
    assert not may_be_shared(answer.start["headers"])


@pytest.mark.parametrize("headers", FOR_EVERYBODY)
async def test_a_protected_answer_is_for_nobody_else_whatever_the_app_says(headers: list[Header]) -> None:
    node = Node(protect="/account", idle_timeout=IDLE_S)
    ada = await node.logged_in()
    for waited in (0, IDLE_S * 0.9):
        node.clock.advance(waited)
        answer = await ada.visit(path="/account", answer_headers=headers)
        assert bool(answer.token) == bool(waited)
        assert not may_be_shared(answer.start["headers"])


@pytest.mark.parametrize(
    ("given_headers", "stored"),
    [
        ([], False),
        ([(b"expires", b"Thu, 01 Jan 2032 00:00:00 GMT")], True),
        ([(b"cache-control", b"max-age=60")], True),
        ([(b"cache-control", b"public")], True),
        ([(b"cache-control", b"no-cache")], True),
    ],
)
async def test_a_protected_page_is_not_stored_by_the_browser_unless_the_app_says_otherwise(
    given_headers: list[Header], stored: bool
) -> None:
    node = Node(protect="/account")
    ada = await node.logged_in()
    answer = await ada.visit(path="/account", answer_headers=given_headers)
    assert ("no-store" not in str(answer.header("cache-control"))) == stored


directives = st.lists(
    st.sampled_from(
        [b"public", b"PRIVATE", b"no-store", b"max-age=60", b"s-maxage = 9", b"immutable", b"no-cache", b"", b" ", b'private="x"', b"x=1"]
    ),
    max_size=5,
)
fields = st.lists(
    st.one_of(
        directives.map(lambda items: (b"cache-control", b", ".join(items))),
        st.sampled_from([(name, b"max-age=60") for name in TARGETED] + [(b"etag", b"1"), (b"vary", b"Accept")]),
    ),
    max_size=6,
)


@given(fields)
def test_fields_that_were_made_private_let_no_shared_cache_store_the_answer(headers: list[Header]) -> None:
    for change in (make_private, forbid_storing):
        changed = [*headers]
        change(changed)
        assert not may_be_shared(changed)
        assert not is_for_everybody(changed)
        assert [header for header in changed if header[0] in (b"etag", b"vary")] == [
            header for header in headers if header[0] in (b"etag", b"vary")
        ], "other fields stay, in their order"
