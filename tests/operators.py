"""Operators who call nodes of a test, without a network or over loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any, Literal

import httpx2
import msgspec
import uvicorn
from click.testing import CliRunner, Result

from ha_session_mw import SessionMiddleware, Settings
from ha_session_mw._node.admin_call import Operator
from ha_session_mw.cli.commands import ha_session
from ha_session_mw.testing import SECRET

from .asgi.driver import Answer, Header, call, scope_of
from .waiting import LIMIT_S


class Wiretap(httpx2.AsyncBaseTransport):
    """Carries the calls of an operator to one app, and keeps them."""

    def __init__(self, app: SessionMiddleware) -> None:
        self.app = app
        self.sent: list[tuple[str, list[Header], bytes]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        self.sent.append((request.url.path, headers, request.content))
        answer = await self.deliver(*self.sent[-1])
        return httpx2.Response(answer.status, headers=answer.start["headers"], stream=httpx2.ByteStream(answer.body))

    async def deliver(self, path: str, headers: list[Header], body: bytes, *, method: str = "POST") -> Answer:
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        return await call(self.app, scope_of("http", path, method=method, headers=headers), incoming)


async def ask(wire: httpx2.AsyncBaseTransport, name: str, request: msgspec.Struct, **settings: Any) -> Any:
    """The answer to an operator with these settings, and the secret of tests."""
    return await Operator(Settings(**{"secret_key": SECRET, **settings}), wire).ask("http://anywhere.test", name, request)


def run(*arguments: str, environ: Mapping[str, str] | None = None, stdin: str | None = None, **settings: object) -> Result:
    """Run ``ha-session`` with these settings of its environment, and no others."""
    bare: dict[str, str | None] = {name: None for name in os.environ if name.startswith("HA_SESSION_")}
    ours = {f"HA_SESSION_{name.upper()}": str(value) for name, value in {"secret_key": SECRET, **settings}.items() if value is not None}
    return CliRunner().invoke(ha_session, arguments, env={**bare, **ours, **(environ or {})}, input=stdin, prog_name="ha-session")


def listeners(count: int) -> list[tuple[str, socket.socket]]:
    """Ports of loopback that are bound already, with their URLs."""
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return [("http://{}:{}".format(*one.getsockname()), one) for one in bound]


@contextmanager
def served(apps: Mapping[socket.socket, Any], *, lifespan: Literal["on", "off"] = "on") -> Iterator[dict[socket.socket, uvicorn.Server]]:
    """Real servers in one thread of this process: as real as others for their clients, and started in no time."""
    servers = {bound: uvicorn.Server(uvicorn.Config(app, lifespan=lifespan, log_level="warning")) for bound, app in apps.items()}

    async def serve() -> None:
        await asyncio.gather(*(server.serve(sockets=[bound]) for bound, server in servers.items()))

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield servers
    finally:
        for server in servers.values():
            server.should_exit = True
        thread.join(LIMIT_S)
        assert not thread.is_alive()
