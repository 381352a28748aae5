"""``memory://`` behind each server with several workers: siblings are found, and no log-out is called fenced. All waits have a limit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from example_app.ports import reserve_port, url_of
from ha_session_mw._machine.siblings import Siblings, listening
from ha_session_mw.testing import SECRET

from .. import warm
from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
APP = """
from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

app = SessionMiddleware(who_is_there)
"""
SERVERS = {
    "uvicorn": ["uvicorn", "shared:app", "--port", "{port}", "--log-level", "warning", "--workers", "{workers}"],
    "gunicorn": [
        *("gunicorn", "shared:app", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
        *("--log-level", "warning", "--no-control-socket", "--workers", "{workers}"),
    ],
    "gunicorn --preload": [
        *("gunicorn", "shared:app", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
        *("--log-level", "warning", "--no-control-socket", "--preload", "--workers", "{workers}"),
    ],
    "granian": ["granian", "--interface", "asgi", "shared:app", "--port", "{port}", "--log-level", "warning", "--workers", "{workers}"],
    "hypercorn": ["hypercorn", "shared:app", "--bind", "127.0.0.1:{port}", "--log-level", "warning", "-w", "{workers}"],
}


class Server:
    """A real server."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    @property
    def told(self) -> str:
        return self._log.read_text()

    def request(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with httpx2.Client(verify=NO_TLS, trust_env=False, timeout=LIMIT_S) as client:
            return client.request(method, self.url + path, headers=headers)

    def readiness(self) -> httpx2.Response | None:
        try:
            return self.request("GET", "/-/session/readyz")
        except httpx2.TransportError:
            return None


@contextmanager
def serving(folder: Path, name: str, *, workers: int) -> Iterator[Server]:
    """Run a server."""
    (folder / "shared.py").write_text(APP)
    port = reserve_port()
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    environ = {**outside, "HA_SESSION_SECRET_KEY": SECRET, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [part.format(port=port, workers=workers) for part in SERVERS[name]]
    log = folder / f"{workers}.log"
    with log.open("wb") as out:
        process = warm.start(*command, env=environ, stdout=out, start_new_session=True, cwd=folder)
    try:
        yield Server(url_of(port), log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)


@pytest.mark.parametrize("name", SERVERS)
def test_a_log_out_at_one_of_two_workers_is_not_called_fenced(name: str, tmp_path: Path) -> None:
    with serving(tmp_path, name, workers=2) as server:

        def is_told() -> bool:
            answer = server.readiness()
            return answer is not None and answer.status_code == 503 and "sqlite://" in answer.text

        until(is_told, f"readiness names the remedy; the log says {server.told}")
        until(
            lambda: server.told.count("HA_SESSION_CLUSTER: other worker processes") == 2,
            f"each worker names it once; the log says {server.told}",
        )
        token = server.request("POST", "/login/ada").cookies["session"]
        answer = server.request("POST", "/logout", token)
        assert answer.headers.get("session-revocation") != "fenced"
        assert (answer.status_code, answer.json()["code"]) == (503, "quorum_lost")
        assert "sqlite://" not in answer.text


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_two_servers_of_one_app_on_two_ports_are_no_siblings(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with serving(tmp_path, name, workers=1) as one, serving(tmp_path / "other", name, workers=1) as other:
        for server in (one, other):
            until(lambda server=server: server.readiness() is not None, "it answers")  # type: ignore[misc]
        for server in (one, other, one):
            token = server.request("POST", "/login/ada").cookies["session"]
            assert server.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
            assert server.request("GET", "/-/session/readyz").status_code == 200
            assert "sqlite://" not in server.told


def test_a_process_that_holds_the_listening_socket_of_its_child_is_no_sibling() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        look = "from ha_session_mw._machine.siblings import siblings; print(siblings.found()); input()"
        command = [sys.executable, "-c", look]
        with _looking(command, listener) as child:
            assert child == "False"
            own = Siblings()
            try:
                assert not own.found()
                with _looking(command, listener) as second:
                    assert second == "True"
                assert not own.found()
            finally:
                own.close()


def test_a_process_gives_its_name_up_when_it_no_longer_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may get the same port then."""
    before = listening().keys()  # pytest-rerunfailures listens in a process that runs all tests alone
    monkeypatch.setattr(
        "ha_session_mw._machine.siblings.listening",
        lambda: {address: file for address, file in listening().items() if address not in before},
    )
    own, other = Siblings(), Siblings()
    try:
        with socket.create_server(("127.0.0.1", 0)):
            assert not own.found()
            assert other.found()
        assert not own.found()
        assert not other.found()
    finally:
        own.close()
        other.close()


@contextmanager
def _looking(command: list[str], listener: socket.socket) -> Iterator[str]:
    """Run a process that looks for siblings and holds its names; yields the answer."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[listener.fileno()]
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("\n", timeout=LIMIT_S)
