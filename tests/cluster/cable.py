"""What lies between a node and a server in a test: a cable that can be pulled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


class Cable:
    """Carries TCP connections to a port of loopback. Pulled, it carries nothing, and nobody is told: as when a link drops all packets."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self._carries = anyio.Event()
        self._carries.set()

    def pull(self) -> None:
        self._carries = anyio.Event()

    def plug(self) -> None:
        self._carries.set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Cable]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            tasks.start_soon(listener.serve, self._connect)
            yield self
            tasks.cancel_scope.cancel()

    async def _connect(self, near: anyio.abc.SocketStream) -> None:
        try:
            async with near, await anyio.connect_tcp("127.0.0.1", self._to) as far, anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry, near, far, tasks.cancel_scope)
                tasks.start_soon(self._carry, far, near, tasks.cancel_scope)
        except OSError:
            return  # nobody listens there

    async def _carry(self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, scope: anyio.CancelScope) -> None:
        try:
            async for data in source:
                await self._carries.wait()
                await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # whoever was at the other end is gone, and so is this connection
        scope.cancel()
