"""What counts as a request in flight, and what a refusal in an overload looks like."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import SessionManager, Settings
from ha_session_mw._core.calls.in_flight import AHEAD_S, STANDS, WINDOW_S
from ha_session_mw.asgi.overload import GuardedApp
from ha_session_mw.exceptions import Overloaded
from ha_session_mw.session.session import SCOPE_KEY, session_of
from ha_session_mw.session.state import RequestState
from ha_session_mw.testing import ManualClock

from .driver import SECRET

pytestmark = pytest.mark.anyio


class Node:
    """A node whose app answers when the test says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.manager = SessionManager(Settings(secret_key=SECRET), clock=self.clock)
        self.late = anyio.Event()
        self.end = anyio.Event()
        self.guarded = GuardedApp(self._app, self.clock, lambda count: b"\0" * count, lambda scope, _: scope["path"] == "/poll")

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/upload":
            await receive()
        elif scope["path"] in ("/waits", "/poll"):
            await self.end.wait()
        elif scope["path"] == "/late":
            await self.late.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        if scope["path"] == "/stream":
            await self.end.wait()

    async def ask(self, path: str, kind: str = "http") -> None:
        async def receive() -> Message:
            await self.end.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            pass

        scope: dict[str, Any] = {"type": kind, "path": path, SCOPE_KEY: session_of(RequestState(self.manager))}
        await self.guarded(scope, receive, send)

    async def is_limited(self) -> bool:
        try:
            await self.ask("/quick")
        except Overloaded:
            return True
        return False

    async def settle(self) -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()

    async def is_limited_with(self, path: str) -> bool:
        """Answer some requests at once, and later ones after a while, as 200 others are in flight. Return whether the next is refused."""
        self.guarded.tick()
        for _ in range(20):
            await self.ask("/quick")
        self.clock.advance(WINDOW_S)
        self.guarded.tick()
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(self.ask, path)
            for _ in range(STANDS):
                self.late = anyio.Event()
                async with anyio.create_task_group() as answered:
                    for _ in range(10):
                        answered.start_soon(self.ask, "/late")
                    await self.settle()
                    self.clock.advance(AHEAD_S)
                    self.late.set()
                self.guarded.tick()
            is_limited = await self.is_limited()
            self.end.set()
        return is_limited


@pytest.mark.parametrize(("path", "is_limited"), [("/waits", True), ("/poll", False), ("/upload", False), ("/stream", False)])
async def test_what_waits_for_the_node_counts_and_what_waits_for_a_client_or_an_event_does_not(path: str, is_limited: bool) -> None:
    assert await Node().is_limited_with(path) is is_limited


async def test_a_task_that_the_app_has_left_behind_takes_no_room() -> None:
    node = Node()

    async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            await receive()

        tasks.start_soon(listen)
        await node.settle()

    node.guarded.app = leaves
    async with anyio.create_task_group() as tasks:
        await node.ask("/leaves")
        node.end.set()
    assert not node.guarded._in_flight._begun


async def test_a_websocket_passes() -> None:
    node = Node()
    await node.ask("/quick", kind="websocket")
