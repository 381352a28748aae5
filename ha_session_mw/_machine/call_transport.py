"""HTTP/1.1 for the calls that servers of a cluster make all the time: small requests, on connections that stay open.

Such a call takes a fraction of the processor time that it takes with the transport of httpx2. Requests with a body that is streamed,
proxies and HTTP/2 are left out. The caller limits the time.
"""

from __future__ import annotations

import re
import select
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import anyio
import httpx2
from anyio.abc import ByteStream, SocketAttribute

KEEP_IDLE_S = 5.0
"""Seconds for which an idle connection is kept. uvicorn closes one after 5 s."""
MAX_HEAD_BYTES = 64 * 1024
"""Largest head of an answer, a multiple of what servers send."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")

Header = tuple[bytes, bytes]
Origin = tuple[str, bytes, int]


class CallTransport(httpx2.AsyncBaseTransport):
    """Carries calls to a few servers.

    Args:
        tls: for https URLs.
        most: how many calls may be under way at once. Others wait.
    """

    def __init__(self, tls: ssl.SSLContext | None, *, most: int) -> None:
        self._tls = tls
        self._turns = anyio.Semaphore(most, fast_acquire=True)
        self._idle: dict[Origin, list[_Connection]] = {}
        self._is_closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the answer once its head has arrived.

        Raises:
            httpx2.TransportError: there is no answer.
        """
        content = _head(request) + request.content
        await self._turns.acquire()
        connection: _Connection | None = None
        try:
            connection = await self._connection(request.url)
            status, fields = await connection.exchange(content)
            parts = connection.body(status, fields, request.method)
        except BaseException:
            self._turns.release()
            if connection is not None:
                await connection.close()
            raise
        return httpx2.Response(status, headers=fields, stream=_Body(self, connection, parts))

    async def _connection(self, url: httpx2.URL) -> _Connection:
        origin = (url.scheme, url.raw_host, url.port or (443 if url.scheme == "https" else 80))
        since_s = time.monotonic() - KEEP_IDLE_S
        over: list[_Connection] = []
        for idle in self._idle.values():
            while idle and idle[0].idle_since_s < since_s:
                over.append(idle.pop(0))
        kept, found = self._idle.get(origin, []), None
        while kept and found is None:
            last = kept.pop()
            if last.is_quiet():
                found = last
            else:
                over.append(last)
        for connection in over:
            await connection.close()
        return found or await _Connection.opened(origin, self._tls)

    async def give_back(self, connection: _Connection) -> None:
        """Take back a connection whose answer is over, or was given up."""
        self._turns.release()
        if self._is_closed or not connection.is_over:
            await connection.close()
            return
        connection.idle_since_s = time.monotonic()
        self._idle.setdefault(connection.origin, []).append(connection)

    async def aclose(self) -> None:
        """Close the idle connections now, and each other one once its answer is over."""
        self._is_closed = True
        idle, self._idle = [one for kept in self._idle.values() for one in kept], {}
        for connection in idle:
            await connection.close()


