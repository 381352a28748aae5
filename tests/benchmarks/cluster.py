"""How long a log-out takes to count on the other nodes, and to be acknowledged: three processes on loopback."""

from __future__ import annotations

import gc
import http.client
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ha_session_mw import SessionManager, SessionMiddleware, Settings, get_session
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny, Entry

from ..waiting import end
from .contenders import KEY, NotReadError

PEERS = "peers://"
MEMBERS = 3
POLL_PAUSE_S = 0.001
"""Between two questions to a node whether it refuses already: found out a little late, but the question is no load."""
MAX_WAIT_S = 60.0
WARM_UP = 20


@dataclass
class LogOutTimes:
    """Seconds from the sending of each log-out.

    Attributes:
        refused_s: until each other node has refused the session, to a client that asks all along.
        acknowledged_s: until the fenced acknowledgement.
        cycled_s: for each session before that, from the request for a new id until it was there.
    """

    refused_s: list[float] = field(default_factory=list)
    acknowledged_s: list[float] = field(default_factory=list)
    cycled_s: list[float] = field(default_factory=list)


# The nodes.


async def log_in(request: Request) -> Response:
    get_session(request).login("alice")
    return PlainTextResponse("ok")


async def take_new_id(request: Request) -> Response:
    get_session(request).cycle()
    return PlainTextResponse("ok")


async def account(request: Request) -> Response:
    return PlainTextResponse(get_session(request).subject)


async def log_out(request: Request) -> Response:
    acknowledgement = await get_session(request).revoke()
    return PlainTextResponse(acknowledgement.mode)


class Report:
    """What a node did since the last report."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}

    def on_entries(self, entries: Sequence[Entry]) -> None:
        now_s = time.perf_counter()  # the clock of all processes of a machine
        self._heard_s.update((entry.id, now_s) for entry in entries if isinstance(entry, Deny))

    async def __call__(self, _: Request) -> Response:
        """The node's processor time so far, and when it first enforced each denial."""
        heard_s, self._heard_s = self._heard_s, {}
        return JSONResponse([time.process_time(), heard_s])


def serve(fileno: int, cluster: str, urls: Sequence[str], number: int) -> None:
    """Serve one member on a socket that listens already, until the process is ended."""
    logging.disable(logging.WARNING)  # at the end each tells that it misses the others
    peers = urls if cluster == PEERS else ()
    settings = Settings(
        secret_key=KEY,
        cluster=cluster,
        peers=peers,
        advertise_url=urls[number],
        protect="/account,/log-out",
        logins_per_subject="off",  # one user logs in all the time
        logins_per_address="off",
    )
    manager, report = SessionManager(settings), Report()
    node_of(manager).on_entries(report.on_entries)
    routes = [
        Route("/report", report.__call__),
        Route("/log-in", log_in, methods=["POST"]),
        Route("/new-id", take_new_id, methods=["POST"]),
        Route("/account", account),
        Route("/log-out", log_out, methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, manager=manager)])
    # The protocol is named, because asyncio switches Nagle's algorithm off only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fileno) as listener:
        gc.collect()
        gc.freeze()  # as the page on capacity advises
        config = uvicorn.Config(app, access_log=False, log_level="critical", timeout_graceful_shutdown=1, timeout_keep_alive=60)
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def running(cluster: str, members: int = MEMBERS) -> Iterator[list[int]]:
    """The members of a cluster, ready; gives their ports."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(members)]
        ports = [listener.getsockname()[1] for listener in listeners]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        processes = [
            held.enter_context(_ended(_start(listener.fileno(), cluster, urls, number))) for number, listener in enumerate(listeners)
        ]
        for port, process in zip(ports, processes, strict=True):
            _wait_until_ready(port, process, MAX_WAIT_S * members / MEMBERS)
        yield ports


def _start(fileno: int, cluster: str, urls: Sequence[str], number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(fileno), cluster, ",".join(urls), str(number)]
    return subprocess.Popen(command, pass_fds=[fileno])


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        end(process, MAX_WAIT_S)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    with closing(Client(port)) as node:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise NotReadError("a node ended before it was ready")
            if node.ask("GET", "/-/session/readyz") == 200:
                return
            time.sleep(10 * POLL_PAUSE_S)
    raise NotReadError(f"a node was not ready within {within_s:g} s")


# Clients.


class Client:
    """One open connection to a node, with the cookie of a visitor."""

    def __init__(self, port: int) -> None:
        self.cookie = ""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_WAIT_S)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str) -> int:
        """The status of the answer."""
        self._connection.request(method, path, headers={"Cookie": self.cookie})
        response = self._connection.getresponse()
        self.answer = response.read()
        if cookie := response.getheader("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return response.status

    def expect(self, method: str, path: str, answer: bytes) -> None:
        status = self.ask(method, path)
        if (status, self.answer) != (200, answer):
            raise NotReadError(f"{method} {path}: {status} {self.answer[:200]!r}")

    def refused_at_s(self) -> float:
        """Ask until the session is refused; returns when it was."""
        while (status := self.ask("GET", "/account")) == 200:
            time.sleep(POLL_PAUSE_S)
        if status != 401 or b"session_revoked" not in self.answer:
            raise NotReadError(f"refused with {status} {self.answer[:200]!r}")
        return time.perf_counter()


def log_out_times(count: int, cluster: str = PEERS) -> LogOutTimes:
    """Log in, take a new id and log out so many times, on each node in turn, one after the other."""
    times = LogOutTimes()
    with running(cluster) as ports, ThreadPoolExecutor(MEMBERS - 1) as aside, ExitStack() as opened:
        clients = [opened.enter_context(closing(Client(port))) for port in ports]
        for number in range(WARM_UP + count):
            one, *others = [clients[(number + turn) % MEMBERS] for turn in range(MEMBERS)]
            _log_out(one, others, aside, times if number >= WARM_UP else LogOutTimes())
    return times


def _log_out(one: Client, others: Sequence[Client], aside: ThreadPoolExecutor, times: LogOutTimes) -> None:
    one.cookie = ""
    one.expect("POST", "/log-in", b"ok")
    sent_s = time.perf_counter()
    one.expect("POST", "/new-id", b"ok")
    times.cycled_s.append(time.perf_counter() - sent_s)
    for client in others:
        client.cookie = one.cookie
    for client in chain([one], others):
        client.expect("GET", "/account", b"alice")
    refused = [aside.submit(client.refused_at_s) for client in others]
    sent_s = time.perf_counter()
    one.expect("POST", "/log-out", b"fenced")
    times.acknowledged_s.append(time.perf_counter() - sent_s)
    times.refused_s += [each.result() - sent_s for each in refused]


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]))
