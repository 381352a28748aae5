"""The network of a cluster in one process: carries the nodes' calls over links."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from random import Random
from typing import Protocol

import anyio
import httpx2

from .clock import ManualClock
from .link import Link
from .process import Process


class Host(Hashable, Protocol):
    """A node, as far as the network needs it."""

    name: str
    url: str
    process: Process | None
    thawed: anyio.Event


class Network:
    """The links between nodes, and the time by which messages travel.

    Args:
        seed: of the links' random numbers. The same seed loses, delays and duplicates the same messages.

    Attributes:
        hosts: the nodes; set once.
        clock: measures the time that messages take.
        tasks: runs the nodes and carries the messages.
    """

    def __init__(self, seed: int) -> None:
        self.hosts: list[Host] = []
        self.clock = ManualClock()
        self.tasks = anyio.create_task_group()
        self._seed = seed
        self._links: dict[tuple[str, str], Link] = {}
        self._dice: dict[tuple[str, str], Random] = {}

    def link(self, sender: Host, receiver: Host) -> Link:
        """Return the link from one node to another. The opposite direction has a link of its own."""
        return self._links.setdefault((sender.name, receiver.name), Link())

    def dice(self, sender: Host, receiver: Host) -> Random:
        """Return the random numbers that decide about the messages on that link."""
        pair = sender.name, receiver.name
        if pair not in self._dice:
            self._dice[pair] = Random(f"{sender.name} {receiver.name} {self._seed}")  # noqa: S311 - the same test has the same dice
        return self._dice[pair]

    async def sleep(self, seconds: float) -> None:
        """Return when this much time has passed."""
        await self.clock.sleep(seconds)

    async def travels(self, link: Link, seconds: float) -> bool:
        """Wait for as long as a message travels; return whether it arrives."""
        if seconds:
            await self.sleep(seconds)
        return not link.cut


@lru_cache
def _host_of(url: str) -> str:
    return httpx2.URL(url).host


class Door(httpx2.AsyncBaseTransport):
    """Carries requests of clients to one node, without a link."""

    def __init__(self, node: Host) -> None:
        self._node = node

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        process = self._node.process
        if process is None:
            raise httpx2.ConnectError("the node does not run", request=request)
        return await process.serve(request, self._node.thawed)


class Wire(httpx2.AsyncBaseTransport):
    """Carries the calls of one node to the others, over links that can be cut."""

    def __init__(self, network: Network, caller: Host) -> None:
        self._network = network
        self._caller = caller

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        callee = next((node for node in self._network.hosts if _host_of(node.url) == host), None)
        if callee is None:
            raise httpx2.ConnectError("no such node", request=request)
        call = _Call(self._network, self._caller, callee, request, await request.aread())
        call.send()
        answer = await call.answer()
        await self._caller.thawed.wait()
        return answer


class _Call:
    """A call under way, and then its answer. Both travel on after the caller has stopped waiting, and may arrive late."""

    def __init__(self, network: Network, caller: Host, callee: Host, request: httpx2.Request, body: bytes) -> None:
        self._network, self._callee = network, callee
        self._there, self._back = network.link(caller, callee), network.link(callee, caller)
        self._dice = network.dice(caller, callee), network.dice(callee, caller)
        self._request, self._body = request, body
        self._outcome: httpx2.Response | httpx2.TransportError | None = None
        self._ended = anyio.Event()

    def send(self) -> None:
        for seconds in self._there.copies(self._dice[0]):
            self._network.tasks.start_soon(self._go, seconds)

    async def answer(self) -> httpx2.Response:
        await self._ended.wait()
        if isinstance(self._outcome, httpx2.Response):
            return self._outcome
        raise self._outcome or httpx2.ReadError("no answer", request=self._request)

    async def _go(self, seconds: float) -> None:
        if not await self._network.travels(self._there, seconds):
            return
        try:
            response = await self._deliver()
            if self._there.replays:
                await self._deliver()
        except httpx2.TransportError as failure:
            self._end(failure)
            return
        for back_s in self._back.copies(self._dice[1])[:1]:
            if await self._network.travels(self._back, back_s):
                content = self._back.as_it_arrives(await response.aread())
                self._end(httpx2.Response(response.status_code, headers=response.headers, stream=httpx2.ByteStream(content)))

    async def _deliver(self) -> httpx2.Response:
        body, request = self._there.as_it_arrives(self._body), self._request
        copy = httpx2.Request(request.method, request.url, headers=request.headers, content=body)
        return await Door(self._callee).handle_async_request(copy)

    def _end(self, outcome: httpx2.Response | httpx2.TransportError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()
