"""Drives ASGI apps message by message and returns what they sent, without a client library in between."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ha_session_mw import ConfigurationError, Session, SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw.testing import ManualClock

SECRET = "9hQ2vX7mRk4TzLwB8sNpYd3JfGcVuA6E"
OTHER_SECRET = "Zt5WqM8nKx1RbJ7hPvGyLc4SdFa9UeT2"

Header = tuple[bytes, bytes]
Act = Callable[[Session], Any]


@dataclass
class Answer:
    """The messages that an app sent."""

    messages: list[Message] = field(default_factory=list)
    received: int = 0
    """Number of messages that the app asked for."""
    result: Any = None
    """Result of the act that the request asked for."""

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def start(self) -> Message:
        [found] = [message for message in self.messages if message["type"].endswith("response.start")]
        return found

    @property
    def started(self) -> bool:
        return any(message["type"].endswith("response.start") for message in self.messages)

    @property
    def status(self) -> int:
        return int(self.start["status"])

    def all(self, name: str) -> list[str]:
        """The values of a header field, in their order."""
        return [value.decode("latin-1") for key, value in self.start["headers"] if key == name.encode()]

    def header(self, name: str) -> str | None:
        """The value of a header field that may be there once."""
        found = self.all(name)
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages if message["type"].endswith("response.body"))

    @property
    def problem(self) -> dict[str, Any]:
        assert self.header("content-type") == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def code(self) -> str:
        return str(self.problem["code"])

    def cookies(self, name: str = "session") -> list[str]:
        """The Set-Cookie fields of this name."""
        return [value for value in self.all("set-cookie") if value.startswith(name + "=")]

    @property
    def token(self) -> str | None:
        """The token that the response sets, if any; "" where it removes the cookie."""
        found = self.cookies()
        assert len(found) < 2, found
        if not found:
            return None
        value = found[0].split(";")[0].partition("=")[2]
        return "" if value == "null" else value


def scope_of(
    kind: str,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[Header] = (),
    scheme: str | None = None,
    root_path: str = "",
    extensions: dict[str, Any] | None = None,
    **extra: Any,
) -> Scope:
    """An ASGI scope as servers make it."""
    parts = urlsplit(path)
    scope: Scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": scheme or ("http" if kind == "http" else "ws"),
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": root_path,
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("192.0.2.7", 40000),
        "server": ("testserver", 80),
        "extensions": extensions or {},
        **extra,
    }
    if kind == "http":
        scope["method"] = method
    return scope


async def call(app: ASGIApp, scope: Scope, incoming: Sequence[Message] | None = None) -> Answer:
    """Call an app with one scope; returns what it sent. An exception of the app's is raised."""
    if incoming is None:
        incoming = (
            [{"type": "http.request", "body": b"", "more_body": False}] if scope["type"] == "http" else [{"type": "websocket.connect"}]
        )
    waiting = list(incoming)
    answer = Answer()

    async def receive() -> Message:
        answer.received += 1
        if waiting:
            return waiting.pop(0)
        return {"type": "http.disconnect"} if scope["type"] == "http" else {"type": "websocket.disconnect", "code": 1001}

    await app(scope, receive, answer.send)
    return answer


async def answered_in_full(app: ASGIApp, scope: Scope) -> Answer:
    """Return an app's answer to a client that goes only once it is complete: Django gives up before, and Quart 0.23 waits for that."""
    answer, complete = Answer(), anyio.Event()
    waiting: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await answer.send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            complete.set()

    await app(scope, receive, send)
    return answer


async def lifespan(app: ASGIApp) -> list[Message]:
    """Start and stop an app; returns what it sent. An app that fails to start is not stopped."""
    waiting: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    except ConfigurationError:  # raised as well as sent, because some servers wait for the app to end
        assert sent[-1]["type"] == "lifespan.startup.failed"
    return sent


async def refused_start(app: ASGIApp) -> str:
    """Return the message with which an app refuses to start; the app may raise as well, as Starlette does."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with contextlib.suppress(ConfigurationError):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    [message] = sent
    assert message["type"] == "lifespan.startup.failed"
    return str(message["message"])


async def respond(send: Send, status: int = 200, headers: Iterable[Header] = (), body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain"), *headers]})
    await send({"type": "http.response.body", "body": body})


async def obliging(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that calls the act in each request's scope with the session, and answers with the status and headers from there."""
    scope["result"] = scope["act"](get_session(scope))
    if inspect.isawaitable(scope["result"]):
        scope["result"] = await scope["result"]
    await respond(send, scope["status"], scope["answer_headers"])


def look(session: Session) -> dict[str, Any]:
    """An act that returns the session's data."""
    return dict(session)


def who(session: Session) -> str | None:
    """An act that returns the subject."""
    return session.subject


def why(session: Session) -> str | None:
    """An act that returns why the token was not accepted."""
    return session.problem.code if session.problem else None


def cycle(session: Session) -> None:
    """An act that changes the data and the id."""
    session["role"] = "admin"
    session.cycle()


def log_in_again(session: Session) -> None:
    """An act that changes the data and logs the subject in anew."""
    session["role"] = "admin"
    session.login("ada")


def prove_again(session: Session) -> None:
    """An act that changes the data and notes a proof of presence."""
    session["role"] = "admin"
    session.reauthenticate()


class Node:
    """One node: the middleware around an app that runs each request's action."""

    def __init__(self, app: ASGIApp = obliging, *, clock: ManualClock | None = None, **settings: Any) -> None:
        self.clock = clock or ManualClock()
        self.manager = SessionManager(Settings(**{"secret_key": SECRET, **settings}), clock=self.clock)
        self.app = SessionMiddleware(app, manager=self.manager)

    async def request(
        self,
        act: Act = look,
        path: str = "/",
        *,
        token: str | None = None,
        bearer: str | None = None,
        headers: Iterable[Header] = (),
        status: int = 200,
        answer_headers: Sequence[Header] = (),
        incoming: Sequence[Message] | None = None,
        **scope: Any,
    ) -> Answer:
        """A request with these tokens; see :func:`scope_of` for the rest of the arguments."""
        sent = list(headers)
        if token is not None:
            sent.append((b"cookie", b"session=" + token.encode()))
        if bearer is not None:
            sent.append((b"authorization", b"Bearer " + bearer.encode()))
        made = scope_of("http", path, headers=sent, act=act, status=status, answer_headers=answer_headers, **scope)
        answer = await call(self.app, made, incoming)
        answer.result = made.get("result")
        return answer

    def visitor(self) -> Visitor:
        return Visitor(self)

    async def logged_in(self, subject: str = "ada", **data: Any) -> Visitor:
        """Return a visitor who has just logged in, with this data in the session."""
        visitor = self.visitor()

        def log_in(session: Session) -> None:
            session.login(subject)
            session.update(data)

        await visitor.visit(log_in)
        return visitor


class Visitor:
    """A browser, which keeps the cookie and sends it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.token: str | None = None

    async def visit(self, act: Act = look, path: str = "/", **kwargs: Any) -> Answer:
        answer = await self.node.request(act, path, token=self.token, **kwargs)
        if answer.token is not None:
            self.token = answer.token or None
        return answer
