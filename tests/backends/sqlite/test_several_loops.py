"""Several event loops at once, as ``asyncio.run`` makes them in threads, and test clients for each request: none waits in vain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ha_session_mw import SessionMiddleware, Settings, get_session

from ...asgi.driver import SECRET

THREADS, VISITS = 4, 12


async def log_in(request: Request) -> PlainTextResponse:
    get_session(request).login("ada")
    return PlainTextResponse()


async def count(request: Request) -> PlainTextResponse:
    async with get_session(request).lock():
        request.session["count"] = request.session.get("count", 0) + 1
    return PlainTextResponse(str(request.session["count"]))


async def log_out(request: Request) -> PlainTextResponse:
    request.session.clear()
    return PlainTextResponse()


@pytest.fixture
def app(tmp_path: Path) -> SessionMiddleware:
    routes = [Route("/log-in", log_in), Route("/count", count), Route("/log-out", log_out)]
    settings = Settings(secret_key=SECRET, cluster=f"sqlite://{tmp_path}/log.db", data="store")
    return SessionMiddleware(Starlette(routes=routes), settings=settings)


def test_changes_of_one_session_wait_for_each_other(app: SessionMiddleware) -> None:
    browser = TestClient(app)
    browser.get("/log-in")
    with ThreadPoolExecutor(THREADS) as threads:
        counts = [*threads.map(lambda _: TestClient(app, cookies=browser.cookies).get("/count").text, range(VISITS))]
    assert sorted(map(int, counts)) == [*range(1, VISITS + 1)]


def test_sessions_begin_and_end_at_once(app: SessionMiddleware) -> None:
    def visit(_: int) -> list[int]:
        browser = TestClient(app)
        return [browser.get(path).status_code for path in ("/log-in", "/count", "/log-out")]

    with ThreadPoolExecutor(THREADS) as threads:
        assert [*threads.map(visit, range(VISITS))] == [[200, 200, 200]] * VISITS
