"""A real node, and a listener who sends what it has seen over real sockets, many times: the members still get their answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import anyio
import httpx2
import pytest

from example_app.ports import reserve_port, url_of
from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._node import lookups
from ha_session_mw._node.lookups import Question
from ha_session_mw._peering.client import PeerClient
from ha_session_mw.abc import PeerFailure
from ha_session_mw.clocks import SystemClock
from ha_session_mw.testing import SECRET
from ha_session_mw.version import PROTOCOL

from ..waiting import LIMIT_S, until
from .test_real import APP, Served

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]

CONNECTIONS = 200
ANOTHER = "http://127.0.0.1:9"


class Overheard(httpx2.AsyncHTTPTransport):
    """The network with a listener. ``loses``: the listener sees a call that never arrives."""

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self.heard: list[str] = []
        self.loses = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.heard.append(request.headers["session-peer"])
        if self.loses:
            raise httpx2.ConnectError("lost")
        return await super().handle_async_request(request)


def is_up(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("overheard")
    (folder / "served.py").write_text(APP)
    port = reserve_port()
    members = f"{url_of(port)},{ANOTHER},http://127.0.0.1:1"
    served = Served("a", port, folder, {"CLUSTER": "peers://", "PEERS": members})
    served.start()
    try:
        until(lambda: is_up(port), "up")
        yield served
    finally:
        served.kill()


def connections(node: Served, header: str) -> list[socket.socket]:
    """Open connections that send the header of a call with a body, and no body."""
    opened = []
    request = f"POST /-/session/peer/lookup HTTP/1.1\r\nhost: x\r\nsession-peer: {header}\r\ncontent-length: 9\r\n\r\n"
    for _ in range(CONNECTIONS):
        one = socket.create_connection(("127.0.0.1", node.port))
        one.sendall(request.encode())
        opened.append(one)
    return opened


async def test_connections_with_seen_headers_and_no_body_stop_no_member(node: Served) -> None:
    network = Overheard()
    ring, clock = KeyRing([SECRET.encode()]), SystemClock()
    client = PeerClient(ANOTHER, "life", lambda: ring, prefix="/-/session", clock=clock, faults=PeerFaults(), http=lambda: network)
    question = lookups.encode(Question(PROTOCOL.highest, b"hs1.none"))

    async def ask() -> float:
        begun_s = time.monotonic()
        assert lookups.decode_answer(await client.call(node.url, "lookup", question, timeout_s=LIMIT_S)).says == "unknown"
        return time.monotonic() - begun_s

    with ExitStack() as stack:
        await ask()
        answered = network.heard[-1]
        network.loses = True
        with pytest.raises(PeerFailure):
            await client.call(node.url, "lookup", question, timeout_s=LIMIT_S)
        network.loses = False
        for header in (answered, network.heard[-1]):
            for one in await anyio.to_thread.run_sync(connections, node, header):
                stack.callback(one.close)
        took_s = [await ask() for _ in range(20)]
    await network.aclose()
    assert sorted(took_s)[len(took_s) // 2] < 1.0  # calls waited a second and were turned away, one after the other
