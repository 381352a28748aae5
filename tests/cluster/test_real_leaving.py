"""Real servers leave in order: after SIGTERM no log-out elsewhere waits for them, and none of theirs is lost. All waits have a limit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from example_app.ports import reserve_port, url_of
from ha_session_mw.testing import SECRET

from .. import warm
from ..thinning import thinned
from ..waiting import LIMIT_S, until
from .test_real import ROOT, Served, served

pytestmark = pytest.mark.real

FRESHNESS_LIMIT_S = 10.0
"""So long that a log-out on a busy machine takes less than half of a fence, unless it waits for one."""
FENCE_WAIT_S = FRESHNESS_LIMIT_S * 1.02 + 0.05

APP = """
import anyio
from ha_session_mw import SessionMiddleware
from ha_session_mw.asgi import sigterm
from ha_session_mw.testing import who_is_there

sigterm.IDLE_S = 6.0  # a client on a busy machine may be slow


async def slow(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/private/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b": still here\\n\\n", "more_body": True})
            await anyio.sleep(0.1)
    if scope["type"] == "http" and scope["query_string"] == b"slowly":
        print("the slow request has begun", flush=True)
        await anyio.sleep(1)
    await who_is_there(scope, receive, send)


app = SessionMiddleware(slow)
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    yield from served(tmp_path_factory.mktemp("leaving"), APP, {"FRESHNESS_LIMIT": str(FRESHNESS_LIMIT_S)})


@pytest.fixture(autouse=True)
def all_are_there(nodes: list[Served]) -> Iterator[None]:
    yield
    for node in nodes:
        if not node.is_running:
            node.start()
    for node in nodes:
        until(lambda node=node: not node.readiness(), "ready again")  # type: ignore[misc]


def log_out_s(node: Served, token: str) -> float:
    """How many seconds a log-out took that was acknowledged as fenced."""
    begun_s = time.monotonic()
    assert node.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
    return time.monotonic() - begun_s


