"""Several event loops at once, as ``asyncio.run`` makes them in threads, and test clients for each request: none waits in vain."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import cast

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ha_session_mw import SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._machine.sqlite_file import FileTrouble
from ha_session_mw.backends.sqlite.log import SqliteLog
from ha_session_mw.exceptions import SessionRevoked
from ha_session_mw.manager import node_of

from ...asgi.driver import SECRET

THREADS, VISITS = 4, 12
LIMIT_S = 10.0


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


class ToldOf:
    """A lock that tells when somebody waits for it."""

    def __init__(self, waits: Event) -> None:
        self._waits = waits
        self._lock = Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_thread_that_reads_the_file_hides_no_log_out_from_the_others(tmp_path: Path) -> None:
    settings = Settings(secret_key=SECRET, cluster=f"sqlite://{tmp_path}/log.db")
    manager, other = SessionManager(settings), SessionManager(settings)
    node = node_of(manager)
    claims = node.issuer.issue("ada")
    token = node.sign(claims)
    node.validator.validate(token)
    assert isinstance(node.log, SqliteLog)
    file, begun, waits = node.log._file, Event(), Event()
    file.reading = ToldOf(waits)  # type: ignore[assignment]

    def read_slowly(db: sqlite3.Connection) -> None:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on, it reads the file as it is now
        begun.set()
        waits.wait(LIMIT_S)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(file._read, read_slowly)
        assert begun.wait(LIMIT_S)
        anyio.run(other.revoke_session, claims.sid)
        try:
            with pytest.raises(SessionRevoked):
                node.validator.validate(token)
        finally:
            waits.set()


def test_a_thread_outlives_that_another_one_lets_the_file_go(tmp_path: Path) -> None:
    """The other one finds out that the disk fails, while this one waits for its turn to read."""
    node = node_of(SessionManager(Settings(secret_key=SECRET, cluster=f"sqlite://{tmp_path}/log.db")))
    token = node.sign(node.issuer.issue("ada"))
    node.validator.validate(token)
    log, free = cast(SqliteLog, node.log), Lock()

    class Taken:
        def __enter__(self) -> None:
            log._file.reading = free
            log._lose(FileTrouble("cannot be read: the disk fails", passing=True))

        def __exit__(self, *_: object) -> None: ...

    log._file.reading = Taken()  # type: ignore[assignment]
    assert isinstance(node.validator.validate(token), CannotTell)
    assert "the disk fails" in str(log.why_not_ready())
