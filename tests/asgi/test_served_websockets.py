"""The handshake of a WebSocket carries the session's token, on the servers that people run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect, unix_connect

from .. import warm
from ..waiting import end, until
from .driver import SECRET

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]

APP = """
import json
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from ha_session_mw import SessionMiddleware, get_session

async def handle(websocket):
    session = get_session(websocket)
    session["visits"] = session.get("visits", 0) + 1
    if session["visits"] == 2:
        session.login("ada")
    if session["visits"] == 4:
        session.clear()
    await websocket.accept(headers=[(b"x-mine", b"1")])
    await websocket.receive_text()
    await websocket.send_json([session.subject, session.get("visits")])
    await websocket.close()

app = SessionMiddleware(Starlette(routes=[WebSocketRoute("/", handle)]))
"""

SERVERS = {
    "uvicorn, websockets": ["uvicorn", "served:app", "--ws", "websockets", "--fd", "{fd}"],
    "uvicorn, wsproto": ["uvicorn", "served:app", "--ws", "wsproto", "--fd", "{fd}"],
    "hypercorn": ["hypercorn", "served:app", "--bind", "fd://{fd}"],
}
GRANIAN = ["granian", "served:app", "--interface", "asgi", "--uds", "{path}"]


@contextmanager
def served(folder: Path, command: list[str]) -> Iterator[str]:
    """A server; its address. The socket listens before the process begins, so a client waits."""
    (folder / "served.py").write_text(APP)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    paths = os.pathsep.join([str(folder), str(ROOT)])
    environ = {**outside, "PYTHONPATH": paths, "HA_SESSION_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log, closing(socket.create_server(("127.0.0.1", 0))) as listening:
        fd = listening.fileno()
        arguments = [part.format(fd=fd, path=folder / "s") for part in command]
        process = warm.start(*arguments, env=environ, pass_fds=[fd], stdout=log)
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            end(process)


@pytest.mark.parametrize("server", SERVERS)
def test_the_handshake_hands_out_the_token(server: str, tmp_path: Path) -> None:
    cookie, seen = "", []
    with served(tmp_path, SERVERS[server]) as address:
        for _ in range(4):
            with connect(f"ws://{address}/", additional_headers={"Cookie": cookie}, proxy=None) as websocket:
                answer = websocket.response
                assert answer is not None
                assert answer.headers["x-mine"] == "1"
                cookie = answer.headers["set-cookie"].partition(";")[0]
                websocket.send("go on")
                seen.append(websocket.recv())
    assert seen == ["[null,1]", '["ada",2]', '["ada",3]', "[null,null]"]
    assert cookie == "session=null"


def test_granian_drops_the_headers_of_the_handshake_so_there_the_change_raises(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with served(tmp_path, GRANIAN):
        until(lambda: listens(path), "the server listens")
        with pytest.raises(InvalidStatus, match="403"):
            unix_connect(path, uri="ws://localhost/")
    assert "SessionReadOnly" in (tmp_path / "log").read_text()


def listens(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(path) == 0