def test_the_next_log_out_waits_for_no_node_that_has_left(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    c.end(signal.SIGTERM)
    assert log_out_s(a, token) < FENCE_WAIT_S / 2
    assert b.status(token) == 401


def test_a_log_out_in_flight_at_sigterm_is_acknowledged_and_enforced(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(c.request, "POST", "/logout?slowly", token)
        until(lambda: "the slow request has begun" in c.told, "the request has begun")
        c.end(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert answer.result().headers["session-revocation"] == "fenced"
    assert [node.status(token) for node in (a, b)] == [401, 401]


def events(node: Served, token: str) -> socket.socket:
    """An event stream that is open, as a client sees it."""
    client = socket.create_connection(("127.0.0.1", node.port), LIMIT_S)
    client.sendall(f"GET /private/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
    seen = b""
    while b"still here" not in seen:
        more = client.recv(65536)
        assert more, seen
        seen += more
    return client


def test_a_stream_that_is_open_at_sigterm_goes_on_at_a_node_that_has_left(nodes: list[Served]) -> None:
    a, _, c = nodes
    token, other = a.log_in(), a.log_in("bob")
    with closing(events(c, token)) as stream:
        c.signal(signal.SIGTERM)
        until(lambda: "member c has left" in a.told, "it has left")
        assert stream.recv(65536)
        assert log_out_s(a, other) < FENCE_WAIT_S / 2
        assert stream.recv(65536)
        assert log_out_s(a, token) < FENCE_WAIT_S / 2
        until(lambda: not stream.recv(65536), "the stream ends with its session")
    c.end(signal.SIGTERM)


def test_a_node_drains_at_sigterm_before_its_listener_closes(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    c.end(signal.SIGTERM)
    c.settings["DRAIN_DELAY"] = "1h"
    c.start()
    until(lambda: not c.readiness(), "ready")
    c.signal(signal.SIGTERM)
    until(lambda: "draining" in c.readiness(), "it drains")
    answer = c.request("GET", "/private", token)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    c.end(signal.SIGTERM)  # a second one ends the drain at once
    assert log_out_s(b, token) < FENCE_WAIT_S / 2
    c.settings["DRAIN_DELAY"] = "500ms"
    c.start()
    until(lambda: not c.readiness(), "ready")
    begun_s = time.monotonic()
    c.end(signal.SIGTERM)
    assert time.monotonic() - begun_s >= 0.5
    c.settings["DRAIN_DELAY"] = "1h"
    c.start()
    until(lambda: not c.readiness(), "ready")
    c.end(signal.SIGINT)  # never delayed
    del c.settings["DRAIN_DELAY"]


def test_the_port_closes_before_connections_that_are_idle(nodes: list[Served]) -> None:
    *_, c = nodes
    c.end(signal.SIGTERM)
    c.settings["DRAIN_DELAY"] = "300ms"
    c.start()
    until(lambda: not c.readiness(), "ready")
    del c.settings["DRAIN_DELAY"]
    with socket.create_connection(("127.0.0.1", c.port), LIMIT_S) as idle:
        c.signal(signal.SIGTERM)
        until(lambda: c.readiness() == "ConnectError", "the port is closed")
        idle.sendall(b"POST /login/ada HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        answer = idle.recv(65536).lower()
        assert answer.startswith(b"http/1.1 200")
        assert b"connection: close" in answer
    c.end(signal.SIGTERM)  # the connections of the other nodes stay open, and need not be waited for


@pytest.mark.parametrize("server", thinned(["uvicorn", "hypercorn", "granian"], kept=["hypercorn"]))
def test_an_operator_drains_a_node_under_any_server(nodes: list[Served], server: str) -> None:
    a, b, c = nodes
    c.end(signal.SIGTERM)
    c.settings["DRAIN_DELAY"] = "500ms"
    address = {"hypercorn": ("--bind", f"127.0.0.1:{c.port}"), "granian": ("--interface", "asgi", "--port", str(c.port))}
    c.start(server=server, options=address.get(server, ()))
    until(lambda: not c.readiness(), "ready")
    token = c.log_in()
    command = [sys.executable, "-m", "ha_session_mw.cli", "drain", c.url.replace("127.0.0.1", "localhost"), "--wait"]
    environ = {"PYTHONPATH": str(ROOT), "HA_SESSION_DRAIN_DELAY": "500ms"}
    stranger = subprocess.run(command, env={**environ, "HA_SESSION_SECRET_KEY": SECRET[::-1]}, capture_output=True, text=True)
    assert (stranger.returncode, "knows none of our keys" in stranger.stderr) == (1, True)
    assert not c.readiness()
    begun_s = time.monotonic()
    subprocess.run(command, env={**environ, "HA_SESSION_SECRET_KEY": SECRET}, check=True)
    assert time.monotonic() - begun_s >= 0.5
    assert "draining" in c.readiness()
    assert c.status(token) == 200
    c.end(signal.SIGTERM)
    assert log_out_s(a, token) < FENCE_WAIT_S / 2
    assert b.status(token) == 401
    del c.settings["DRAIN_DELAY"]


@pytest.mark.parametrize("server", thinned(["uvicorn --workers", "gunicorn"], kept=["gunicorn"]))
def test_workers_drain_at_sigterm(server: str, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APP)
    url = url_of(port := reserve_port())
    command = {
        "uvicorn --workers": ["uvicorn", "served:app", "--port", str(port), "--workers", "2", "--log-level", "warning"],
        "gunicorn": ["gunicorn", "served:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--bind", f"127.0.0.1:{port}"],
    }[server]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    ours = {"SECRET_KEY": SECRET, "CLUSTER": f"sqlite://{tmp_path}/sessions.db", "DRAIN_DELAY": "3s"}
    environ = {**outside, **{f"HA_SESSION_{name}": value for name, value in ours.items()}}
    environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = warm.start(*command, env=environ, start_new_session=True, cwd=tmp_path)

    def readiness() -> int:
        try:
            return httpx2.get(url + "/-/session/readyz", timeout=1, trust_env=False, verify=NO_TLS).status_code
        except httpx2.TransportError:
            return 0

    try:
        until(lambda: readiness() == 200, "ready")
        begun_s = time.monotonic()
        process.terminate()
        until(lambda: readiness() == 503, "it drains")
        with socket.create_connection(("127.0.0.1", port), LIMIT_S) as idle:
            until(lambda: readiness() == 0, "the port is closed")
            if server == "gunicorn":  # uvicorn's port is closed by the process that started the workers, when they have ended
                idle.sendall(b"POST /login/ada HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
                assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        process.wait(LIMIT_S)
        assert time.monotonic() - begun_s >= 3
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT_S)
