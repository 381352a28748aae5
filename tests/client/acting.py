"""Nodes that play a part, and clients of each library that ask them, all in one process and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2

from ha_session_mw.client import AsyncNodesTransport, NodesTransport

URLS = ["http://n1.test", "http://n2.test:8080", "http://n3.test"]
KINDS = ["httpx", "httpx2", "httpx on asyncio", "httpx2 on asyncio", "httpx2 on trio"]

Answer = Callable[["Asked"], Any]
"""Plays one answer: returns (status, headers, body), or raises an error of the library."""


class Asked:
    """A request as a node gets it."""

    def __init__(self, library: ModuleType, request: Any, body: bytes) -> None:
        self.library = library
        self.method: str = request.method
        self.url = str(request.url)
        self.origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        self.path: str = request.url.raw_path.decode()
        self.headers: dict[str, str] = dict(request.headers)
        self.timeout: dict[str, float] = request.extensions.get("timeout", {})
        self.body = body


class Stage:
    """The inner transport: the nodes, each with its part, and the requests that reached them.

    Args:
        parts: by the node's URL, the answers in their order; the last one is repeated.
    """

    def __init__(self, **parts: Iterable[Answer]) -> None:
        self.parts: dict[str, Iterator[Answer]] = {}
        self._last: dict[str, Answer] = {}
        for url, name in zip(URLS, ("n1", "n2", "n3"), strict=True):
            self.parts[url] = iter(parts.get(name, [well]))
        self.asked: list[Asked] = []
        self.closed = 0

    def _answer(self, asked: Asked) -> Any:
        self.asked.append(asked)
        answer = self._last[asked.origin] = next(self.parts[asked.origin], None) or self._last[asked.origin]
        status, headers, body = answer(asked)
        stream = asked.library.ByteStream(body) if isinstance(body, bytes) else body
        return asked.library.Response(status, headers=headers, stream=stream)

    def handle_request(self, request: Any) -> Any:
        library = _library_of(request)
        return self._answer(Asked(library, request, b"".join(request.stream)))

    async def handle_async_request(self, request: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        library = _library_of(request)
        return self._answer(Asked(library, request, b"".join([chunk async for chunk in request.stream])))

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def nodes(self) -> list[str]:
        """The nodes that were asked, in their order."""
        return [asked.origin for asked in self.asked]


def _library_of(request: Any) -> ModuleType:
    return httpx if isinstance(request, httpx.Request) else httpx2


# Answers


def well(asked: Asked) -> Any:
    return 200, [("content-type", "text/plain")], asked.origin.encode()


def problem(status: int, code: str, **facts: Any) -> Answer:
    document = {"code": code, "status": status, "action": "retry", "retryable": True, "outcome": "not_executed", **facts}

    def answer(_: Asked) -> Any:
        return status, [("content-type", "application/problem+json")], json.dumps(document).encode()

    return answer


def error(name: str) -> Answer:
    def answer(asked: Asked) -> Any:
        raise getattr(asked.library, name)("played")

    return answer


stale = problem(503, "state_stale", retry_where="other_node", retry_after_ms=250)
quorum_lost = problem(503, "quorum_lost", retry_where="any", retry_after_ms=1500)
revoked = problem(401, "session_revoked", action="reauthenticate", retryable=False, retry_where="none")


# Clients


class User:
    """A client of one library, with the calls of a synchronous one."""

    def __init__(self, kind: str, stage: Any, *, reauthenticate: Callable[[User], Any] | None = None, **options: Any) -> None:
        self.kind = kind
        self.waits: list[float] = []
        self.now_s = 0.0
        name, _, backend = kind.partition(" on ")
        self._library = httpx if name == "httpx" else httpx2
        self._backend = backend
        log_in = None if reauthenticate is None else lambda: reauthenticate(self)
        if backend:

            async def log_in_here() -> Any:
                return await log_in() if log_in else None

            self.transport: Any = AsyncNodesTransport(
                URLS, stage, reauthenticate=log_in_here if log_in else None, boot_s=lambda: self.now_s, sleep=self._async_sleep
            )
            self.client: Any = self._library.AsyncClient(transport=self.transport, base_url=URLS[0], trust_env=False, **options)
        else:
            self.transport = NodesTransport(URLS, stage, reauthenticate=log_in, boot_s=lambda: self.now_s, sleep=self._sleep)
            self.client = self._library.Client(transport=self.transport, base_url=URLS[0], trust_env=False, **options)
        self.transport._cluster.nodes._roll = lambda: 0.0
        self.transport._cluster.nodes._preferred = 0

    def _sleep(self, wait_s: float) -> None:
        self.now_s += wait_s
        self.waits.append(wait_s)

    async def _async_sleep(self, wait_s: float) -> None:
        self._sleep(wait_s)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        return self.play(lambda: self.client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> Any:
        return self.ask("GET", path, **options)

    def raw(self, path: str) -> tuple[int, bytes]:
        """Return the status of an answer, and its body as it came."""

        def read() -> tuple[int, bytes]:
            with self.client.stream("GET", path) as response:
                return response.status_code, b"".join(response.iter_raw())

        async def read_async() -> tuple[int, bytes]:
            async with self.client.stream("GET", path) as response:
                return response.status_code, b"".join([chunk async for chunk in response.aiter_raw()])

        found: tuple[int, bytes] = self.play(read_async if self._backend else read)
        return found

    def play(self, story: Callable[[], Any]) -> Any:
        """Run a call of the client, which is a coroutine function's if the client is an asynchronous one."""
        if not self._backend:
            return story()

        async def run() -> Any:
            return await story()

        return anyio.run(run, backend=self._backend)

    def errors(self, name: str) -> type[Exception]:
        kind: type[Exception] = getattr(self._library, name)
        return kind
