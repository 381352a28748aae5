"""A TCP proxy on loopback that plays a long way: everything arrives later, and a new connection costs a round trip."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream

_OVER = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@asynccontextmanager
async def far_away(target: Callable[[], int], *, round_trip_s: float) -> AsyncIterator[int]:
    """Yields a port that leads to the target port, over this distance."""

    async def carry(source: SocketStream, sink: SocketStream, more_s: float) -> None:
        sending, arriving = anyio.create_memory_object_stream[tuple[float, bytes]](10_000)

        async def read() -> None:
            with sending:
                await anyio.sleep(more_s)  # the handshake of TCP
                while True:
                    try:
                        data = await source.receive()
                    except _OVER:
                        return
                    sending.send_nowait((anyio.current_time() + round_trip_s / 2, data))

        async def write() -> None:
            async for due_s, data in arriving:
                await anyio.sleep_until(due_s)
                try:
                    await sink.send(data)
                except _OVER:
                    break
            await sink.aclose()
            await source.aclose()

        async with sending, arriving, anyio.create_task_group() as both:
            both.start_soon(read)
            both.start_soon(write)

    async def serve(client: SocketStream) -> None:
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", target())
            except OSError:
                return  # nobody listens there yet, or any more
            async with server, anyio.create_task_group() as both:
                both.start_soon(carry, client, server, round_trip_s)
                both.start_soon(carry, server, client, 0.0)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield int(listener.extra(SocketAttribute.local_port))
        tasks.cancel_scope.cancel()
