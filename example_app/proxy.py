"""A TCP proxy on loopback that plays a bad network: its connections can be cut, stalled and mended."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream, TaskGroup
from anyio.from_thread import start_blocking_portal

_CHUNK = 65_536
_OVER = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Proxy:
    """Carries connections from its own ports to other ports, in a thread, while its context is open.

    Args:
        targets: the loopback ports to which connections are carried.

    Attributes:
        ports: the proxy's own ports, one for each target, in the same order.
    """

    def __init__(self, *targets: int) -> None:
        self._targets = targets
        self._left = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            self._carrier = stack.enter_context(self._portal.wrap_async_context_manager(_Carrier()))
            self.ports = [self._portal.call(self._carrier.listen, target) for target in self._targets]
            self._left = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._left.close()

    def cut(self) -> None:
        """Close all connections, and each new one at once: as if no server listened."""
        self._portal.call(self._carrier.cut)

    def stall(self) -> None:
        """Keep connections open, accept new ones, and carry nothing: as if every packet were lost."""
        self._portal.call(self._carrier.stall)

    def mend(self) -> None:
        """Carry everything again. Data that was stalled arrives now."""
        self._portal.call(self._carrier.mend)


class _Carrier:
    """The proxy's connections. Runs in the event loop of the proxy's thread."""

    async def __aenter__(self) -> Self:
        self._is_cut = False
        self._flowing = anyio.Event()
        self._flowing.set()
        self._connections: set[anyio.CancelScope] = set()
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def listen(self, target: int) -> int:
        """Return a new port from which connections are carried to the target port."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self._tasks.start_soon(self._serve, listener, target)
        return int(listener.extra(SocketAttribute.local_port))

    def cut(self) -> None:
        self._is_cut = True
        for connection in self._connections:
            connection.cancel()

    def stall(self) -> None:
        self._flowing = anyio.Event()

    def mend(self) -> None:
        self._is_cut = False
        self._flowing.set()

    async def _serve(self, listener: Listener[SocketStream], target: int) -> None:
        async with listener:
            await listener.serve(partial(self._carry, target))

    async def _carry(self, target: int, near: SocketStream) -> None:
        async with near:
            if self._is_cut:
                return
            try:
                far = await anyio.connect_tcp("127.0.0.1", target)
            except OSError:
                return
            async with far, anyio.create_task_group() as both_ways:
                connection = both_ways.cancel_scope
                self._connections.add(connection)
                both_ways.start_soon(self._pump, near, far, both_ways)
                both_ways.start_soon(self._pump, far, near, both_ways)
            self._connections.discard(connection)

    async def _pump(self, source: SocketStream, sink: SocketStream, both_ways: TaskGroup) -> None:
        try:
            while True:
                chunk = await source.receive(_CHUNK)
                await self._flowing.wait()
                await sink.send(chunk)
        except _OVER:
            both_ways.cancel_scope.cancel()
