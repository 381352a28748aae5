"""The simulated process of a node, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.abc
import httpx2
from anyio import CancelScope
from starlette.types import Message

from ..asgi.middleware import SessionMiddleware


class Process:
    """The simulated process of a node, from its start to its end."""

    def __init__(self, middleware: SessionMiddleware) -> None:
        self.middleware = middleware
        self.stopping = anyio.Event()
        self.ended = anyio.Event()
        self._scopes: dict[CancelScope, None] = {}  # a dict keeps their order, so that they end in the same order each time

    async def live(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run the lifespan, as a server does."""
        opening: list[Message] = [{"type": "lifespan.startup"}]

        async def receive() -> Message:
            if opening:
                return opening.pop()
            await self.stopping.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                raise RuntimeError(message.get("message", ""))
            if message["type"] == "lifespan.startup.complete":
                task_status.started()

        try:
            with self._scope():
                await self.middleware({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        finally:
            self.kill()  # requests that are still under way end with the process
            self.ended.set()

    async def serve(self, request: httpx2.Request, thawed: anyio.Event) -> httpx2.Response:
        with self._scope():
            await thawed.wait()
            return await httpx2.ASGITransport(app=self.middleware).handle_async_request(request)
        raise httpx2.ReadError("the node was killed", request=request)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        with CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            finally:
                del self._scopes[scope]

    def kill(self) -> None:
        for scope in self._scopes:
            scope.cancel()
