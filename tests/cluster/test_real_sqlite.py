"""One uvicorn with four workers on one port, which share a file. All waits are polls with a limit."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from example_app.ports import reserve_port, url_of
from ha_session_mw.testing import SECRET

from .. import warm
from ..operators import run
from ..waiting import LIMIT_S, until
from .test_real import ROOT

pytestmark = pytest.mark.real

WORKERS = 4
AT_ONCE = 24
STORM = 40
"""Log-outs that must have been acknowledged in the storm; on an idle machine it takes a second."""

APP = """
import os

from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

inner = SessionMiddleware(who_is_there)


async def app(scope, receive, send):
    async def signed(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-worker", str(os.getpid()).encode())]}
        await send(message)

    await inner(scope, receive, signed if scope["type"] == "http" else send)
"""


class Machine:
    """The server. Each request goes over a connection of its own, so any worker may get it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "several.py").write_text(APP)
        self._port = reserve_port()
        self.url = url_of(self._port)
        self._process: warm.Running | None = None

    def start(self) -> None:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {"HA_SESSION_SECRET_KEY": SECRET, "HA_SESSION_PROTECT": "/private*"}
        ours["HA_SESSION_CLUSTER"] = f"sqlite://{self._folder}/sessions.db"
        environ = {**outside, **ours, "PYTHONPATH": os.pathsep.join([str(self._folder), str(ROOT)])}
        command = ["uvicorn", "several:app", "--port", str(self._port), "--workers", str(WORKERS), "--log-level", "warning"]
        with (self._folder / "log").open("ab") as log:
            self._process = warm.start(*command, env=environ, stdout=log, start_new_session=True)
        until(self._listens, "a worker listens")
        self.workers()

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        """All of it at once, as a loss of power does."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(LIMIT_S)
            self._process = None
            until(lambda: not self._listens(), "the port is free for the next start")

    def request(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with httpx2.Client(verify=NO_TLS, trust_env=False, timeout=LIMIT_S) as client:  # certificates would take most of the time
            return client.request(method, self.url + path, headers=headers)

    def readiness(self) -> httpx2.Response:
        return self.request("GET", "/-/session/readyz")

    def log_in(self) -> str:
        return str(self.request("POST", "/login/ada").cookies["session"])

    def log_out(self, token: str) -> httpx2.Response:
        return self.request("POST", "/logout", token)

    def asked_by_all(self, ask: Callable[[], httpx2.Response]) -> dict[int, set[int]]:
        """The statuses that each worker answered with, to requests that come at once: one alone would mostly get to the same."""
        found: dict[int, set[int]] = {}

        def one(_: int) -> httpx2.Response | None:
            try:
                return ask()
            except httpx2.TransportError:
                return None  # not listening yet

        with ThreadPoolExecutor(16) as threads:
            for answer in threads.map(one, range(AT_ONCE)):
                if answer is not None:
                    found.setdefault(int(answer.headers["x-worker"]), set()).add(answer.status_code)
        return found

    def certain_status(self, token: str) -> int:
        """The first that is not 503."""
        found = [503]

        def is_certain() -> bool:
            found.append(self.request("GET", "/private", token).status_code)
            return found[-1] != 503

        until(is_certain, "an answer that is not 503")
        return found[-1]

    def workers(self) -> set[int]:
        """The process ids of all workers."""
        found: set[int] = set()

        def all_are_known() -> bool:
            found.update(self.asked_by_all(self.readiness))
            return len(found) >= WORKERS

        until(all_are_known, "all workers answer")
        return found

    def statuses(self, token: str) -> dict[int, set[int]]:
        """As :meth:`asked_by_all`, until all have answered."""
        found: dict[int, set[int]] = {}

        def all_have() -> bool:
            for worker, statuses in self.asked_by_all(lambda: self.request("GET", "/private", token)).items():
                found.setdefault(worker, set()).update(statuses)
            return len(found) >= WORKERS

        until(all_have, "all workers answer")
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        machine.start()
        yield machine
    finally:
        machine.kill()


def test_a_log_out_at_one_worker_is_enforced_at_each_from_the_next_request_on(machine: Machine) -> None:
    stays = machine.log_in()
    ended = machine.log_in()
    by_script = run("revoke", ended.split(".")[1], "--node", machine.url)
    assert (by_script.exit_code, by_script.output.partition(":")[0]) == (0, "fenced")
    assert set.union(*machine.statuses(ended).values()) == {401}
    for _ in range(3):
        token = machine.log_in()
        assert set().union(*machine.statuses(token).values()) == {200}
        assert machine.log_out(token).headers["session-revocation"] == "fenced"
        assert set().union(*machine.statuses(token).values()) == {401}
    assert set().union(*machine.statuses(stays).values()) == {200}


def test_no_acknowledged_log_out_is_lost_when_a_worker_is_killed_in_a_storm_nor_when_all_are(machine: Machine) -> None:
    acknowledged: list[str] = []
    afterwards: set[int] = set()
    over = Event()

    def log_in_and_out() -> None:
        token = machine.log_in()
        if machine.log_out(token).headers.get("session-revocation") == "fenced":
            acknowledged.append(token)
            afterwards.add(machine.request("GET", "/private", token).status_code)

    def log_in_and_out_again_and_again() -> None:
        while not over.is_set():
            with suppress(httpx2.TransportError, KeyError):  # it went to the one that was killed
                log_in_and_out()

    workers = machine.workers()
    with ThreadPoolExecutor(8) as threads:
        storm = [threads.submit(log_in_and_out_again_and_again) for _ in range(8)]
        try:
            for share in (1 / 3, 2 / 3):
                until(lambda share=share: len(acknowledged) > share * STORM, "the storm goes on")  # type: ignore[misc]
                os.kill(workers.pop(), signal.SIGKILL)
            until(lambda: len(acknowledged) > STORM, "the storm goes on")
        finally:
            over.set()
        for one in storm:
            one.result()
    assert afterwards <= {401, 503}  # a worker that starts, or waits for the others, does not know yet

    machine.kill()
    machine.start()
    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(machine.certain_status, acknowledged))
    assert statuses == {401}
