"""Connections that stay open: WebSockets and streaming responses end when their session is logged out.

They are found by what was denied, when it is; nobody polls, and a request that is answered at once is never noted. The
message that ends one is sent from outside, for a cancel scope around each request would cost more than its check.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import anyio
import anyio.abc
from starlette.types import Message, Receive, Send

from .._core.accept_rule import denial
from .._core.cluster.view import View
from .._core.token.tokens import Verified
from ..models import Cut, Deny, Entry

logger = logging.getLogger("ha_session_mw.streams")

END_WITHIN_S = 1.0
"""How long a connection that takes no more data may hold up the message that ends it."""
REVOKED_CLOSE_CODE = 4401


class SessionEnded(ConnectionResetError):
    """The session of this connection was logged out, and the connection with it. Apps see a client that has gone."""


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
            self.done = True  # what the app does after it is not the client's affair
        await self._send(message)

    async def end(self) -> None:
        """Tell the client that it is over."""
        if self.done:
            return
        if self._websocket:
            message: Message = {"type": "websocket.close", "code": REVOKED_CLOSE_CODE, "reason": "session_revoked"}
        else:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        with anyio.move_on_after(END_WITHIN_S):
            try:
                await self._send(message)
            except Exception as exc:  # noqa: BLE001 - whatever a server raises for a connection that is going anyway
                # A response that promised a length is cut by the app's next message, which finds the connection gone.
                logger.debug("a connection of a session that was logged out could not be ended in order: %s", type(exc).__name__)


class Connections:
    """All open connections of this node, by the ids that a log-out names.

    Whether a session has run out meanwhile is not asked: a connection outlives its token's idle time.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._by_id: defaultdict[str, set[Connection]] = defaultdict(set)
        self._tasks: anyio.abc.TaskGroup | None = None

    def add(self, connection: Connection) -> None:
        """Note a connection. One whose session was logged out since it was checked ends at once."""
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
        """End what an entry denies. Called by the view with each entry that is news."""
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
        if self._tasks is not None:  # else there is no lifespan, and the app's next message finds it ended
            self._tasks.start_soon(connection.end)

    def _all(self) -> set[Connection]:
        return {connection for connections in self._by_id.values() for connection in connections if not connection.ended}

    async def run(self) -> None:
        """Carries the messages that end connections."""
        async with anyio.create_task_group() as self._tasks:
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    def __len__(self) -> int:
        return len(self._all())
