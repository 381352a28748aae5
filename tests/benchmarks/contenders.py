"""The contenders of the benchmarks: an app behind each session middleware, and the session that its visitor has.

Each app reads a value of the session, and raises if it is not the one that was put there; a batch raises if not every
request of it reached the app. So nothing looks fast because it was refused.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import jwt
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starsessions import CookieStore, InMemoryStore, SessionStore, load_session
from starsessions import SessionMiddleware as StarsessionsMiddleware

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw.manager import node_of

Header = tuple[bytes, bytes]
Wrap = Callable[[ASGIApp], ASGIApp]

KEY = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"
LIFE_S = 14 * 24 * 60 * 60
USER = "alice"
FLAT = {"user": USER, "visits": 3}
NESTED = {"user": USER, "cart": [{"article": 17, "pieces": 2}], "seen": {"news": True}}


class NotReadError(Exception):
    """A contender did not do the measured work."""


class MissingError(Exception):
    """A program or package is not installed. The message says how to install it."""


@dataclass(frozen=True)
class Contender:
    """A contender in the benchmark.

    Attributes:
        name: as the report calls it.
        batch: prepares so many requests when called, and serves them when the result is awaited.
    """

    name: str
    batch: Callable[[int], Awaitable[None]]


# Apps. Each message and list of headers is a new one: a middleware may add to it.


async def answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


class App:
    """Answers, and counts its requests. This one has no session; the others do the same and read theirs besides."""

    reads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reads += 1
        await answer(send)


class Reader(App):
    """Reads the session, as ``request.session`` does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        session.mark_accessed()
        if session.get("user") != USER:
            raise NotReadError(f"the app was given the session {session!r}")
        self.reads += 1
        await answer(send)


class LoadingReader(App):
    """Reads a session of starsessions, which is loaded when the app asks for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await load_session(HTTPConnection(scope))
        if scope["session"].get("user") != USER:
            raise NotReadError(f"the app was given the session {scope['session']!r}")
        self.reads += 1
        await answer(send)


class Writer:
    """Puts something into the session."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "session_handler" in scope:  # starsessions
            await load_session(HTTPConnection(scope))
        scope["session"].update(self._content)
        await answer(send)


# Requests


def scope_of(headers: list[Header], path: str = "/account") -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def discard(message: Message) -> None:
    pass


