"""The connections of the client.

A request goes out on none that the server may close at that moment: a POST would be lost, with an outcome that nobody knows. And a node
has little time to take one if others can be asked, but no try fails because all machines are busy.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import httpx2
import pytest

from ha_session_mw.client import NodesTransport, connect

from ..waiting import LIMIT_S

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Keeps each connection open, and counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LIMIT_S)


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


CLIENTS: dict[str, Callable[[str], httpx.Client | httpx2.Client]] = {
    "httpx2": lambda url: httpx2.Client(transport=NodesTransport([url]), base_url=url),  # type: ignore[arg-type]
    "httpx": lambda url: httpx.Client(transport=NodesTransport([url]), base_url=url),  # type: ignore[arg-type]
    "connect": lambda url: connect([url]),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_an_idle_connection_is_used_again_only_for_a_moment(client: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with CLIENTS[client](server.url) as http:
        for _ in range(2):
            http.get("/")
        assert server.connections == 1
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 1.9)  # gunicorn closes them after 2 s, uvicorn after 5 s
        http.post("/")
        assert server.connections == 2


class Busy(httpx2.BaseTransport):
    """Takes longer than permitted for each connection."""

    def __init__(self) -> None:
        self.limits_s: list[float] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.limits_s.append(request.extensions["timeout"]["connect"])
        raise httpx2.ConnectTimeout("busy", request=request)


@pytest.mark.parametrize(("usual_s", "last_s"), [(1.0, 1.0), (5.0, 5.0), (60.0, 10.0)])
def test_each_try_may_take_longer_to_connect_than_the_one_before_and_the_last_one_all_that_is_left(usual_s: float, last_s: float) -> None:
    busy = Busy()
    transport = NodesTransport(["http://a.test", "http://b.test", "http://c.test"], busy, boot_s=lambda: 0.0, sleep=lambda _: None)
    with httpx2.Client(transport=transport, timeout=usual_s) as http, pytest.raises(httpx2.ConnectTimeout):  # type: ignore[arg-type]
        http.get("http://a.test/")
    assert busy.limits_s == [min(2.0, usual_s), min(4.0, usual_s), last_s]
