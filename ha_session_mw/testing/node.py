"""A node of a cluster in one process, which can be started, stopped, killed and frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import anyio
import httpx2
from starlette.types import ASGIApp

from ..abc import Backend
from ..asgi.middleware import SessionMiddleware
from ..config import Settings
from ..manager import SessionManager
from .clock import ManualClock
from .network import Door, Network, Wire
from .process import Process

Run = Callable[..., Awaitable[Any]]
"""Awaits a call while the cluster's time passes."""


class Node:
    """A node of a :class:`Cluster`.

    Attributes:
        name: the node's name, which is its ``HA_SESSION_NODE_ID``, too.
        url: the URL at which the other nodes reach it.
        settings: the settings with which it starts the next time.
        clock: the node's own clock. Step its wall clock, or change its rate, to make it differ from the others'.
    """

    def __init__(
        self, network: Network, app: ASGIApp, settings: dict[str, Any], *, backend: Callable[[Settings], Backend] | None, run: Run
    ) -> None:
        self.name: str = settings["node_id"]
        self.url: str = settings["advertise_url"]
        self.settings = settings
        self.clock = ManualClock()
        self._network = network
        self._backend = backend
        self._run = run
        self._app = app
        self._starts = 0
        self.process: Process | None = None
        self.thawed = anyio.Event()
        self.thawed.set()

    async def start(self) -> None:
        """Start the node as a new process, which knows only the content of its files."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._starts += 1
        dice = Random(f"{self.name} {self._starts}")  # noqa: S311 - the same test has the same ids each time
        backend = self._backend
        settings = Settings(**self.settings)
        manager = SessionManager(
            settings,
            clock=self.clock,
            random=dice.randbytes,
            peer_transport=Wire(self._network, self),
            backend=backend(settings) if backend is not None else None,
        )
        process = Process(SessionMiddleware(self._app, manager=manager))
        await self._network.tasks.start(process.live)
        self.process = process

    async def stop(self) -> None:
        """End the node in order, as SIGTERM does; a frozen node is thawed first. Time passes until it has ended."""
        self.thaw()
        await self._run(self._end, lambda process: process.stopping.set())

    async def kill(self) -> None:
        """End the node at once, as SIGKILL does: it loses the content of its memory."""
        await self._end(lambda process: process.kill())
        self.thaw()

    def freeze(self) -> None:
        """Pause the node, as SIGSTOP does: its clocks go on, and requests to it wait until it is thawed."""
        self.clock.freeze()
        self.thawed = anyio.Event()

    def thaw(self) -> None:
        """Let the node continue, as SIGCONT does."""
        self.clock.thaw()
        self.thawed.set()

    @property
    def frozen(self) -> bool:
        return not self.thawed.is_set()

    async def _end(self, how: Callable[[Process], None]) -> None:
        process, self.process = self.process, None
        if process is not None:
            how(process)
            await process.ended.wait()

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def middleware(self) -> SessionMiddleware:
        """The node as an ASGI app.

        Raises:
            RuntimeError: the node does not run.
        """
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.middleware

    @property
    def manager(self) -> SessionManager:
        return self.middleware.manager

    @property
    def why_not_ready(self) -> str | None:
        """Why the node cannot validate sessions; None if it is ready."""
        return self.manager.why_not_ready()

    def client(self, **kwargs: Any) -> httpx2.AsyncClient:
        """Return a client of this node. Call it by ``await cluster.run(client.get, "/")``, so that time passes while it waits."""
        return httpx2.AsyncClient(transport=Door(self), base_url=self.url, **kwargs)

    async def request(
        self, method: str, path: str, *, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Return the node's answer to a request. Time passes until it comes.

        Args:
            method, path, headers: of the request.
            token: sent as a bearer token.

        Raises:
            httpx2.TransportError: the node does not run, or was killed meanwhile.
        """
        sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        async with self.client() as client:
            response: httpx2.Response = await self._run(client.request, method, path, headers=sent)
            return response

    async def get(self, path: str = "/", **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with POST."""
        return await self.request("POST", path, **kwargs)

    def __repr__(self) -> str:
        return f"<Node {self.name}>"
