"""A server closes its port at a moment at which nobody waits to be accepted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from ha_session_mw.asgi.last_requests import close_listeners, wait_for_idle

pytestmark = pytest.mark.anyio
ANSWER = b"served"


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Return the library of uvicorn."""
    return str(request.param)


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)
        self.transport.close()


@pytest.fixture
async def server() -> AsyncIterator[Any]:
    listener = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    yield SimpleNamespace(servers=[listener], server_state=SimpleNamespace(connections=set()))
    listener.close()


def connected(server: Any) -> socket.socket:
    """A connection that the system has taken, and the server has not accepted: its event loop does not run now."""
    return socket.create_connection(server.servers[0].sockets[0].getsockname(), 60)


async def test_a_connection_that_waits_to_be_accepted_is_served_and_the_next_one_is_refused(server: Any) -> None:
    address = server.servers[0].sockets[0].getsockname()
    waiting = [connected(server) for _ in range(5)]
    assert await close_listeners(server)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 60)
    for client in waiting:
        with client:
            client.sendall(b"a request")
            client.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 60) == ANSWER


async def test_a_port_that_the_parent_holds_too_stays_open(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ha_session_mw.asgi.last_requests.is_inherited", lambda _file: True)
    assert not await close_listeners(server)
    connected(server).close()


async def test_a_server_that_still_starts_has_nothing_to_close() -> None:
    starting: Any = SimpleNamespace()
    assert not await close_listeners(starting)


async def test_open_connections_are_waited_for_up_to_a_limit(server: Any) -> None:
    await asyncio.wait_for(wait_for_idle(server, 600), 60)
    server.server_state.connections.add("one that stays open")
    await asyncio.wait_for(wait_for_idle(server, 0.01), 60)
