"""Transports for the clients of httpx and httpx2, over several nodes. The rules are in ``_core/calls/retry.py``."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import anyio

from .between_tries import Blocking, Suspending
from .exchange import Cluster, Exchange, as_text, library_of, limits_of, may_be_problem, read_problem
from .problems import Problem
from .streams import once, resumed
from .tries import Way, respond, run_blocking


class _Transport:
    """The common part of both transports.

    Args:
        urls: the base URLs of the nodes: scheme, host and port.
        inner: the transport that sends; by default the library's own. Options such as ``verify`` or ``http2`` are set there.
        reauthenticate: logs in by a request of the same client. Called where a node says that the session has ended, once for all
            requests that wait for it. The client then belongs to one user.
        boot_s: returns the seconds since some moment.

    Raises:
        ValueError: no URL is given, or one has more than these parts.
    """

    reauthenticate: Callable[[], Any] | None

    def __init__(self, urls: Sequence[str], inner: Any, boot_s: Callable[[], float]) -> None:
        self._cluster = Cluster(urls, boot_s)
        self._inner = inner

    def _exchange(self, request: Any) -> Exchange | None:
        """Return the exchange for a request; None if its URL is not one of a node."""
        if self._cluster.node_at(str(request.url)) is None:
            return None
        library = library_of(request)
        if not isinstance(request.stream, library.ByteStream):
            request.stream = once(library)(request.stream)
        return Exchange(
            self._cluster,
            request.method,
            request.url.raw_path.decode("ascii"),
            as_text(request.headers.raw),
            can_send_again=lambda: not getattr(request.stream, "has_begun", False),
            logs_in=self.reauthenticate is not None,
        )


class _HttpxWay(Way):
    """The way of one request of httpx or httpx2.

    Args:
        request: the caller's.
        inner: the transport that sends.
    """

    def __init__(self, request: Any, inner: Any) -> None:
        self._request = request
        self._inner = inner
        self._library = library_of(request)
        self.errors = self._library.TransportError

    @abstractmethod
    def chunks(self, body: Any) -> Any:
        """Return an iterator of a body's chunks."""

    @abstractmethod
    async def next_chunk(self, chunks: Any) -> bytes | None:
        """Return the next chunk; None after the last."""

    @abstractmethod
    async def close_body(self, body: Any) -> None:
        """Close a body, read or not."""

    def reason(self, error: Exception) -> BaseException:
        return error

    async def close(self, response: Any) -> None:
        await self.close_body(response.stream)

    async def read_problem(self, exchange: Exchange, response: Any) -> Problem | None:
        if not may_be_problem(response.headers):
            return None
        body, found, size = response.stream, list[bytes](), 0
        rest = self.chunks(body)
        while (chunk := await self.next_chunk(rest)) is not None:
            found.append(chunk)
            size += len(chunk)
            if not exchange.reads_on(size):
                response.stream = resumed(self._library)(found, rest, body)
                return None
        await self.close_body(body)
        response.stream = self._library.ByteStream(b"".join(found))
        return read_problem(response.headers, b"".join(found))

    def wire_request(self, exchange: Exchange) -> Any:
        """Return a new request for one try. A changed URL in the caller's would lose the cookies of its jar."""
        request = self._request
        timeout = dict(request.extensions.get("timeout", {}))
        if "connect" in timeout:
            timeout["connect"] = exchange.connect_within_s(timeout["connect"])
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in exchange.fields]
        url = self._library.URL(exchange.url)
        host = url.netloc  # bytes
        return type(request)(
            request.method,
            url,
            headers=[(b"host", host), *fields],
            stream=request.stream,
            extensions={**request.extensions, **({"timeout": timeout} if timeout else {})},
        )


class NodesTransport(_Transport):
    """A transport for ``httpx.Client`` and ``httpx2.Client``: sends each request to a node that is well, and again where that is right."""

    def __init__(
        self,
        urls: Sequence[str],
        inner: Any = None,
        *,
        reauthenticate: Callable[[], Any] | None = None,
        boot_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(urls, inner, boot_s)
        self.reauthenticate = reauthenticate
        self._sleep = sleep
        self._one_log_in = threading.Lock()

    def handle_request(self, request: Any) -> Any:
        """Return the response of a node. Clients call this.

        Raises:
            TransportError: of the library: the last try failed.
        """
        if self._inner is None:
            library = library_of(request)
            self._inner = library.HTTPTransport(limits=limits_of(library))
        exchange = self._exchange(request)
        if exchange is None:
            return self._inner.handle_request(request)
        between = Blocking(self._sleep, self._one_log_in, self.reauthenticate)
        return run_blocking(respond(exchange, _Blocking(request, self._inner), between))

    def close(self) -> None:
        """Close the inner transport."""
        if self._inner is not None:
            self._inner.close()

    def __enter__(self) -> Self:
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Blocking(_HttpxWay):
    def chunks(self, body: Any) -> Any:
        return iter(body)

    async def next_chunk(self, chunks: Any) -> bytes | None:
        return next(chunks, None)

    async def close_body(self, body: Any) -> None:
        body.close()

    async def send(self, exchange: Exchange) -> Any:
        return self._inner.handle_request(self.wire_request(exchange))


class AsyncNodesTransport(_Transport):
    """The same for ``httpx.AsyncClient`` and ``httpx2.AsyncClient``, on asyncio and trio. ``reauthenticate`` is a coroutine function."""

    def __init__(
        self,
        urls: Sequence[str],
        inner: Any = None,
        *,
        reauthenticate: Callable[[], Awaitable[Any]] | None = None,
        boot_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        super().__init__(urls, inner, boot_s)
        self.reauthenticate = reauthenticate
        self._sleep = sleep
        self._one_log_in: anyio.Lock | None = None  # made where an event loop runs

    async def handle_async_request(self, request: Any) -> Any:
        """Return the response of a node. Clients call this.

        Raises:
            TransportError: of the library: the last try failed.
        """
        if self._inner is None:
            library = library_of(request)
            self._inner = library.AsyncHTTPTransport(limits=limits_of(library))
        exchange = self._exchange(request)
        if exchange is None:
            return await self._inner.handle_async_request(request)
        if self._one_log_in is None:
            self._one_log_in = anyio.Lock()
        between = Suspending(self._sleep, self._one_log_in, self.reauthenticate)
        return await respond(exchange, _Suspending(request, self._inner), between)

    async def aclose(self) -> None:
        """Close the inner transport."""
        if self._inner is not None:
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        if self._inner is not None:
            await self._inner.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


class _Suspending(_HttpxWay):
    def chunks(self, body: Any) -> Any:
        return aiter(body)

    async def next_chunk(self, chunks: Any) -> bytes | None:
        chunk: bytes | None = await anext(chunks, None)
        return chunk

    async def close_body(self, body: Any) -> None:
        await body.aclose()

    async def send(self, exchange: Exchange) -> Any:
        return await self._inner.handle_async_request(self.wire_request(exchange))
