"""Used as Starlette's middleware is: subclassed, called with an empty secret, and in sloppy company."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.datastructures import Secret
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import ConfigurationError, SessionMiddleware, SessionTooLarge, get_session

from .driver import SECRET, Answer, call, lifespan, obliging, refused_start, respond, scope_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


async def log_in(app: SessionMiddleware, **scope: Any) -> Answer:
    made = scope_of("http", act=lambda session: session.login("ada"), status=200, answer_headers=(), **scope)
    return await call(app, made)


async def who_is(app: SessionMiddleware, cookie: str) -> Any:
    made = scope_of("http", headers=[(b"cookie", cookie.encode())], act=lambda s: s.subject, status=200, answer_headers=())
    await call(app, made)
    return made["result"]


# A subclass


class AtConstruction(SessionMiddleware):
    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self.session_cookie = "mine"
        self.path = "/app"
        self.security_flags = "httponly; samesite=strict; secure; domain=example.com; partitioned"


class AtEachRequest(SessionMiddleware):
    """As marimo's, which learns its port and its base URL from the request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.session_cookie = "mine"
        self.path = "/app"
        self.security_flags = "httponly; samesite=strict; secure; domain=example.com; partitioned"
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("kind", [AtConstruction, AtEachRequest])
async def test_what_a_subclass_sets_for_the_cookie_is_honoured(kind: type[SessionMiddleware]) -> None:
    app = kind(obliging, secret_key=SECRET)
    answer = await log_in(app)
    [cookie] = answer.all("set-cookie")
    token = cookie.partition(";")[0]
    assert token.startswith("mine=hs1.")
    assert cookie.endswith("; path=/app; Max-Age=1209600; httponly; samesite=strict; secure; domain=example.com; partitioned")
    assert await who_is(app, token) == "ada"
    assert await who_is(app, token.replace("mine=", "session=")) is None
    assert (app.session_cookie, app.path, app.max_age) == ("mine", "/app", 1209600)
    assert app.security_flags == "httponly; samesite=strict; secure; domain=example.com; partitioned"


async def test_one_middleware_leaves_the_cookie_of_another_with_the_same_settings() -> None:
    first, second = SessionMiddleware(obliging, secret_key=SECRET), SessionMiddleware(obliging, secret_key=SECRET)
    first.session_cookie = "mine"
    assert (await log_in(second)).cookies("session")
    assert (await log_in(first)).cookies("mine")


async def test_a_longer_name_leaves_less_room_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_DATA", "token")
    app = SessionMiddleware(obliging, secret_key=SECRET, session_cookie="s")
    app.session_cookie = "a-cookie-with-a-long-name" * 4

    def fill(session: Any) -> None:
        size = 2000
        while True:  # until the session refuses what does not fit
            try:
                session["x"] = "y" * size
            except SessionTooLarge:
                return
            size += 1

    answer = await call(app, scope_of("http", act=fill, status=200, answer_headers=()))
    [cookie] = answer.all("set-cookie")
    assert 3900 < len(cookie) <= 4096


class Signing(SessionMiddleware):
    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self.signer = object()


class Aging(SessionMiddleware):
    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self.max_age = 5


class Flagging(SessionMiddleware):
    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self.security_flags = "samesite=lax; priority=high"


class Naming(SessionMiddleware):
    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self.session_cookie = "not a name;"


class Overriding(SessionMiddleware):
    session_cookie = "mine"


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Signing, "signer"), (Aging, "max_age"), (Flagging, "security_flags"), (Naming, "session_cookie"), (Overriding, "session_cookie")],
)
async def test_what_a_subclass_sets_otherwise_stops_the_start(kind: type[SessionMiddleware], told: str) -> None:
    app = kind(obliging, secret_key=SECRET)
    assert f"{kind.__name__}.{told}" in await refused_start(app)
    with pytest.raises(ConfigurationError):
        await log_in(app)


async def test_what_a_subclass_sets_does_not_hide_the_faults_of_the_settings() -> None:
    assert "HA_SESSION_SECRET_KEY: is not set" in await refused_start(AtConstruction(obliging))


# An empty secret


@pytest.mark.parametrize("empty", ["", "  ", b"", Secret(""), [], [""], ["", b""], ()])
async def test_an_empty_secret_is_reported_as_empty(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_SECRET_KEY", SECRET)
    told = await refused_start(SessionMiddleware(obliging, secret_key=empty))
    assert "SessionMiddleware(secret_key=…): is empty" in told
    assert "1 setting(s)" in told
    assert "is not set" not in told.replace("a variable is not set", "")


# Messages without headers


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_scope_without_headers_is_one_without_fields(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(scope)["a"] = 1
        if kind == "http":
            await respond(send)
        else:
            await send({"type": "websocket.accept"})

    scope = scope_of(kind)
    del scope["headers"]
    answer = await call(SessionMiddleware(app, secret_key=SECRET), scope)
    assert any(name == b"set-cookie" for name, _ in answer.messages[0]["headers"])


@pytest.mark.parametrize("path", ["/-/session/livez", "/-/session/problems/token_missing", "/private"])
async def test_our_own_answers_need_no_headers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HA_SESSION_PROTECT", "/private")
    scope = scope_of("http", path)
    del scope["headers"]
    assert (await call(SessionMiddleware(obliging, secret_key=SECRET), scope)).status in (200, 401)


@pytest.mark.parametrize("start", [{}, {"headers": None}, {"headers": ()}, {"headers": iter(())}])
@pytest.mark.parametrize("write", [False, True])
async def test_a_start_without_headers_is_a_start(start: dict[str, Any], write: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(scope)
        if write:
            session["a"] = 1
        await send({"type": "http.response.start", "status": 200, **start})
        await send({"type": "http.response.body"})

    answer = await call(SessionMiddleware(app, secret_key=SECRET), scope_of("http"))
    assert [name for name, _ in answer.start["headers"]] == [b"vary", b"set-cookie", b"cache-control"][: 1 + 2 * write]


# A middleware further in that fails in the lifespan


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "ha_session_mw" and record.levelno >= logging.WARNING]


class IgnoresTypes:
    """A middleware that takes every scope for a request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"]


async def test_a_middleware_that_raises_before_the_lifespan_began_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sent = await lifespan(SessionMiddleware(IgnoresTypes(), secret_key=SECRET))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    [record] = logged(caplog)
    assert "before it took part in the lifespan" in record.message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert record.exc_info[1].__context__ is None  # it shows nothing of this package's


async def test_an_app_that_says_it_has_no_lifespan_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")

    await lifespan(SessionMiddleware(app, secret_key=SECRET))
    assert logged(caplog) == []


@pytest.mark.parametrize("after", ["lifespan.startup", "lifespan.startup.complete", "lifespan.startup.failed"])
async def test_an_app_that_raises_in_the_lifespan_is_logged_unless_it_has_told_the_server(
    caplog: pytest.LogCaptureFixture, after: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if after != "lifespan.startup":
            message: Message = {"type": after}
            await send(message)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await lifespan(SessionMiddleware(app, secret_key=SECRET))
    assert ["failed in its lifespan" in record.message for record in logged(caplog)] == ([] if after.endswith(".failed") else [True])
