"""A change before a WebSocket is accepted reaches a real browser: its cookie comes with the handshake."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ha_session_mw import SessionMiddleware, Settings, get_session

from ..asgi.driver import SECRET
from ..operators import listeners, served
from .devtools import CHROMIUM, Tab, tab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y --no-install-recommends chromium"),
]


async def show(request: Request) -> Response:
    return HTMLResponse(f"<p>{get_session(request).subject}</p>")


async def log_in(websocket: WebSocket) -> None:
    get_session(websocket).login("ada")
    await websocket.accept()
    await websocket.close()


async def log_out(websocket: WebSocket) -> None:
    get_session(websocket).clear()
    await websocket.accept()
    await websocket.close()


app = SessionMiddleware(
    Starlette(routes=[Route("/", show), WebSocketRoute("/log-in", log_in), WebSocketRoute("/log-out", log_out)]),
    settings=Settings(secret_key=SECRET),
)


def open_and_close(page: Tab, path: str) -> None:
    opened = f"new Promise((done, fail) => Object.assign(new WebSocket('{path}'), {{onopen: () => done(true), onerror: fail}}))"
    assert page.ask(opened) is True


def test_a_log_in_and_a_log_out_in_the_handshake_reach_a_browser(tmp_path: Path) -> None:
    [(url, bound)] = listeners(1)
    with served({bound: app}), tab(tmp_path) as page:
        seen = []
        for path in (None, "/log-in", "/log-out"):
            if path is not None:
                open_and_close(page, path)
            page.open(url)
            seen.append(page.ask("document.querySelector('p').innerText"))
    assert seen == ["None", "ada", "None"]
