"""Connections that stay open, as a server and a client see them."""

from __future__ import annotations

from typing import Literal

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ha_session_mw import get_session
from ha_session_mw.asgi.streams import SessionEnded

from .driver import obliging, respond, scope_of


async def open_app(scope: Scope, receive: Receive, send: Send) -> None:
    """A chat: it accepts, greets, and then waits for the client to go. A stream greets and waits to be told to go on."""
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    if "act" in scope:
        await obliging(scope, receive, send)
        return
    get_session(scope)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"]})
        scope["left"].append(message)
        return
    if scope["path"] == "/short":
        await respond(send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": scope["answer_headers"]})
    if not scope["answer_headers"]:
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
    while (message := await receive())["type"] != "http.disconnect":
        await send({"type": "http.response.body", "body": b"more", "more_body": True})
    scope["left"].append(message)


KNOWN = ("http.response.start", "http.response.body", "websocket.accept", "websocket.send", "websocket.close")


class Wire:
    """The client's end of one open connection, served as uvicorn does: the app hears when the server closes it.

    Attributes:
        over: whether the app has ended.
        is_cut: whether the server dropped the connection, because the app raised before its response was complete.
        is_stalled: whether the client reads nothing, so that the app's next ``send`` does not return.
    """

    def __init__(self, kind: Literal["websocket", "http"], token: str) -> None:
        self.kind = kind
        self.sent: list[Message] = []
        self.left: list[Message] = []
        self.over = self.is_cut = self.is_stalled = False
        self._to_app: list[Message] = [{"type": "websocket.connect"}] if kind == "websocket" else []
        self._news = anyio.Event()
        self.scope = scope_of(kind, headers=[(b"cookie", b"session=" + token.encode())], left=self.left, answer_headers=[])

    def say(self, message: Message) -> None:
        self._to_app.append(message)
        self._news.set()
        self._news = anyio.Event()

    async def receive(self) -> Message:
        while not self._to_app:
            if self._closed:
                return {"type": "websocket.disconnect", "code": 1006} if self.kind == "websocket" else {"type": "http.disconnect"}
            await self._news.wait()
        return self._to_app.pop(0)

    async def send(self, message: Message) -> None:
        if self._closed:
            raise RuntimeError("sent after the end")
        if self.is_stalled:
            self.is_stalled = False
            await anyio.sleep_forever()
        if message["type"] not in KNOWN:
            raise RuntimeError("no message of ASGI")
        self.sent.append(message)
        self._news.set()
        self._news = anyio.Event()

    @property
    def _closed(self) -> bool:
        last = self.sent[-1] if self.sent else {}
        return last.get("type") == "websocket.close" or (last.get("type") == "http.response.body" and not last.get("more_body"))

    @property
    def close_code(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)

    async def live(self, app: ASGIApp) -> None:
        """Serve the connection until the app has ended."""
        try:
            await app(self.scope, self.receive, self.send)
        except SessionEnded:
            self.is_cut = not self._closed
        self.over = True
