"""Transports for the clients of httpx and httpx2, over several nodes. The rules are in ``_core/calls/retry.py``."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import anyio

from .exchange import AfterLogIn, Cluster, Exchange, as_text, library_of, limits_of, log_in_once, may_be_problem, read_problem
from .problems import Problem
from .streams import once, resumed


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

    def __init__(
        self,
        urls: Sequence[str],
        inner: Any = None,
        *,
        reauthenticate: Callable[[], Any] | None = None,
        boot_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = Cluster(urls, boot_s)
        self._inner = inner
        self.reauthenticate = reauthenticate

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

    @staticmethod
    def _wire_request(exchange: Exchange, request: Any) -> Any:
        """Return a new request for one try. A changed URL in the caller's would lose the cookies of its jar."""
        library = library_of(request)
        timeout = dict(request.extensions.get("timeout", {}))
        if "connect" in timeout:
            timeout["connect"] = exchange.connect_within_s(timeout["connect"])
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in exchange.fields]
        url = library.URL(exchange.url)
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
        super().__init__(urls, inner, reauthenticate=reauthenticate, boot_s=boot_s)
        self._sleep = sleep
        self._one_log_in = threading.Lock()

    def handle_request(self, request: Any) -> Any:
        """Return the response of a node. Clients call this.

        Raises:
            TransportError: of the library: the last try failed.
        """
        library = library_of(request)
        if self._inner is None:
            self._inner = library.HTTPTransport(limits=limits_of(library))
        exchange = self._exchange(request)
        if exchange is None:
            return self._inner.handle_request(request)
        while True:
            try:
                response = self._inner.handle_request(self._wire_request(exchange, request))
                problem = self._problem_of(exchange, response, library)  # one that breaks off says as little as no answer
            except library.TransportError as error:
                step = exchange.failed(error)
                if step is None:
                    raise
            else:
                step = exchange.answered(response.status_code, response.headers, problem)
                if step is None or (isinstance(step, AfterLogIn) and not self._log_in(exchange)):
                    return response
                response.stream.close()
            self._sleep(step.wait_s)

    def _problem_of(self, exchange: Exchange, response: Any, library: Any) -> Problem | None:
        if not may_be_problem(response.headers):
            return None
        body, chunks, size = response.stream, [], 0
        rest = iter(body)
        for chunk in rest:
            chunks.append(chunk)
            size += len(chunk)
            if not exchange.reads_on(size):
                response.stream = resumed(library)(chunks, rest, body)
                return None
        body.close()
        response.stream = library.ByteStream(b"".join(chunks))
        return read_problem(response.headers, b"".join(chunks))

    def _log_in(self, exchange: Exchange) -> bool:
        assert self.reauthenticate is not None  # noqa: S101 - else no exchange asks for it
        return log_in_once(exchange, self._one_log_in, self.reauthenticate)

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
        super().__init__(urls, inner, reauthenticate=reauthenticate, boot_s=boot_s)
        self._sleep = sleep
        self._one_log_in: anyio.Lock | None = None  # made where an event loop runs

    async def handle_async_request(self, request: Any) -> Any:
        """Return the response of a node. Clients call this.

        Raises:
            TransportError: of the library: the last try failed.
        """
        library = library_of(request)
        if self._inner is None:
            self._inner = library.AsyncHTTPTransport(limits=limits_of(library))
        exchange = self._exchange(request)
        if exchange is None:
            return await self._inner.handle_async_request(request)
        while True:
            try:
                response = await self._inner.handle_async_request(self._wire_request(exchange, request))
                problem = await self._problem_of(exchange, response, library)
            except library.TransportError as error:
                step = exchange.failed(error)
                if step is None:
                    raise
            else:
                step = exchange.answered(response.status_code, response.headers, problem)
                if step is None or (isinstance(step, AfterLogIn) and not await self._log_in(exchange)):
                    return response
                await response.stream.aclose()
            await self._sleep(step.wait_s)

    async def _problem_of(self, exchange: Exchange, response: Any, library: Any) -> Problem | None:
        if not may_be_problem(response.headers):
            return None
        body, chunks, size = response.stream, [], 0
        rest = aiter(body)
        async for chunk in rest:
            chunks.append(chunk)
            size += len(chunk)
            if not exchange.reads_on(size):
                response.stream = resumed(library)(chunks, rest, body)
                return None
        await body.aclose()
        response.stream = library.ByteStream(b"".join(chunks))
        return read_problem(response.headers, b"".join(chunks))

    async def _log_in(self, exchange: Exchange) -> bool:
        """Log in unless another request has done so meanwhile; return whether there is a log-in to use."""
        assert self.reauthenticate is not None  # noqa: S101 - else no exchange asks for it
        if self._one_log_in is None:
            self._one_log_in = anyio.Lock()
        async with self._one_log_in:
            if exchange.uses_log_in():
                return True
            if not exchange.may_log_in():
                return False
            with exchange.log_in():
                await self.reauthenticate()
            return True

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