def headers_with(credential: Header | None) -> list[Header]:
    found = [(b"host", b"localhost:8000"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    return found if credential is None else [*found, credential]


def requests(name: str, app: ASGIApp, innermost: App, credentials: Callable[[int], Iterable[Header | None]]) -> Contender:
    """A contender that answers requests.

    Args:
        name: as the report calls it.
        app: with its middleware.
        innermost: the app that must be reached.
        credentials: gives those of so many requests; called before the clock starts.
    """

    async def serve(of_requests: list[list[Header]]) -> None:
        reads = innermost.reads
        for headers in of_requests:
            await app(scope_of(headers), receive, discard)
        if innermost.reads - reads != len(of_requests):
            raise NotReadError(f"{name}: {innermost.reads - reads} of {len(of_requests)} requests reached the app")

    return Contender(name, lambda count: serve([headers_with(credential) for credential in credentials(count)]))


async def cookie_from(wrap: Wrap, content: dict[str, Any]) -> Header:
    """The cookie with which a middleware hands out a session of this content."""
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await wrap(Writer(content))(scope_of(headers_with(None)), receive, keep)
    for name, value in messages[0]["headers"]:
        if name.lower() == b"set-cookie":
            return b"cookie", value.partition(b";")[0]
    raise NotReadError("no cookie was handed out")


# The middlewares


def bare(app: ASGIApp) -> ASGIApp:
    return app


def empty(app: ASGIApp) -> ASGIApp:
    """The least that a middleware can be which looks at the response: a coroutine, and a ``send`` of its own."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            await send(message)

        await app(scope, receive, send_on)

    return middleware


def starlettes(app: ASGIApp) -> ASGIApp:
    return StarlettesMiddleware(app, KEY)


def starsessions_with(store: SessionStore) -> Wrap:
    return lambda app: StarsessionsMiddleware(app, store, lifetime=LIFE_S, cookie_https_only=False)


def ours_with(manager: SessionManager) -> Wrap:
    return lambda app: SessionMiddleware(app, manager=manager)


def new_manager(**settings: Any) -> SessionManager:
    return SessionManager(Settings(secret_key=KEY, **settings))


def mint(manager: SessionManager, count: int) -> list[bytes]:
    """Tokens of that many sessions, each of a subject of its own."""
    claims = (node_of(manager).issuer.issue(f"subject-{number}") for number in range(count))
    return [node_of(manager).sign(node_of(manager).issuer.change(each, node_of(manager).issuer.fit(each, FLAT))) for each in claims]


def as_cookie(token: bytes) -> Header:
    return b"cookie", b"session=" + token


# The contenders

BARE = "bare app"
EMPTY = "an empty middleware"
STARLETTE = "Starlette's SessionMiddleware"
WARM = "ours, warm"
WARM_COUNTED = "ours, warm, metrics on"
WARM_NESTED = "ours, warm, nested data"
WARM_AMONG_OTHERS = "ours, warm, among other cookies"
WARM_BEARER = "ours, warm, bearer"
WARM_IN_CLUSTER = "ours, warm, with a lease"
FIRST_SIGHT = "ours, first sight of a token"
PYJWT = "PyJWT HS256 decode alone"


def bare_app(name: str = BARE, wrap: Wrap = bare) -> Contender:
    app = App()
    return requests(name, wrap(app), app, lambda count: repeat(None, count))


async def field() -> list[Contender]:
    """Everybody, with sessions of the same content."""
    manager = new_manager()
    store = InMemoryStore()
    return [
        bare_app(),
        bare_app(EMPTY, empty),
        await _with_cookie(STARLETTE, starlettes, Reader()),
        await _with_cookie("starsessions, in memory", starsessions_with(store), LoadingReader()),
        await _with_cookie("starsessions, in a cookie", starsessions_with(CookieStore(KEY)), LoadingReader()),
        await _with_cookie(WARM, ours_with(manager), Reader()),
        await _with_cookie(WARM_COUNTED, ours_with(new_manager(metrics="on")), Reader()),
        await _with_cookie(WARM_NESTED, ours_with(manager), Reader(), NESTED),
        await _among_other_cookies(manager),
        _with_bearer(manager),
        await _with_cookie(WARM_IN_CLUSTER, ours_with(_with_lease()), Reader()),
        first_sight(),
        _pyjwt(),
    ]


async def _with_cookie(name: str, wrap: Wrap, reader: App, content: dict[str, Any] = FLAT) -> Contender:
    cookie = await cookie_from(wrap, content)
    return requests(name, wrap(reader), reader, lambda count: repeat(cookie, count))


async def _among_other_cookies(manager: SessionManager) -> Contender:
    """As most browsers send it, to a site that counts its visitors."""
    reader = Reader()
    name, value = await cookie_from(ours_with(manager), FLAT)
    credential = (name, b"_ga=GA1.1.1234567890.1700000000; theme=dark; " + value)
    return requests(WARM_AMONG_OTHERS, ours_with(manager)(reader), reader, lambda count: repeat(credential, count))


def _with_bearer(manager: SessionManager) -> Contender:
    reader = Reader()
    credential = (b"authorization", b"Bearer " + mint(manager, 1)[0])
    return requests(WARM_BEARER, ours_with(manager)(reader), reader, lambda count: repeat(credential, count))


def _with_lease() -> SessionManager:
    """A manager that compares its lease and the cluster's clock in each request, as every node of ``peers://`` and ``etcd://`` does."""
    manager = new_manager()
    node = node_of(manager)
    node.view.fresh_at, node.log.freshness_limit_s = node.clock.boot_s(), math.inf
    if not node.log.trusts_clock():
        raise NotReadError("the clock is not trusted")
    return manager


def first_sight(name: str = FIRST_SIGHT, manager: SessionManager | None = None) -> Contender:
    """As on a node that has run for a while: the cache is full, and each new token displaces an old one."""
    manager = manager or new_manager(cache_size=100)
    for token in mint(manager, 100):
        node_of(manager).validator.validate(token)
    reader = Reader()
    return requests(name, ours_with(manager)(reader), reader, lambda count: map(as_cookie, mint(manager, count)))


def _pyjwt() -> Contender:
    claims = {"sub": "subject-1", "sid": "c2Vzc2lvbi1pZC1vZi0yMg", "iss": "node-1", "iat": 1_700_000_000, "exp": 4_000_000_000, **FLAT}
    token = jwt.encode(claims, KEY, algorithm="HS256")

    async def decode(count: int) -> None:
        for _ in range(count):
            if jwt.decode(token, KEY, algorithms=["HS256"])["user"] != USER:
                raise NotReadError("PyJWT gave other claims")

    return Contender(PYJWT, decode)