def _head(request: httpx2.Request) -> bytes:
    """Return the head of a request.

    Raises:
        httpx2.LocalProtocolError: a field has a line break in it.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw]
    head = b"\r\n".join((*lines, b"", b""))
    if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
        raise httpx2.LocalProtocolError("a field has a line break in it")
    return head


class _Parts(Protocol):
    """The parts of one body."""

    async def part(self) -> bytes:
        """Return the next part as it arrives; nothing at the end."""
        ...


class _Body(httpx2.AsyncByteStream):
    """The body of an answer. Its connection goes back once the body is closed."""

    def __init__(self, transport: CallTransport, connection: _Connection, parts: _Parts) -> None:
        self._transport = transport
        self._connection: _Connection | None = connection
        self._parts = parts

    # No generator, which would outlive a body that is not read to its end.

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if part := await self._parts.part():
            return part
        raise StopAsyncIteration

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._transport.give_back(connection)


class _Connection:
    """A connection to a server, which carries one call at a time.

    Args:
        origin: the server.
        stream: the connection.

    Attributes:
        origin: the server.
        is_over: whether the last answer is over, and the server takes another request.
        idle_since_s: when it became idle, by the monotonic clock.
    """

    __slots__ = ("_keeps", "_rest", "_socket", "_stream", "idle_since_s", "is_over", "origin")

    def __init__(self, origin: Origin, stream: ByteStream) -> None:
        self.origin = origin
        self.is_over = False
        self.idle_since_s = 0.0
        self._stream = stream
        self._socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - of anyio, not of Django
        self._rest = b""
        self._keeps = False

    @classmethod
    async def opened(cls, origin: Origin, tls: ssl.SSLContext | None) -> _Connection:
        """Return a new connection.

        Raises:
            httpx2.ConnectError: nobody listens there, or the server's certificate is not accepted.
        """
        scheme, raw_host, port = origin
        host = raw_host.decode("ascii")
        try:
            if scheme == "http":
                return cls(origin, await anyio.connect_tcp(host, port))
            if tls is None:
                raise httpx2.UnsupportedProtocol("there is no TLS context for https")
            return cls(origin, await anyio.connect_tcp(host, port, ssl_context=tls, tls_hostname=host, tls_standard_compatible=False))
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
            raise httpx2.ConnectError(str(exc)) from exc

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived since the last answer, and the server has not closed the connection."""
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        return not select.select([self._socket], [], [], 0)[0]

    async def close(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    # Requests and answers

    async def exchange(self, request: bytes) -> tuple[int, list[Header]]:
        """Send a request; return the status and the fields of its answer.

        Raises:
            httpx2.TransportError: there is no answer.
        """
        self.is_over = False
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the server may have answered before it closed
            await self._stream.send(request)
        status, fields = await self._answer_head()
        while status < 200:
            if status == 101:
                raise httpx2.RemoteProtocolError("the server changes to another protocol")
            status, fields = await self._answer_head()
        return status, fields

    async def _answer_head(self) -> tuple[int, list[Header]]:
        first, *lines = (await self._upto(b"\r\n\r\n")).split(b"\r\n")
        if (status := _STATUS_LINE.fullmatch(first)) is None:
            raise httpx2.RemoteProtocolError("the answer does not begin with a status line of HTTP/1.1")
        fields: list[Header] = []
        self._keeps = status[1] == b"1"
        for line in lines:
            if (field := _FIELD.fullmatch(line)) is None:
                raise httpx2.RemoteProtocolError("the answer has a malformed field")
            name, value = field.groups()
            fields.append((name, value))
            if name.lower() == b"connection" and b"close" in value.lower():
                self._keeps = False
        return int(status[2]), fields

    def body(self, status: int, fields: Sequence[Header], method: str) -> _Parts:
        """Return the body of an answer.

        Raises:
            httpx2.RemoteProtocolError: its length is malformed.
        """
        codings = [value.lower() for name, value in fields if name.lower() == b"transfer-encoding"]
        lengths = {value for name, value in fields if name.lower() == b"content-length"}
        if method == "HEAD" or status in (204, 304):
            return _Sized(self, 0)
        if codings == [b"chunked"] and not lengths:
            return _Chunked(self)
        if codings or len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise httpx2.RemoteProtocolError("the answer has a malformed length")
        return _Sized(self, int(lengths.pop())) if lengths else _UntilClosed(self)

    def end(self) -> None:
        """Note that the answer is over."""
        self.is_over = self._keeps and not self._rest

    # Bytes

    async def some(self, most: int) -> bytes:
        """Return some more bytes, and no more than so many.

        Raises:
            httpx2.RemoteProtocolError: the server has closed the connection.
            httpx2.ReadError: the connection is broken.
        """
        content, self._rest = self._rest or await self._receive(), b""
        if len(content) > most:
            content, self._rest = content[:most], content[most:]
        return content

    async def line(self) -> bytes:
        """Return the rest of a line. Raises as :meth:`some` does."""
        return await self._upto(b"\r\n")

    async def _upto(self, end: bytes) -> bytes:
        content = self._rest
        while (at := content.find(end)) < 0:
            if len(content) > MAX_HEAD_BYTES:
                raise httpx2.RemoteProtocolError("the head of the answer is too long")
            content += await self._receive()
        self._rest = content[at + len(end) :]
        return content[:at]

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive()
        except anyio.EndOfStream as exc:
            raise httpx2.RemoteProtocolError("the server has closed the connection") from exc
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
            raise httpx2.ReadError(str(exc)) from exc


class _Sized:
    """A body of a known length."""

    def __init__(self, connection: _Connection, length: int) -> None:
        self._connection = connection
        self._left = length
        if not length:
            connection.end()

    async def part(self) -> bytes:
        if not self._left:
            return b""
        found = await self._connection.some(self._left)
        self._left -= len(found)
        if not self._left:
            self._connection.end()
        return found


class _Chunked:
    """A body in chunks, each with its length."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._left: int | None = None  # of the present chunk; None before the first one

    async def part(self) -> bytes:
        if not self._left:
            self._left = await self._next_length()
        found = await self._connection.some(self._left) if self._left > 0 else b""
        self._left = self._left - len(found) if found else -1
        return found

    async def _next_length(self) -> int:
        line = self._connection.line
        if self._left is not None and await line():
            raise httpx2.RemoteProtocolError("the answer has a chunk that is longer than it says")
        if (length := _CHUNK.fullmatch(await line())) is None:
            raise httpx2.RemoteProtocolError("the answer has a malformed chunk")
        if not int(length[1], 16):
            while await line():
                pass  # a field after the body
            self._connection.end()
        return int(length[1], 16)


class _UntilClosed:
    """A body that ends with its connection."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def part(self) -> bytes:
        try:
            return await self._connection.some(1 << 30)
        except httpx2.RemoteProtocolError:
            return b""
