"""The ways to a cluster that the drill compares: this package's client, a balancer, and clients without knowledge of hints."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import stamina
from httpx_retries import Retry, RetryTransport

from ha_session_mw.client import AsyncNodesTransport
from ha_session_mw.client.exchange import limits_of

SAFE = ("GET", "HEAD", "OPTIONS")
TRIES = 3
PAUSE_S = 0.1
"""First pause of the clients that know no hints; it doubles."""
OF_HTTPX = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)
"""The default of httpx. uvicorn closes an idle connection after 5 s, too."""

Count = Callable[[], None]
Ask = Callable[..., Awaitable[httpx.Response]]


class Counted(httpx.AsyncBaseTransport):
    """Counts the requests that reach the network."""

    def __init__(self, count: Count, limits: httpx.Limits = OF_HTTPX) -> None:
        self._count = count
        self._inner = httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._count()
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class OneNode(httpx.AsyncBaseTransport):
    """Sends to one of the URLs, and goes on to the next one after a failure, without a second try."""

    def __init__(self, urls: Sequence[str], count: Count) -> None:
        self._inner = Counted(count)
        self._urls = [httpx.URL(url) for url in urls]
        self._now = random.randrange(len(urls))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        node = self._urls[self._now % len(self._urls)]
        request.url = request.url.copy_with(host=node.host, port=node.port)
        request.headers["host"] = node.netloc.decode()
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TransportError:
            self._now += 1
            raise
        if response.status_code >= 500:
            self._now += 1
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _ours(urls: Sequence[str], count: Count) -> Any:
    return AsyncNodesTransport(urls, Counted(count, limits_of(httpx)))


def _with_httpx_retries(urls: Sequence[str], count: Count) -> httpx.AsyncBaseTransport:
    return RetryTransport(OneNode(urls, count), Retry(total=TRIES - 1, backoff_factor=PAUSE_S))


async def _plainly(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    return await http.request(method, path, **options)


class _Refused(Exception):
    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer


async def _with_stamina(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    """Try again what may be tried again without knowledge of the outcome."""
    may_repeat = (httpx.TransportError, _Refused) if method in SAFE else (httpx.ConnectError, httpx.ConnectTimeout)
    try:
        async for attempt in stamina.retry_context(may_repeat, attempts=TRIES, wait_initial=PAUSE_S):
            with attempt:
                answer = await http.request(method, path, **options)
                if answer.status_code >= 500 and method in SAFE:
                    raise _Refused(answer)
    except _Refused as refused:
        return refused.answer
    return answer


@dataclass(frozen=True)
class Way:
    """A client, and where it sends its requests.

    Attributes:
        transport: makes the transport of one user.
        ask: sends a request.
        is_balanced: whether all requests go to the balancer.
    """

    transport: Callable[[Sequence[str], Count], Any]
    ask: Ask = _plainly
    is_balanced: bool = False


OURS, BALANCED = "this package's client", "plain httpx, HAProxy"
WAYS: Mapping[str, Way] = {
    OURS: Way(_ours),
    BALANCED: Way(OneNode, is_balanced=True),
    "plain httpx": Way(OneNode),
    "httpx-retries": Way(_with_httpx_retries),
    "stamina": Way(OneNode, _with_stamina),
}
stamina.instrumentation.set_on_retry_hooks([])  # nothing is logged
