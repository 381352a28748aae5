"""A response that is cut because its session ended looks incomplete to its client, on the servers that people run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from .. import warm
from ..waiting import LIMIT_S, end, until
from .driver import SECRET

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]

APP = """
import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from ha_session_mw import SessionMiddleware, get_session

def log_in(request):
    get_session(request).login("ada", absolute=request.query_params.get("absolute"))
    return PlainTextResponse("in")

async def chat(websocket):
    get_session(websocket).require()
    await websocket.accept()
    await websocket.receive()

async def log_out(request):
    await get_session(request).revoke()
    return PlainTextResponse("out")

async def parts():
    yield b"data: half\\n\\n"
    await anyio.sleep_forever()

def of(media_type, **headers):
    def stream(request):
        get_session(request).require()
        return StreamingResponse(parts(), media_type=media_type, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return stream

async def listens(scope, receive, send):  # as an app without a framework
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]})
    await send({"type": "http.response.body", "body": b"data: half\\n\\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass

class Listens:
    async def __call__(self, scope, receive, send):
        await listens(scope, receive, send)

async def pass_on(request, call_next):
    return await call_next(request)

inner = SessionMiddleware(Starlette(routes=[
    Route("/in", log_in), Route("/out", log_out),
    Route("/chunked", of("text/csv")), Route("/length", of("text/csv", content_length="1000")), Route("/events", of("text/event-stream")),
    Route("/bare", Listens()), Route("/further-out", of("text/csv")),
    WebSocketRoute("/chat", chat),
]))
further_out = BaseHTTPMiddleware(inner, dispatch=pass_on)
added = Starlette(routes=[Route("/added", of("text/csv"))], middleware=[Middleware(SessionMiddleware, manager=inner.manager)])

async def app(scope, receive, send):
    await {"/further-out": further_out, "/added": added}.get(scope.get("path"), inner)(scope, receive, send)
"""

SERVERS = {
    "uvicorn, h11": ["uvicorn", "served:app", "--http", "h11", "--uds", "{path}"],
    "uvicorn, httptools": ["uvicorn", "served:app", "--http", "httptools", "--uds", "{path}"],
    "hypercorn": ["hypercorn", "served:app", "--bind", "unix:{path}"],
    "granian": ["granian", "served:app", "--interface", "asgi", "--uds", "{path}"],
}


DAPHNE = ["daphne", "served:app", "--unix-socket", "{path}"]


@contextmanager
def served(folder: Path, command: list[str], name: str = "s", **settings: str) -> Iterator[str]:
    """A server that listens; the path of its socket."""
    (folder / "served.py").write_text(APP)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    environ = {**outside, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "HA_SESSION_SECRET_KEY": SECRET, **settings}
    path = str(folder / name)
    with (folder / f"{name}.log").open("wb") as log:
        arguments = [part.format(path=path) for part in command]
        process = warm.start(*arguments, env=environ, stdout=log)
        try:
            until(lambda: listens(path), "the server listens")
            yield path
        finally:
            end(process)


def listens(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(path) == 0


@contextmanager
def asked(path: str, target: str, cookie: str = "") -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(LIMIT_S)
        client.connect(path)
        client.sendall(f"GET {target} HTTP/1.1\r\nhost: testserver\r\ncookie: {cookie}\r\n\r\n".encode())
        yield client


def read_until(client: socket.socket, end: bytes | None) -> bytes:
    """What the server sends until some bytes, or until it closes the connection."""
    got = b""
    while (end is None or end not in got) and (more := client.recv(65536)):
        got += more
    assert end is None or end in got
    return got


def logged_in(path: str, target: str = "/in") -> str:
    """The cookie of a new session."""
    with asked(path, target) as client:
        head = read_until(client, b"\r\n\r\nin").decode()
    return next(line.partition(": ")[2].partition(";")[0] for line in head.split("\r\n") if line.lower().startswith("set-cookie: "))


def cut(path: str, target: str, log_out_at: str | None = None) -> bytes:
    """The body of a stream as it is on the wire, whose session is logged out when the first half is there, here or at another worker."""
    cookie = logged_in(path)
    with asked(path, target, cookie) as stream:
        got = read_until(stream, b"half\n\n")
        with asked(log_out_at or path, "/out", cookie) as client:
            read_until(client, b"\r\n\r\nout")
        got += read_until(stream, b"0\r\n\r\n" if target == "/events" else None)
    return got.partition(b"\r\n\r\n")[2]


CHUNK = b"c\r\ndata: half\n\n\r\n"
TARGETS = {
    **dict.fromkeys(("/chunked", "/bare", "/added", "/further-out"), CHUNK),
    "/length": b"data: half\n\n",
    "/events": CHUNK + b"0\r\n\r\n",
}
"""What comes over the wire for each path. The last chunk of a complete body is the empty one."""


@pytest.mark.parametrize("server", SERVERS)
def test_a_client_sees_that_its_response_is_cut_off(server: str, tmp_path: Path) -> None:
    with served(tmp_path, SERVERS[server]) as path:
        seen = {target: cut(path, target).lower() for target in TARGETS}
    assert seen == TARGETS, (tmp_path / "s.log").read_text()


def test_the_absolute_end_of_a_session_ends_what_is_open_of_it(tmp_path: Path) -> None:
    with served(tmp_path, SERVERS["uvicorn, h11"]) as path:
        cookie = logged_in(path, "/in?absolute=2s")
        with (
            asked(path, "/chunked", cookie) as stream,
            asked(path, "/events", cookie) as events,
            unix_connect(path, uri="ws://testserver/chat", additional_headers={"Cookie": cookie}) as chat,
        ):
            with pytest.raises(ConnectionClosed):
                chat.recv(timeout=LIMIT_S)
            assert (chat.close_code, chat.close_reason) == (4401, "session_expired")
            got = read_until(stream, None), read_until(events, b"0\r\n\r\n")
    assert [one.partition(b"\r\n\r\n")[2] for one in got] == [TARGETS["/chunked"], TARGETS["/events"]]
    assert "reached its absolute end" in (tmp_path / "s.log").read_text()


def test_daphne_has_no_lifespan_and_ends_what_is_open_all_the_same(tmp_path: Path) -> None:
    """The node of each worker starts with its first request, and so hears of log-outs at the other one."""
    cluster = {"HA_SESSION_CLUSTER": f"sqlite://{tmp_path / 'log.db'}"}
    with served(tmp_path, DAPHNE, "a", **cluster) as a, served(tmp_path, DAPHNE, "b", **cluster) as b:
        targets = {target: body for target, body in TARGETS.items() if target != "/further-out"}
        assert {target: cut(a, target, log_out_at=b) for target in targets} == targets, (tmp_path / "a.log").read_text()
        cookie = logged_in(a)
        with unix_connect(a, uri="ws://testserver/chat", additional_headers={"Cookie": cookie}) as chat:
            with asked(b, "/out", cookie) as client:
                read_until(client, b"\r\n\r\nout")
            with pytest.raises(ConnectionClosed):
                chat.recv(timeout=LIMIT_S)
            assert chat.close_code == 4401
    said = (tmp_path / "a.log").read_text()
    assert "Traceback" not in said
    assert "the node cannot run" not in said
