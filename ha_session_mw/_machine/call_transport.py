"""The connections of the calls that servers of a cluster make all the time: small requests over HTTP/1.1, to a few servers.

h11 reads and writes HTTP. Such a call takes half of the processor time that it takes with the transport of httpx2, whose pool serves
many servers, proxies and protocols. The caller limits the time.
"""

from __future__ import annotations

import select
import ssl
import time
from contextlib import suppress

import anyio
import h11
import httpx2
from anyio.abc import ByteStream, SocketAttribute

KEEP_IDLE_S = 3.0
"""Seconds for which an idle connection is kept. uvicorn closes one after 5 s, and a request must not be under way then."""
MAX_HEAD_BYTES = 64 * 1024
"""Largest head of an answer, a multiple of what servers send."""

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
        await self._turns.acquire()
        connection: _Connection | None = None
        try:
            connection = await self._connection(request.url)
            head = await connection.exchange(request)
        except BaseException:
            self._turns.release()
            if connection is not None:
                await connection.close()
            raise
        return httpx2.Response(head.status_code, headers=[*head.headers], stream=_Body(self, connection))

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
        try:
            for connection in over:
                await connection.close()
        except BaseException:
            if found is not None:
                await found.close()
            raise
        return found or await _Connection.opened(origin, self._tls)

    async def give_back(self, connection: _Connection) -> None:
        """Take back a connection whose answer is over, or was given up."""
        self._turns.release()
        if self._is_closed or not connection.begins_anew():
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


class _Body(httpx2.AsyncByteStream):
    """The body of an answer. Its connection goes back once the body is closed."""

    def __init__(self, transport: CallTransport, connection: _Connection) -> None:
        self._transport = transport
        self._connection: _Connection | None = connection

    # No generator, which would outlive a body that is not read to its end.

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is not None and (part := await self._connection.part()):
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
        idle_since_s: when it became idle, by the monotonic clock.
    """

    __slots__ = ("_http", "_socket", "_stream", "idle_since_s", "origin")

    def __init__(self, origin: Origin, stream: ByteStream) -> None:
        self.origin = origin
        self.idle_since_s = 0.0
        self._stream = stream
        self._socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - of anyio, not of Django
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

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

    async def exchange(self, request: httpx2.Request) -> h11.Response:
        """Send a request, and return the head of its answer.

        Raises:
            httpx2.TransportError: there is no answer.
        """
        try:
            head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            parts = (head, h11.Data(request.content), h11.EndOfMessage())
            content = b"".join([self._http.send(part) or b"" for part in parts])
        except h11.LocalProtocolError as exc:
            raise httpx2.LocalProtocolError(str(exc)) from exc
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the server may have answered before it closed
            await self._stream.send(content)
        while not isinstance(event := await self._next_event(), h11.Response):
            pass  # an answer in advance, such as 100
        return event

    async def part(self) -> bytes:
        """Return the next part of the answer's body as it arrives; nothing at the end.

        Raises:
            httpx2.TransportError: the answer is cut off or malformed.
        """
        while self._http.their_state is h11.SEND_BODY:
            if isinstance(event := await self._next_event(), h11.Data):
                return bytes(event.data)
        return b""

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._receive())
        except h11.RemoteProtocolError as exc:
            raise httpx2.RemoteProtocolError(str(exc)) from exc
        return event

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive()
        except anyio.EndOfStream:
            return b""  # by which h11 knows the end of an answer without a length
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
            raise httpx2.ReadError(str(exc)) from exc

    def begins_anew(self) -> bool:
        """Return whether the last answer is over, and the server takes another request."""
        if self._http.their_state is h11.SEND_BODY:
            return False
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        return not self._http.trailing_data[0]
