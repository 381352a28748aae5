"""The proxy that plays a bad network, before a server that echoes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from example_app.proxy import Proxy

from ..waiting import LIMIT_S

pytestmark = pytest.mark.real

A_WHILE_S = 0.2


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        with Proxy(listening.getsockname()[1]) as proxy:
            yield proxy
        listening.shutdown(socket.SHUT_RDWR)


def serve(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection: socket.socket) -> None:
    with connection:
        while sent := connection.recv(100):
            connection.sendall(sent)


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.ports[0]), LIMIT_S)


def echoed(connection: socket.socket, said: bytes) -> bytes:
    connection.sendall(said)
    return connection.recv(100)


def test_it_carries_bytes_both_ways(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert [echoed(one, b"ada"), echoed(other, b"bob"), echoed(one, b"again")] == [b"ada", b"bob", b"again"]


def test_a_cut_breaks_open_and_new_connections_until_it_is_repaired(proxy: Proxy) -> None:
    with connected(proxy) as one:
        assert echoed(one, b"ada") == b"ada"
        proxy.cut()
        assert one.recv(100) == b""
        with connected(proxy) as other:
            assert other.recv(100) == b""
    proxy.mend()
    with connected(proxy) as one:
        assert echoed(one, b"ada") == b"ada"


def test_stalled_it_keeps_connections_and_carries_nothing_until_it_is_mended(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert echoed(one, b"ada") == b"ada"
        proxy.stall()
        for connection in (one, other):
            connection.sendall(b"lost?")
            connection.settimeout(A_WHILE_S)
            with pytest.raises(TimeoutError):
                connection.recv(100)
            connection.settimeout(LIMIT_S)
        proxy.mend()
        assert [one.recv(100), other.recv(100)] == [b"lost?"] * 2


def test_without_a_listener_nothing_is_carried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with Proxy(port) as proxy, connected(proxy) as connection:
        assert connection.recv(100) == b""
