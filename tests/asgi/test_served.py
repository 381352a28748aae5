"""Served by a real uvicorn, as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from example_app.no_tls import NO_TLS

from .. import warm
from ..waiting import LIMIT_S, end
from .driver import SECRET

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]

APP = """
from ha_session_mw import SessionMiddleware, get_session

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    session = get_session(scope)
    if scope["path"] == "/login":
        session.login("ada")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": (session.subject or "nobody").encode()})

app = SessionMiddleware(app)
"""


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    (tmp_path / "served.py").write_text(APP)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    return {**outside, "PYTHONPATH": paths, **{f"HA_SESSION_{name}": value for name, value in settings.items()}}


@contextmanager
def served(log: IO[bytes], environ: dict[str, str], *options: str) -> Iterator[str]:
    """A server; its address. The socket listens before the process begins, so a client waits and the test does not sleep."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        command = ["uvicorn", "served:app", "--fd", str(listening.fileno()), *options]
        process = warm.start(*command, env=environ, pass_fds=[listening.fileno()], stdout=log)
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            end(process)


BAD = {"SECRET_KEY": "short", "IDLE_TIMEOUT": "soon", "COKIE_NAME": "x"}
FAULTS = ("HA_SESSION_IDLE_TIMEOUT='soon'", "HA_SESSION_COKIE_NAME: is not a setting of this release. Did you mean HA_SESSION_COOKIE_NAME?")


def test_bad_settings_stop_the_server_and_are_all_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "served:app", "--port", "0"]
    environ = environment(tmp_path, **BAD)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode != 0
    assert "Application startup failed" in done.stderr
    for fault in FAULTS:
        assert fault in done.stderr


def test_bad_settings_without_a_lifespan_serve_nothing_but_errors(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        with served(log, environment(tmp_path, **BAD), "--lifespan", "off") as address:
            for path in ("/", "/login", "/-/session/livez", "/-/session/readyz"):
                response = httpx2.get(f"http://{address}{path}", timeout=LIMIT_S, trust_env=False, verify=NO_TLS)
                assert response.status_code == 500
                assert response.headers.get("set-cookie") is None
                assert response.text == "Internal Server Error"
        log.seek(0)
        told = log.read().decode()
    for fault in FAULTS:
        assert fault in told


def test_a_server_serves(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, served(log, environment(tmp_path, SECRET_KEY=SECRET, PROTECT="/private*")) as address:
        with httpx2.Client(base_url=f"http://{address}", timeout=LIMIT_S, trust_env=False, verify=NO_TLS) as client:
            assert client.get("/").text == "nobody"
            refused = client.get("/private")
            assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
            assert client.post("/login").text == "ada"
            assert client.get("/private").text == "ada"
            assert client.head("/-/session/readyz").status_code == 200
            cookie = f"session={client.cookies['session']}"
        with pytest.raises(InvalidStatus) as handshake, connect(f"ws://{address}/private"):
            pass
        answer = handshake.value.response
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body or b"")["code"] == "token_missing"
        with connect(f"ws://{address}/private", additional_headers={"Cookie": cookie}) as websocket:
            assert list(websocket) == []
