"""Three servers as processes of their own, on loopback. All waits are polls with a limit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from signal import Signals

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from example_app.ports import reserve_port, url_of
from ha_session_mw.testing import SECRET

from .. import warm
from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
FRESHNESS_LIMIT_S = 3.0
FENCE_WAIT_S = FRESHNESS_LIMIT_S * 1.02 + 0.05
APP = """
from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

app = SessionMiddleware(who_is_there)
"""


class Served:
    """A node as a process, and a client of it.

    Attributes:
        settings: settings of its next start, without the prefix.
        environ: further variables of its environment.
        starts: how many processes it has had.
        tree: the folder from which its next start imports the package.
    """

    def __init__(self, name: str, port: int, folder: Path, settings: dict[str, str]) -> None:
        self.url = url_of(port)
        self.name = name
        self.port = port
        self.settings = {"NODE_ID": name, "ADVERTISE_URL": self.url, **settings}
        self.log = folder / f"{name}.log"
        self.environ: dict[str, str] = {}
        self.starts = 0
        self.tree = ROOT
        self._folder = folder
        self._processes: list[warm.Running] = []

    def start(self, *, server: str = "uvicorn", secret: str = SECRET, options: tuple[str, ...] = (), fds: tuple[int, ...] = ()) -> None:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {f"HA_SESSION_{name}": value for name, value in {**self.settings, "SECRET_KEY": secret}.items()}
        environ = {**outside, **ours, **self.environ, "PYTHONPATH": os.pathsep.join([str(self._folder), str(self.tree)])}
        self.starts += 1
        command = [server, "served:app", *(options or ("--port", str(self.port))), "--log-level", "warning"]
        with self.log.open("ab") as log:
            if self.environ or self.tree != ROOT:  # that takes an interpreter of its own
                cold = [sys.executable, "-m", *command]
                # uvicorn looks for the package in the working directory first, and would find this tree in that of the tests.
                process: warm.Running = subprocess.Popen(
                    cold, cwd=self._folder, env=environ, stdout=log, stderr=log, pass_fds=fds, start_new_session=True
                )
            else:
                process = warm.start(*command, env=environ, stdout=log, pass_fds=fds, start_new_session=True)
            self._processes.append(process)

    def signal(self, number: Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and the workers of a server that has some."""
        while self._processes:
            process = self._processes.pop()
            try:
                os.killpg(process.pid, Signals.SIGKILL)
            except ProcessLookupError:  # it has ended, or has not become the leader of its group yet
                process.kill()
            process.wait(LIMIT_S)

    def end(self, how: Signals) -> None:
        """Send a signal that ends the node, and wait until it has ended."""
        self.signal(how)
        self.wait()

    def wait(self) -> None:
        """Wait until the node has ended."""
        while self._processes:
            self._processes.pop().wait(LIMIT_S)

    @property
    def is_running(self) -> bool:
        return bool(self._processes)

    def request(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # To load certificates, and proxies from the environment, would take most of the time.
        return httpx2.request(method, self.url + path, headers=headers, timeout=LIMIT_S, trust_env=False, verify=NO_TLS)

    def log_in(self, subject: str = "ada") -> str:
        return str(self.request("POST", f"/login/{subject}").cookies["session"])

    def status(self, token: str) -> int:
        return self.request("GET", "/private", token).status_code

    def readiness(self) -> str:
        """Why it is not ready; empty if it is."""
        try:
            answer = httpx2.get(self.url + "/-/session/readyz", timeout=1, trust_env=False, verify=NO_TLS)
        except httpx2.TransportError as exc:
            return type(exc).__name__
        return str(answer.json().get("output", ""))

    @property
    def told(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    yield from served(tmp_path_factory.mktemp("served"), APP)


def served(folder: Path, app: str, more: Mapping[str, str] | None = None, *, tree: Path = ROOT) -> Iterator[list[Served]]:
    """Three nodes that judge sessions, until asked again.

    Args:
        folder: for their files.
        app: its code.
        more: more settings, in which {name} stands for the name of a node. An empty one is not set.
        tree: the folder from which they import the package.
    """
    (folder / "served.py").write_text(app)
    ports = [reserve_port() for _ in range(3)]
    settings = {
        "CLUSTER": "peers://",
        "PEERS": ",".join(map(url_of, ports)),
        "PROTECT": "/private*",
        "FRESHNESS_LIMIT": str(FRESHNESS_LIMIT_S),
        "HEARTBEAT": "300ms",
    }
    settings |= more or {}
    nodes = [
        Served(name, port, folder, {key: value.format(name=name) for key, value in settings.items()})
        for name, port in zip("abc", ports, strict=True)
    ]
    try:
        for node in nodes:
            node.tree = tree
            node.start()
        for node in nodes:
            until(lambda node=node: not node.readiness(), "ready")  # type: ignore[misc]
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def restarted(node: Served, **how: str) -> None:
    node.kill()
    node.start(**how)  # type: ignore[arg-type]


def test_a_log_out_on_one_node_is_enforced_on_all_when_it_is_acknowledged(nodes: list[Served]) -> None:
    a, b, c = nodes
    took_s = []
    for first, second, third in ((a, b, c), (c, a, b), (b, c, a)):
        token = first.log_in()
        assert [node.status(token) for node in nodes] == [200] * 3
        begun_s = time.monotonic()
        answer = second.request("POST", "/logout", token)
        took_s.append(time.monotonic() - begun_s)
        assert answer.headers["session-revocation"] == "fenced"
        assert third.status(token) == first.status(token) == 401
    assert min(took_s) < FENCE_WAIT_S / 2  # no log-out waits for the fence, though a busy machine may be slow


def test_a_node_is_killed_unnoticed_until_it_comes_back_and_learns(nodes: list[Served]) -> None:
    a, b, c = nodes
    token, staying = a.log_in(), a.log_in("bob")
    a.kill()
    assert [node.status(token) for node in (b, c)] == [200, 200]

    assert b.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
    assert c.status(token) == 401

    a.start()
    statuses = set()

    def is_back() -> bool:
        try:
            statuses.add((a.status(token), a.status(staying)))
        except httpx2.TransportError:
            return False
        return not a.readiness()

    until(is_back, "a is back")
    assert {revoked for revoked, _ in statuses} <= {401, 503}  # never accepted
    assert {stays for _, stays in statuses} <= {200, 503}  # the start logs no user out
    assert (a.status(token), a.status(staying)) == (401, 200)


def test_a_node_whose_peers_are_frozen_says_so_and_recovers_by_itself(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = b.log_in()
    assert a.status(token) == 200
    try:
        b.signal(signal.SIGSTOP)
        c.signal(signal.SIGSTOP)
        seen = set()

        def is_stale() -> bool:
            answer = a.request("GET", "/private", token)
            seen.add(answer.status_code)
            return answer.status_code == 503

        until(is_stale, "stale")
        assert seen <= {200, 503}
        took_s = []
        for _ in range(5):
            begun_s = time.monotonic()
            answer = a.request("GET", "/private", token)
            took_s.append(time.monotonic() - begun_s)
        assert min(took_s) < 1.5  # a busy machine may be slow
        assert answer.json()["code"] == "state_stale"
        assert answer.json()["retry_where"] == "other_node"
        assert answer.headers["retry-after"] == "1"
        assert "out of contact" in a.readiness()
    finally:
        b.signal(signal.SIGCONT)
        c.signal(signal.SIGCONT)
    until(lambda: a.status(token) == 200, "thawed")
    for node in nodes:
        until(lambda node=node: not node.readiness(), "ready again")  # type: ignore[misc]
        assert node.status(token) == 200


def test_a_resumed_node_does_not_accept_sessions_revoked_during_its_freeze(nodes: list[Served]) -> None:
    a, _b, c = nodes
    token = a.log_in()
    assert c.status(token) == 200
    try:
        c.signal(signal.SIGSTOP)
        assert a.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
    finally:
        c.signal(signal.SIGCONT)
    seen = set()

    def is_refused() -> bool:
        seen.add(c.status(token))
        return 401 in seen

    until(is_refused, "c has learned")
    assert 200 not in seen


def test_a_peer_of_another_secret_is_named_and_does_no_harm(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    restarted(c, secret="Zt5WqM8nKx1RbJ7hPvGyLc4SdFa9UeT2")
    try:
        until(lambda: "member 3 of HA_SESSION_PEERS: answers, but knows none of our keys" in a.told, "named in the log")
        assert c.status(token) == 503
        assert [node.status(token) for node in (a, b)] == [200, 200]
        assert c.url not in a.told
    finally:
        restarted(c)
    until(lambda: not c.readiness(), "ready again")


def test_two_processes_behind_one_url_are_found_out_and_it_is_over_when_one_goes(nodes: list[Served]) -> None:
    a, b, c = nodes
    token = a.log_in()
    c.kill()
    with closing(socket.create_server(("127.0.0.1", c.port), reuse_port=False)) as listening:
        for _ in range(2):
            c.start(options=("--fd", str(listening.fileno())), fds=(listening.fileno(),))
        until(lambda: "another process answers at HA_SESSION_ADVERTISE_URL" in c.readiness(), "found out")
        assert "give each process a URL of its own" in c.told
        assert [node.status(token) for node in (a, b)] == [200, 200]
        c.kill()
    c.start()
    until(lambda: not c.readiness(), "ready again")
