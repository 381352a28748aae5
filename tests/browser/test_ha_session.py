"""``ha-session.js`` in headless Chromium: in several tabs, over https, and over plain http, where browsers give no locks."""

from __future__ import annotations

import gzip
import queue
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ha_session_mw import SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw.asgi import endpoints

from ..asgi.driver import SECRET
from ..waiting import end

pytestmark = pytest.mark.real

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHIN_S = 200
SCENES = Path(__file__).with_name("scenes.js")
STALE = {"code": "state_stale", "status": 503, "action": "retry", "retryable": True, "outcome": "not_executed", "retry_after_ms": 50}


BOMB = gzip.compress(b" " * 30_000_000)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 10_000
        await anyio.lowlevel.checkpoint()  # the server sees that the browser has gone


class Site:
    """The app of the scenes, with what it has seen."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.manager = SessionManager(Settings(secret_key=SECRET, protect=("/account", "/ws", "/events")))
        routes = [
            Route("/page", self._page),
            Route("/scenes.js", self._script),
            Route("/log-in", self._log_in, methods=["POST"]),
            Route("/revoke", self._revoke, methods=["POST"]),
            Route("/account", self._account),
            Route("/events", self._events),
            Route("/played/{part}", self._played, methods=["GET", "POST"]),
            Route("/result", self._result, methods=["POST"]),
            WebSocketRoute("/ws", self._ws),
            WebSocketRoute("/ws-log-in", self._ws_log_in),
        ]
        self.app = self._seen(SessionMiddleware(Starlette(routes=routes), manager=self.manager))

    def _seen(self, app: Any) -> Any:
        async def seen(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "lifespan":
                self.asked[scope["path"]] += 1
            await app(scope, receive, send)

        return seen

    async def _page(self, _: Request) -> Response:
        return HTMLResponse('<!doctype html><title>scenes</title><body><script type="module" src="/scenes.js"></script>')

    async def _script(self, _: Request) -> Response:
        return Response(SCENES.read_bytes(), media_type="text/javascript")

    async def _log_in(self, request: Request) -> Response:
        get_session(request).login("ada")
        return Response(status_code=204)

    async def _revoke(self, _: Request) -> Response:
        await self.manager.revoke_subject("ada")
        return Response(status_code=204)

    async def _account(self, request: Request) -> Response:
        return PlainTextResponse(get_session(request).subject or "nobody")

    async def _events(self, _: Request) -> Response:
        async def ticks() -> AsyncIterator[str]:
            yield f"event: tick\ndata: {self.asked['/events']}\n\n"

        return StreamingResponse(ticks(), media_type="text/event-stream")

    async def _ws(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.receive()

    async def _ws_log_in(self, socket: WebSocket) -> None:
        get_session(socket).login("ada")
        await self._ws(socket)

    async def _played(self, request: Request) -> Response:
        part, body = request.path_params["part"], (await request.body()).decode()
        first = self.asked[request.url.path] == 1
        played: dict[str, Any] = {
            "stale": STALE if first else None,
            "stale-post": STALE if first else None,
            "executed": {**STALE, "outcome": "executed"},
            "days": {**STALE, "retry_after_ms": 10**9} if first else None,
            "always": STALE,
            "wrong-code": {**STALE, "status": 200, "code": "new in a later release"} if first else None,
            "superseded": {**STALE, "status": 409, "code": "session_superseded"} if self.asked[request.url.path] <= 3 else None,
            "storm": {**STALE, "status": 401, "action": "reauthenticate", "retryable": False},
        }
        if part == "gateway":
            return Response(status_code=502) if first else PlainTextResponse("well")
        if part == "nonsense":
            return Response(b"{", 503, media_type="application/problem+json") if first else Response(status_code=418)
        if part == "endless":
            return StreamingResponse(endless(), 409, media_type="application/problem+json")
        if part == "bomb":
            return Response(BOMB, 409, {"content-encoding": "gzip"}, "application/problem+json")
        if part == "circle":
            return RedirectResponse(request.url.path)
        problem = played[part]
        if problem is None:
            return PlainTextResponse(f"well {body}")
        return JSONResponse(problem, problem["status"], media_type="application/problem+json")

    async def _result(self, request: Request) -> Response:
        self.results.put(await request.json())
        return Response(status_code=204)


@contextmanager
def served(site: Site, **options: Any) -> Iterator[int]:
    """The site, served by a thread; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="error", timeout_graceful_shutdown=1, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(WITHIN_S)


@contextmanager
def browser(folder: Path, url: str) -> Iterator[None]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'profile'}", "--ignore-certificate-errors", "--host-resolver-rules=MAP app.test 127.0.0.1"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen([*command, url], stdout=log, stderr=log)
        try:
            yield
        finally:
            end(process, WITHIN_S)


def certificate(folder: Path) -> dict[str, str]:
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=WITHIN_S)
    return {"ssl_keyfile": str(key), "ssl_certfile": str(cert)}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y --no-install-recommends chromium")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_goes_on_whatever_its_node_answers(tmp_path: Path, scheme: str) -> None:
    site = Site()
    options = certificate(tmp_path) if scheme == "https" else {}
    with served(site, **options) as port, browser(tmp_path, f"{scheme}://{'127.0.0.1' if options else 'app.test'}:{port}/page"):
        results = site.results.get(timeout=WITHIN_S)
    tabs = results.pop("three tabs, three requests each, nobody logged in")
    assert results == {
        "locks": scheme == "https",
        "a stale node": "200 well ",
        "a POST that was not executed": "200 well tea",
        "a POST that was executed": 503,
        "a POST with a key": "200 well",
        "a hint of days": "200 well ",
        "always stale": 503,
        "not JSON": 418,
        "a refusal without an end": 409,
        "a bomb": 409,
        "a refusal with the code of a success": "200 well ",
        "a cookie that a late answer has replaced": ["200 well ", 1],
        "a redirect in a circle": "a network error",
        "refused however often the user logs in": [3, *[401] * 6],
        "a user who does not log in": 401,
        "a WebSocket whose session is logged out": ["hello", "hello"],
        "an event stream that is refused and ends": ["2", "3"],
        "an event stream that the page closes": True,
        "a WebSocket whose handshake logs in": "200 ada",
        "a page that is used": True,
    }
    # One log-in of the tabs together, one after the user who does not log in, one of the WebSocket, and one of the stream. Without
    # locks, a tab that hears the others too late logs in by itself, and so replaces their session.
    assert site.asked["/log-in"] == 4 if options else site.asked["/log-in"] in (4, 5, 6)
    assert len(tabs) == 9
    assert tabs.count("200 ada") == 9 if site.asked["/log-in"] == 4 else tabs.count("200 ada") >= 3
    assert site.asked["/played/executed"] == 1
    assert site.asked["/played/always"] == 3
    assert site.asked["/played/endless"] == site.asked["/played/bomb"] == 1
    assert site.asked["/played/circle"] <= 3 * 21  # a browser follows twenty
    assert site.asked["/played/storm"] == 9
    assert site.asked["/-/session/renew"] >= 2  # of the event stream that ended, and of the page that is used


def test_the_script_is_small() -> None:
    assert Path(endpoints.__file__).with_name(endpoints.SCRIPT[1:]).stat().st_size <= 6 * 1024
