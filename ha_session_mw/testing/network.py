"""What carries the calls of nodes: over links that can be cut, are slow, and lose, double, garble and replay."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import anyio
import httpx2

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node


@dataclass
class Link:
    """The way from one node to another. May be changed at any time.

    Attributes:
        cut: what is sent is lost, and what would arrive now, and nobody is told.
        delay_s: how long it takes.
        jitter_s: how much longer it may take, each time anew, so that what was sent later may arrive earlier.
        loss: how often what is sent is lost, between 0 and 1.
        duplication: how often a call is carried twice, between 0 and 1; the copy takes a time of its own.
        garbles: a bit of each body is turned over.
        replays: each call arrives a second time, right after it was answered.
    """

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    garbles: bool = False
    replays: bool = False

    def mend(self) -> None:
        """It carries everything at once again."""
        self.__init__()  # type: ignore[misc]

    def copies(self, dice: Random) -> list[float]:
        """After how long each copy arrives of what is sent now; none where it is lost."""
        if self.cut or _falls(self.loss, dice):
            return []
        return [self._time_s(dice) for _ in range(1 + _falls(self.duplication, dice))]

    def _time_s(self, dice: Random) -> float:
        return self.delay_s + (dice.uniform(0, self.jitter_s) if self.jitter_s else 0.0)

    def as_it_arrives(self, body: bytes) -> bytes:
        """What is left of a body."""
        return bytes([body[0] ^ 1]) + body[1:] if self.garbles and body else body


def _falls(chance: float, dice: Random) -> bool:
    return chance > 0 and dice.random() < chance


class Door(httpx2.AsyncBaseTransport):
    """The way into a node, for those who stand before it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        process = self._node._process  # noqa: SLF001 - its door
        if process is None:
            raise httpx2.ConnectError("the node does not run", request=request)
        return await process.serve(request, self._node._thawed)  # noqa: SLF001


class Wire(httpx2.AsyncBaseTransport):
    """Carries the calls of one node to the others, over links that can be cut."""

    def __init__(self, cluster: Cluster, caller: Node) -> None:
        self._cluster = cluster
        self._caller = caller

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        callee = next((node for node in self._cluster.nodes if httpx2.URL(node.url).host == request.url.host), None)
        if callee is None:
            raise httpx2.ConnectError("no such node", request=request)
        call = _Call(self._cluster, self._caller, callee, request, await request.aread())
        call.send()
        answer = await call.answer()
        await self._caller._thawed.wait()  # noqa: SLF001
        return answer


class _Call:
    """A call under way, and then its answer. Both go on when nobody waits for them any more, and may arrive late."""

    def __init__(self, cluster: Cluster, caller: Node, callee: Node, request: httpx2.Request, body: bytes) -> None:
        self._cluster, self._callee = cluster, callee
        self._there, self._back = cluster.link(caller, callee), cluster.link(callee, caller)
        self._dice = cluster._dice[caller, callee], cluster._dice[callee, caller]  # noqa: SLF001 - the cluster's network
        self._request, self._body = request, body
        self._outcome: httpx2.Response | httpx2.TransportError | None = None
        self._ended = anyio.Event()

    def send(self) -> None:
        for seconds in self._there.copies(self._dice[0]):
            self._cluster._tasks.start_soon(self._go, seconds)  # noqa: SLF001

    async def answer(self) -> httpx2.Response:
        await self._ended.wait()
        if isinstance(self._outcome, httpx2.Response):
            return self._outcome
        raise self._outcome or httpx2.ReadError("no answer", request=self._request)

    async def _go(self, seconds: float) -> None:
        if not await self._cluster._travels(self._there, seconds):  # noqa: SLF001
            return
        try:
            response = await self._deliver()
            if self._there.replays:
                await self._deliver()
        except httpx2.TransportError as failure:
            self._end(failure)
            return
        for back_s in self._back.copies(self._dice[1])[:1]:
            if await self._cluster._travels(self._back, back_s):  # noqa: SLF001
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
