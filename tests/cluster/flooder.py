"""A member that has the secret and floods the others, as an app for a server of its own: ``POST /flood/<how>`` has it begin.

``pages``: it answers each poll at once, with a page of unknown log-outs, and says that there are more.
``heap``: more in one page than anybody may send. ``poll``, ``lookup``, ``hello``: it calls each of the others without
end, over many connections at once, and ignores the answers. ``rest``: it behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from itertools import count

import httpx2
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ha_session_mw import SessionMiddleware
from ha_session_mw._core.cluster.freshness import Moment
from ha_session_mw._core.quorum.log import PAGE_ENTRIES
from ha_session_mw._core.quorum.messages import Answer, decode_poll, encode
from ha_session_mw._node import lookups
from ha_session_mw._node.lookups import Question
from ha_session_mw._peering.client import PeerClient
from ha_session_mw.abc import PeerFailure
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny
from ha_session_mw.testing import mint_session, who_is_there
from ha_session_mw.version import PROTOCOL

from ..inside import peering_of, quorum_log_of

AT_ONCE = 32
"""Connections to each of the others."""
HEAP_ENTRIES = 20_000
CALLS = ("poll", "lookup", "hello")


class Flooder:
    """The app, and its attacks on its peers."""

    def __init__(self) -> None:
        self.middleware = SessionMiddleware(who_is_there)
        self.manager = self.middleware.manager
        self.log = quorum_log_of(self.manager)
        self.peering = peering_of(self.manager)
        self.how = "rest"
        self.sent = 0
        self._ids = count()
        self._heap = tuple(Deny(f"heap-{number:017d}", self.log.unknown_end_ms()) for number in range(HEAP_ENTRIES))
        self.peering.handle("poll", self.on_poll)
        node_of(self.manager).add_task("flood", self.flood)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/flood/"):
            self.how = scope["path"].removeprefix("/flood/")
            await JSONResponse({"sent": self.sent})(scope, receive, send)
        else:
            await self.middleware(scope, receive, send)

    async def on_poll(self, body: bytes) -> bytes:
        if self.how not in ("pages", "heap"):
            return await self.log.answering.on_poll(body)
        quorum, now, poll = self.log.quorum, self._now(), decode_poll(body)
        quorum.drop(quorum.arrived(poll, now)[0])
        self.sent += 1
        until_ms = self.log.unknown_end_ms()
        page = (Deny(f"flood-{next(self._ids):016d}", until_ms) for _ in range(PAGE_ENTRIES))
        answer = Answer(
            version=1,
            digest=quorum.membership.standing.text,
            sender=quorum.me,
            heartbeat=quorum.heartbeat(now),
            incarnation=quorum.incarnation,
            memory=quorum.memory,
            upto=quorum.position,
            entries=tuple(page) if self.how == "pages" else self._heap,
        )
        return encode(answer)

    async def flood(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for peer in self.manager.settings.peers:
                if peer != self.peering.me:
                    for number in range(AT_ONCE):
                        tasks.create_task(self._call_for_ever(peer, f"{self.log.quorum.life}-{number}"))

    async def _call_for_ever(self, peer: str, nonce: str) -> None:
        async with Pipe(peer) as pipe:
            client = PeerClient(
                self.peering.me,
                nonce,
                lambda: node_of(self.manager).keys.ring,
                prefix="/-/session",
                clock=self.manager.clock,
                faults=self.peering.faults,
                http=lambda: pipe,
            )
            while True:
                if self.how not in CALLS:
                    await asyncio.sleep(0.05)
                    continue
                with contextlib.suppress(PeerFailure):
                    self.sent += 1
                    await client.call(peer, self.how, self._question(peer), timeout_s=30.0)

    def _now(self) -> Moment:
        return Moment(self.manager.clock.boot_s(), self.manager.clock.wall_s() * 1000)

    def _question(self, peer: str) -> bytes:
        if self.how == "lookup":
            return lookups.encode(Question(PROTOCOL.highest, mint_session(self.manager, "mallory").encode()))
        return encode(self.log.quorum.poll(peer, self._now()).poll) if self.how == "poll" else b"nobody"


class Pipe(httpx2.AsyncBaseTransport):
    """One connection with minimal overhead: a flood should cost the others more than the flooder."""

    def __init__(self, url: str) -> None:
        self.url = httpx2.URL(url)
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            status, headers, content = await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, ValueError) as exc:
            self._hang_up()
            await asyncio.sleep(0.05)
            raise httpx2.ConnectError("gone") from exc
        return httpx2.Response(status, headers=dict(headers), stream=httpx2.ByteStream(content))

    async def _exchange(self, request: httpx2.Request) -> tuple[int, Mapping[str, str], bytes]:
        if self._ends is None:
            self._ends = await asyncio.open_connection(self.url.host, self.url.port)
        reader, writer = self._ends
        fields = f"host: {self.url.host}\r\nsession-peer: {request.headers['session-peer']}\r\ncontent-length: {len(request.content)}"
        writer.write(f"POST {request.url.path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + request.content)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        return int(first.split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))

    def _hang_up(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None

    async def aclose(self) -> None:
        self._hang_up()


def app() -> Flooder:
    return Flooder()
