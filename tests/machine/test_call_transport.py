"""Calls over real connections on loopback, to servers that answer as HTTP/1.1 allows, and as it does not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSListener

from ha_session_mw._machine.call_transport import MAX_HEAD_BYTES, CallTransport
from ha_session_mw._machine.tls import tls_context, unreachable

from ..engines import Certificates
from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CLOSE = b""


class Server:
    """Answers each request with the next of its answers, whose parts arrive one after the other. An empty part closes the connection.

    Attributes:
        connections: how many were opened.
        requests: the bytes of each.
        port: where it listens.
        asked: a request has arrived.
        closed: a client has closed a connection.
    """

    def __init__(self, answers: Sequence[bytes | Sequence[bytes]]) -> None:
        self._answers = iter(answers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = 0
        self.asked = anyio.Event()
        self.closed = anyio.Event()

    async def handle(self, stream: SocketStream) -> None:
        self.connections += 1
        async with stream:
            while True:
                try:
                    self.requests.append(await stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    self.closed.set()
                    return
                self.asked.set()
                answer = next(self._answers)
                for part in [answer] if isinstance(answer, bytes) else answer:
                    if part == CLOSE:
                        return
                    await stream.send(part)
                    await anyio.lowlevel.checkpoint()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path?query"


@asynccontextmanager
async def serving(*answers: bytes | Sequence[bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answers)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        listens: anyio.abc.Listener[Any] = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
        tasks.start_soon(listens.serve, server.handle)
        with anyio.fail_after(LIMIT_S):
            yield server
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def calling(most: int = 4, tls: ssl.SSLContext | None = None) -> AsyncIterator[CallTransport]:
    transport = CallTransport(tls, most=most)
    try:
        yield transport
    finally:
        await transport.aclose()


async def ask(transport: CallTransport, url: str, *, method: str = "POST", content: bytes = b"question") -> tuple[int, bytes]:
    response = await transport.handle_async_request(httpx2.Request(method, url, content=content, headers={"x-own": "field"}))
    try:
        return response.status_code, b"".join([part async for part in response.aiter_raw()])
    finally:
        await response.aclose()


async def test_calls_follow_each_other_on_one_connection() -> None:
    async with serving(OK, OK, OK) as server, calling() as transport:
        for _ in range(3):
            assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 1
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert body == b"question"
        first, *fields = head.split(b"\r\n")
        assert first == b"POST /path?query HTTP/1.1"
        assert {b"x-own: field", b"content-length: 8", b"host: 127.0.0.1:%d" % server.port} <= {
            name.lower() + b": " + value for name, _, value in (field.partition(b": ") for field in fields)
        }


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nfield: after\r\n\r\n",
            b"abc0123456789",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200\r\ncontent-length:\t2 \r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
async def test_an_answer_is_read_to_its_end_in_whatever_pieces_it_arrives(answer: bytes, body: bytes) -> None:
    pieces = [answer[at : at + 1] for at in range(len(answer))]
    async with serving(answer, pieces, OK) as server, calling() as transport:
        assert await ask(transport, server.url) == (200, body)
        assert await ask(transport, server.url) == (200, body)
        assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 1


@pytest.mark.parametrize(
    ("method", "answer"), [("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"), ("POST", b"HTTP/1.1 204 No\r\n\r\n")]
)
async def test_an_answer_without_a_body_is_over_at_once(method: str, answer: bytes) -> None:
    async with serving(answer, OK) as server, calling() as transport:
        assert (await ask(transport, server.url, method=method))[1] == b""
        assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\n\r\nok", CLOSE],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 2\r\n\r\nok"],
        [OK, CLOSE],
        [OK + b"more than it says"],
    ],
)
async def test_a_connection_that_the_server_closes_or_fills_is_not_used_again(answer: Sequence[bytes]) -> None:
    async with serving(answer, OK) as server, calling() as transport:
        assert await ask(transport, server.url) == (200, b"ok")
        await anyio.wait_all_tasks_blocked()
        assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        [CLOSE],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", CLOSE],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok", CLOSE],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok!\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok"],
        [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
        [b"HTTP/2 200 OK\r\n\r\n"],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nname with blanks: 1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD_BYTES, b"x" * MAX_HEAD_BYTES],
    ],
)
async def test_an_answer_that_is_cut_off_or_malformed_is_an_error_and_takes_no_other_call_with_it(answer: Sequence[bytes]) -> None:
    async with serving(answer, OK) as server, calling(most=1) as transport:
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(transport, server.url)
        assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 2


async def test_a_stream_is_passed_on_as_it_arrives_and_its_connection_is_closed_with_it() -> None:
    first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nevent\n\r\n"
    async with serving(first, OK) as server, calling(most=1) as transport:
        response = await transport.handle_async_request(httpx2.Request("POST", server.url, content=b""))
        async with aclosing(response.aiter_raw()) as content:
            assert await anext(content) == b"event\n"
        await response.aclose()
        await server.closed.wait()
        assert await ask(transport, server.url) == (200, b"ok")


async def test_a_call_that_is_cancelled_leaves_room_for_the_next_one() -> None:
    async with serving([], OK) as server, calling(most=1) as transport:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, transport, server.url)
            await server.asked.wait()
            tasks.cancel_scope.cancel()
        assert await ask(transport, server.url) == (200, b"ok")
        assert server.connections == 2


async def test_no_more_calls_than_allowed_are_under_way() -> None:
    async with serving(*[OK] * 12) as server, calling(most=2) as transport, anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(ask, transport, server.url)
    assert len(server.requests) == 12
    assert server.connections <= 2


async def test_a_field_with_a_line_break_is_not_sent() -> None:
    async with serving(OK) as server, calling() as transport:
        for value in ("one\r\ntwo: 2", "one\ntwo"):
            with pytest.raises(httpx2.LocalProtocolError):
                await transport.handle_async_request(httpx2.Request("POST", server.url, headers={"x": value}))
        assert server.requests == []


async def test_a_server_that_does_not_listen_cannot_be_reached() -> None:
    async with serving() as server:
        url = server.url
    async with calling() as transport:
        with pytest.raises(httpx2.ConnectError) as caught:
            await ask(transport, url)
    assert unreachable(caught.value) == "cannot be reached (ConnectError)"


async def test_a_closed_transport_keeps_no_connection() -> None:
    async with serving(OK, OK) as server, calling() as transport:
        assert await ask(transport, server.url) == (200, b"ok")
        await transport.aclose()
        await server.closed.wait()


@pytest.mark.real
async def test_over_tls_the_servers_certificate_is_checked(tmp_path: Path) -> None:
    certificates = Certificates.made(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    async with serving(OK, OK, tls=context) as server:
        url = server.url.replace("http:", "https:")
        async with calling(tls=tls_context(certificates.ca, None, None)) as transport:
            assert await ask(transport, url) == (200, b"ok")
            assert await ask(transport, url) == (200, b"ok")
        assert server.connections == 1
        async with calling(tls=tls_context(None, None, None)) as transport:
            with pytest.raises(httpx2.ConnectError) as caught:
                await ask(transport, url)
    assert unreachable(caught.value) == "shows a certificate that is not accepted: unable to get local issuer certificate"
