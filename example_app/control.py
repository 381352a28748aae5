"""The page of the cluster with buttons: the demo's own process kills, freezes, heals and drains its nodes. No node can do that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ha_session_mw.ops.page import document, is_same_origin

from .no_tls import NO_TLS
from .ports import reserve_port, url_of
from .servers import Server

LATEST_S = 2.0
"""How long a node may be quiet before another one is asked: it tells something each second."""
UI = "/-/session/ui"


class Control:
    """Serves the page of whichever node answers, and does to the nodes what its buttons say.

    Args:
        nodes: the nodes.
        password: of their pages.
    """

    def __init__(self, nodes: Sequence[Server], password: str) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._password = password
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/nodes", self._list),
                Route("/ui/events", self._events),
                Route("/nodes/{name}/{act}", self._act, methods=["POST"]),
            ],
            # Without it, a page whose name suddenly leads to this address (DNS rebinding) would be of the same origin.
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)],
        )

    async def _page(self, _: Request) -> Response:
        html, policy = document(Path(__file__).with_name("static").joinpath("control.js").read_text("utf-8"))
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    async def _list(self, _: Request) -> Response:
        return JSONResponse([{"name": node.name, "url": node.url} for node in self._nodes.values()])

    async def _act(self, request: Request) -> Response:
        node = self._nodes.get(request.path_params["name"])
        acts = {} if node is None else {"kill": node.kill, "freeze": node.freeze, "heal": node.heal, "drain": node.terminate}
        act = acts.get(request.path_params["act"])
        if act is None:
            return PlainTextResponse("no such node, or nothing that can be done to it\n", status_code=404)
        if not is_same_origin(request.scope):
            return PlainTextResponse("The request came from a page of another site.\n", status_code=403)
        await run_in_threadpool(act)
        return Response(status_code=204)

    async def _events(self, _: Request) -> Response:
        return StreamingResponse(self._told_by_any(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _told_by_any(self) -> AsyncIterator[bytes]:
        yield b"retry: 500\n\n"  # the browser comes back so soon, and another node is asked
        for node in self._nodes.values():
            heard = False
            async for told in self._told_by(node):
                heard = True
                yield told
            if heard:
                return

    async def _told_by(self, node: Server) -> AsyncIterator[bytes]:
        try:
            async with httpx2.AsyncClient(base_url=node.url, timeout=LATEST_S, trust_env=False, verify=NO_TLS) as client:
                same_origin = {"Sec-Fetch-Site": "same-origin"}
                await client.post(f"{UI}/log-in", data={"password": self._password}, headers=same_origin)
                async with client.stream("GET", f"{UI}/events") as response:
                    if response.status_code == 200:
                        async for chunk in response.aiter_raw():
                            yield chunk
        except httpx2.HTTPError:
            return


@contextmanager
def controlling(nodes: Sequence[Server], password: str) -> Iterator[str]:
    """Serve the page while the block runs; give its URL."""
    port = reserve_port()
    config = uvicorn.Config(Control(nodes, password).app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield url_of(port)
    finally:
        server.should_exit = True
        thread.join(5)
