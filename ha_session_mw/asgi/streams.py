"""Connections that stay open: WebSockets and streaming responses end when their session is logged out.

Each revocation finds the connections that it ends, so nothing polls. A request that is answered at once is never registered.
The closing message is sent from another task, because a cancel scope around each request would cost more than its validation.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import anyio
from starlette.types import Message, Receive, Send

from .._core.accept_rule import denial
from .._core.cluster.view import View
from .._core.token.tokens import Verified
from .._node.background import Background
from ..models import Cut, Deny, Entry

logger = logging.getLogger("ha_session_mw.streams")

END_WITHIN_S = 1.0
"""Seconds that the closing message may take on a connection whose client reads no more data."""
REVOKED_CLOSE_CODE = 4401
"""WebSocket close code of a revoked session: 4000 for private use (RFC 6455 section 7.4.2), plus the HTTP status."""


class SessionEnded(ConnectionResetError):
    """The session of this connection was logged out, so the connection ended. An app sees it as a client that has disconnected."""


class Connection:
    """One open connection of a session, between the server and the app."""

    def __init__(self, verified: Verified, kind: str, receive: Receive, send: Send) -> None:
        self.verified = verified
        self.ended = False
        self._websocket = kind == "websocket"
        self._receive = receive
        self._send = send
        self.done = False

    async def receive(self) -> Message:
        message = None if self.ended else await self._receive()
        return self._gone() if message is None or self.ended else message

    def _gone(self) -> Message:
        if self._websocket:
            return {"type": "websocket.disconnect", "code": REVOKED_CLOSE_CODE, "reason": "session_revoked"}
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.ended:
            raise SessionEnded("the session was logged out")
        if message["type"] == "websocket.close" or (message["type"] == "http.response.body" and not message.get("more_body", False)):
            self.done = True  # later changes by the app do not reach the client
        await self._send(message)

    async def end(self) -> None:
        """Send the client the closing message."""
        if self.done:
            return
        if self._websocket:
            message: Message = {"type": "websocket.close", "code": REVOKED_CLOSE_CODE, "reason": "session_revoked"}
        else:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        with anyio.move_on_after(END_WITHIN_S):
            try:
                await self._send(message)
            except Exception as exc:  # noqa: BLE001 - servers raise various errors for a connection that is closing
                # A response with a Content-Length cannot end early. The app's next message finds the connection closed.
                logger.debug("a connection of a session that was logged out could not be closed in order: %s", type(exc).__name__)


class Connections:
    """All open connections of this node, by the ids that a log-out names.

    An expired session does not end its connections: a connection may outlive its token's idle timeout.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._by_id: defaultdict[str, set[Connection]] = defaultdict(set)
        self._background = Background()
        self.run = self._background.run
        """Runs the tasks that send closing messages."""

    def add(self, connection: Connection) -> None:
        """Register a connection. It ends at once if its session was logged out since its token was validated."""
        if denial(connection.verified, self._view):
            self._end(connection)
        claims = connection.verified.claims
        self._by_id[claims.sid].add(connection)
        self._by_id[claims.family].add(connection)

    def remove(self, connection: Connection) -> None:
        claims = connection.verified.claims
        for id in (claims.sid, claims.family):
            connections = self._by_id.get(id)
            if connections is not None:
                connections.discard(connection)
                if not connections:
                    del self._by_id[id]

    def on_news(self, entry: Entry) -> None:
        """End the connections whose session an entry revokes. Called with each entry that is new to this node."""
        if isinstance(entry, Deny):
            hit = [*self._by_id.get(entry.id, ())]
        else:
            subject = entry.subject if isinstance(entry, Cut) else None
            hit = [one for one in self._all() if subject in (None, one.verified.claims.subject) and denial(one.verified, self._view)]
        for connection in hit:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        if connection.done:
            return
        connection.ended = True
        self._background.start(connection.end)  # without a lifespan, the app's next message finds the connection ended

    def _all(self) -> set[Connection]:
        return {connection for connections in self._by_id.values() for connection in connections if not connection.ended}

    def __len__(self) -> int:
        return len(self._all())
