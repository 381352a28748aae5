"""Connections that stay open: WebSockets and streaming responses end with their session, at its log-out or its absolute end.

Each revocation finds the connections that it ends. The node's tick ends those whose absolute end has passed. The idle end of a
connection's token ends nothing: another request may have renewed the session since. A request that is answered at once is never registered.
The closing message is sent from another task, because a cancel scope around each request would cost more than its validation.

Only a WebSocket and an event stream end in order. Any other response that is cut must look incomplete, or its client takes half a file
for the whole. ASGI has no message that says so: servers drop the connection of an app that raises before its response is complete.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
from starlette.types import Message, Receive, Send

from .._core.accept_rule import denial
from .._core.cluster.view import View
from .._core.token.tokens import Verified
from .._node.background import Background
from ..exceptions import SessionExpired, SessionRevoked, SessionSuperseded
from ..models import Cut, Deny, Entry
from .deadlines import Deadlines

T = TypeVar("T")

logger = logging.getLogger("ha_session_mw.streams")

END_WITHIN_S = 1.0
"""Seconds that the closing message may take on a connection whose client reads no more data."""
ENDED = {
    SessionRevoked.code: "the session was logged out, so what was open of it is cut off",
    SessionSuperseded.code: "the session has a new id, so what was open under the old one is cut off",
    SessionExpired.code: "the session has reached its absolute end, so what was open of it is cut off",
}
"""Message of :class:`SessionEnded` for each reason. The log of the server may show it."""
CLOSE_CODES = {kind.code: 4000 + kind.status for kind in (SessionRevoked, SessionSuperseded, SessionExpired)}
"""WebSocket close code for each reason: 4000 for private use (RFC 6455 section 7.4.2), plus the HTTP status."""


class SessionEnded(ConnectionResetError):
    """The session of this connection has ended, and the connection with it. An app sees it as a client that has disconnected.

    The server sees it, too, if the response is cut off: it drops the connection then.
    """


class Waits:
    """The places where an app waits for its client. It leaves them when the session ends, whatever the server does."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._left = False

    async def wait(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Return the result of a function, or None if the session ends first."""
        if self._left:
            return None
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await function()
            finally:
                self._scopes.discard(scope)
        return None

    def leave(self) -> None:
        """Leave all places, and never wait again."""
        self._left = True
        for scope in self._scopes:
            scope.cancel()


class Connection:
    """One open connection of a session, between the server and the app.

    Args:
        verified: the session's token.
        kind: "websocket" or "http", as in the scope.
        receive, send: of the server.
        waits: where the app waits for its client; of a response only.
        in_order: whether a client takes the end for one of many, and not for the end of a whole. So it is for event streams.
        has_left: whether the connection goes on without its session, which the app itself has logged out in time.

    Attributes:
        reason: the problem code that says why the session has ended; None while it lasts.
        done: whether the client has got the last message.
    """

    def __init__(
        self,
        verified: Verified,
        kind: str,
        receive: Receive,
        send: Send,
        waits: Waits | None = None,
        *,
        in_order: bool = True,
        has_left: Callable[[], bool] = lambda: False,
    ) -> None:
        self.verified = verified
        self.has_left = has_left
        self.reason: str | None = None
        self.in_order = in_order
        self.waits = waits
        self._websocket = kind == "websocket"
        self._receive = receive
        self._send = send
        self.done = False

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self.reason is not None

    async def receive(self) -> Message:
        message = None if self.ended else await self._receive()
        return self._gone() if message is None or self.ended else message

    def _gone(self) -> Message:
        if self._websocket:
            return {"type": "websocket.disconnect", "code": CLOSE_CODES[self.reason or SessionRevoked.code], "reason": self.reason}
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.reason is not None:
            raise SessionEnded(ENDED[self.reason])
        if message["type"] == "websocket.close" or (message["type"] == "http.response.body" and not message.get("more_body", False)):
            self.done = True  # later changes by the app do not reach the client
        if self.in_order or self.waits is None:
            await self._send(message)
        else:
            await self.waits.wait(lambda: self._send(message))

    async def app_is_over(self) -> None:
        """End the response, unless it has ended. The app has returned, or failed because its client had gone.

        Raises:
            SessionEnded: the response is cut off. The server drops the connection, so the client sees that something is missing.
        """
        if self.reason is None:
            return
        if not self.in_order:
            await cut_off(self._send, SessionEnded(ENDED[self.reason]))
            return
        await self.end()

    async def end(self) -> None:
        """Send the client the closing message, once."""
        if self.done:
            return
        self.done = True
        if self._websocket:
            code = CLOSE_CODES[self.reason or SessionRevoked.code]
            message: Message = {"type": "websocket.close", "code": code, "reason": self.reason}
        else:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await _tell(self._send, message)


async def cut_off(send: Send, failure: ConnectionResetError) -> None:
    """Have the server drop the connection of a response that has started, so that its client sees that something is missing.

    Raises:
        ConnectionResetError: the given one. The server drops the connection because of it; daphne has done so already.
    """
    from . import daphne  # rarely

    if daphne.drop(send):
        return
    await _tell(send, _cut(str(failure)))  # servers refuse it, and the exception cuts the response
    raise failure from None


async def _tell(send: Send, message: Message) -> None:
    with anyio.move_on_after(END_WITHIN_S):
        try:
            await send(message)
        except Exception as exc:  # noqa: BLE001 - servers raise various errors for a connection that is closing
            logger.debug("%s was refused for a connection that ends: %s", message["type"], type(exc).__name__)


def _cut(reason: str) -> Message:
    """Return no message of ASGI. Starlette's ``BaseHTTPMiddleware``, if it is further out, completes the response of an app that raises.
    A message that it does not expect stops it.
    """
    return {"type": "http.response.cut", "reason": reason, "more_body": True}


class Connections:
    """All open connections of this node, by the ids that a log-out names and by the absolute ends of their sessions."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._by_id: defaultdict[str, set[Connection]] = defaultdict(set)
        self._by_end: Deadlines[Connection] = Deadlines()
        self._background = Background()
        self.run = self._background.run
        """Runs the tasks that send closing messages."""

    def add(self, connection: Connection) -> None:
        """Register a connection. It ends at once if its session was logged out since its token was validated."""
        if refusal := denial(connection.verified, self._view):
            self._end(connection, refusal.problem.code)
        claims = connection.verified.claims
        self._by_id[claims.sid].add(connection)
        self._by_id[claims.family].add(connection)
        if claims.issued_ms < claims.absolute_end_ms:  # else it was over when it began, as with Starlette's ``max_age=0``
            self._by_end.add(connection, claims.absolute_end_ms)

    def remove(self, connection: Connection) -> None:
        self._by_end.discard(connection)
        for id in (connection.verified.sid, connection.verified.family):
            connections = self._by_id.get(id)
            if connections is not None:
                connections.discard(connection)
                if not connections:
                    del self._by_id[id]

    def on_news(self, entries: Sequence[Entry]) -> None:
        """End the connections whose sessions entries revoke. Called with the entries that are new to this node."""
        if self._by_id:
            for entry in entries:
                self._end_those_of(entry)

    def _end_those_of(self, entry: Entry) -> None:
        reason = SessionRevoked.code
        if isinstance(entry, Deny):
            hit = [*self._by_id.get(entry.id, ())]
            if entry.replaced_ms:
                reason = SessionSuperseded.code
        else:
            subject = entry.subject if isinstance(entry, Cut) else None
            hit = [one for one in self._all() if subject in (None, one.verified.subject) and denial(one.verified, self._view)]
        for connection in hit:
            self._end(connection, reason)

    def end_expired(self, now_ms: float | None) -> None:
        """End the connections whose sessions have reached their absolute ends.

        Args:
            now_ms: the time; None if the cluster does not vouch for this node's clock. Sessions that end below the floor are over anyway.
        """
        floor_ms = self._view.floor_ms
        for connection in self._by_end.take_due(floor_ms if now_ms is None else max(now_ms, floor_ms)):
            self._end(connection, SessionExpired.code)

    def _end(self, connection: Connection, reason: str) -> None:
        if connection.done or connection.ended or connection.has_left():
            return
        connection.reason = reason if reason in ENDED else SessionRevoked.code
        if connection.in_order:
            self._background.start(connection.end)  # without a lifespan, the app's next message finds the connection ended
        if connection.waits is not None:
            connection.waits.leave()

    def _all(self) -> set[Connection]:
        return {connection for connections in self._by_id.values() for connection in connections if not connection.ended}

    def __len__(self) -> int:
        return len(self._all())
