"""One node of a cluster in one process: it is started and ended, and frozen in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import httpx2
from anyio import CancelScope
from starlette.types import ASGIApp, Message

from ..asgi.middleware import SessionMiddleware
from ..config import Settings
from ..manager import SessionManager
from .clock import ManualClock
from .network import Door, Wire

if TYPE_CHECKING:
    from .cluster import Cluster


class Node:
    """A node of a :class:`Cluster`.

    Attributes:
        name: which is its ``HA_SESSION_NODE_ID``, too.
        url: where the others reach it.
        settings: what it is started with the next time.
        clock: its own. Step its wall clock to set it wrong, or let it run at another rate than the others'.
    """

    def __init__(self, cluster: Cluster, app: ASGIApp, settings: dict[str, Any]) -> None:
        self.name: str = settings["node_id"]
        self.url: str = settings["advertise_url"]
        self.settings = settings
        self.clock = ManualClock()
        self._cluster = cluster
        self._app = app
        self._starts = 0
        self._process: _Process | None = None
        self._thawed = anyio.Event()
        self._thawed.set()

    async def start(self) -> None:
        """Start it, as a new process: it knows what its files hold, and no more."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._starts += 1
        dice = Random(f"{self.name} {self._starts}")  # noqa: S311 - the same test has the same ids each time
        backend = self._cluster._backend  # noqa: SLF001 - the nodes are the cluster's
        settings = Settings(**self.settings)
        manager = SessionManager(
            settings,
            clock=self.clock,
            random=dice.randbytes,
            peer_transport=Wire(self._cluster, self),
            backend=backend(settings) if backend is not None else None,
        )
        process = _Process(SessionMiddleware(self._app, manager=manager))
        await self._cluster._tasks.start(process.live)  # noqa: SLF001 - the nodes are the cluster's
        self._process = process

    async def stop(self) -> None:
        """End it in order, as SIGTERM does; one that is frozen is thawed first."""
        self.thaw()
        await self._end(lambda process: process.stopping.set())

    async def kill(self) -> None:
        """End it in the midst of what it does, as SIGKILL does: whatever is in memory only is forgotten."""
        await self._end(lambda process: process.kill())
        self.thaw()

    def freeze(self) -> None:
        """Stop it wherever it waits, as SIGSTOP does: its clocks go on, and what it is sent is kept until it goes on too."""
        self.clock.freeze()
        self._thawed = anyio.Event()

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does."""
        self.clock.thaw()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    async def _end(self, how: Callable[[_Process], None]) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            await process.ended.wait()

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def middleware(self) -> SessionMiddleware:
        """The node as an ASGI app.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.middleware

    @property
    def manager(self) -> SessionManager:
        return self.middleware.manager

    @property
    def why_not_ready(self) -> str | None:
        """What keeps it from judging sessions."""
        return self.manager.why_not_ready()

    def client(self, **kwargs: Any) -> httpx2.AsyncClient:
        """A client of this node. Call it by ``await cluster.run(client.get, "/")``, so that time passes while it waits."""
        return httpx2.AsyncClient(transport=Door(self), base_url=self.url, **kwargs)

    async def request(
        self, method: str, path: str, *, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """What the node answers. Time passes while it does not.

        Args:
            method, path, headers: of the request.
            token: sent as a bearer.

        Raises:
            httpx2.TransportError: the node does not run, or is killed.
        """
        sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        async with self.client() as client:
            return await self._cluster.run(client.request, method, path, headers=sent)

    async def get(self, path: str = "/", **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with POST."""
        return await self.request("POST", path, **kwargs)

    def __repr__(self) -> str:
        return f"<Node {self.name}>"


class _Process:
    """What lives from a start of a node to its end."""

    def __init__(self, middleware: SessionMiddleware) -> None:
        self.middleware = middleware
        self.stopping = anyio.Event()
        self.ended = anyio.Event()
        self._scopes: dict[CancelScope, None] = {}  # in their order, so that they end in the same one each time

    async def live(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """The lifespan, as a server drives it."""
        opening: list[Message] = [{"type": "lifespan.startup"}]

        async def receive() -> Message:
            if opening:
                return opening.pop()
            await self.stopping.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                raise RuntimeError(message.get("message", ""))
            if message["type"] == "lifespan.startup.complete":
                task_status.started()

        try:
            with self._scope():
                await self.middleware({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        finally:
            self.kill()  # with the process end the requests that are still under way
            self.ended.set()

    async def serve(self, request: httpx2.Request, thawed: anyio.Event) -> httpx2.Response:
        with self._scope():
            await thawed.wait()
            return await httpx2.ASGITransport(app=self.middleware).handle_async_request(request)
        raise httpx2.ReadError("the node was killed", request=request)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        with CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            finally:
                del self._scopes[scope]

    def kill(self) -> None:
        for scope in self._scopes:
            scope.cancel()
