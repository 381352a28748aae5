"""One node of a cluster in one process: it is started and ended, and frozen in between."""

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

Run = Callable[..., Awaitable[httpx2.Response]]
"""Awaits a call, and lets the cluster's time pass meanwhile."""


class Node:
    """A node of a :class:`Cluster`.

    Attributes:
        name: which is its ``HA_SESSION_NODE_ID``, too.
        url: where the others reach it.
        settings: what it is started with the next time.
        clock: its own. Step its wall clock to set it wrong, or let it run at another rate than the others'.
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
        """Start it, as a new process: it knows what its files hold, and no more."""
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
        self.thawed = anyio.Event()

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does."""
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
            RuntimeError: it does not run.
        """
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.middleware

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
            return await self._run(client.request, method, path, headers=sent)

    async def get(self, path: str = "/", **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with POST."""
        return await self.request("POST", path, **kwargs)

    def __repr__(self) -> str:
        return f"<Node {self.name}>"
