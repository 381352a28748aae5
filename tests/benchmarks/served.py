"""Requests per second of real servers: processes on loopback, under wrk.

The servers run on one core and wrk on another one, so that they do not take turns on the same. In each round all contenders of a server
are asked, one after the other.

As a program, ``python -m tests.benchmarks.served h11 raw "bare app"`` serves one contender and prints its port.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from example_app.ports import reserve_port

from . import contenders
from .contenders import MissingError, NotReadError, Reader, Writer

LOG_IN_PATH = "/log-in"
CONNECTIONS = 16
"""Enough to keep one process busy all the time."""
MAX_WAIT_S = 20
CONTENDER = "BENCHMARKS_CONTENDER"
"""The variable that names the contender to granian's process."""
EMPTY_AGAIN = "the same empty middleware once more"
"""By how much it differs from the first one, the others may differ by chance."""
WRAPS: Mapping[str, contenders.Wrap] = {
    contenders.BARE: contenders.bare,
    contenders.EMPTY: contenders.empty,
    EMPTY_AGAIN: contenders.empty,
    contenders.STARLETTE: contenders.starlettes,
    contenders.WARM: lambda app: contenders.ours_with(contenders.new_manager())(app),
}
GRANIAN = "granian"
SERVERS: Mapping[str, tuple[str, ...]] = {
    "uvicorn on h11": ("uvicorn", "h11"),
    "uvicorn on httptools and uvloop": ("uvicorn", "httptools", "uvloop"),
    GRANIAN: ("granian",),
}
"""Each server, and the packages that it needs."""
WITHOUT_SESSION = frozenset((contenders.BARE, contenders.EMPTY, EMPTY_AGAIN))
RAW, FASTAPI = "raw", "fastapi"
"""The apps: the least that answers, and one of FastAPI whose route reads the session and returns JSON."""
FIELDS: Mapping[str, Sequence[str]] = {RAW: [*WRAPS], FASTAPI: [contenders.BARE, contenders.STARLETTE, contenders.WARM]}
"""The contenders of each app."""
SERVER_CORE, WRK_CORE = 0, 1


class Rate(NamedTuple):
    """The requests that a server answered in a second, and in a second of its own processor time."""

    per_s: float
    per_processor_s: float


Rates = Mapping[tuple[str, str, str], Sequence[Rate]]
"""The rates in each round, by server, app and contender."""


class Served:
    """Hands out a session at one path and reads it at all others. A value that differs from the written one is a 500.

    Without a session, the app sends the ``Vary`` that the middleware adds, because an answer that depends on a cookie must have it anyway.
    """

    def __init__(self, name: str) -> None:
        self._log_in = Writer(contenders.FLAT)
        self._account: ASGIApp = _vary if name in WITHOUT_SESSION else Reader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._log_in if scope["path"] == LOG_IN_PATH else self._account)(scope, receive, send)


async def _vary(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"vary", b"Cookie, Authorization")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def _fastapi_app(name: str) -> ASGIApp:
    """The same paths as those of ``Served``, in an app of FastAPI."""
    app = FastAPI()
    vary = {"vary": "Cookie, Authorization"} if name in WITHOUT_SESSION else None

    @app.get(LOG_IN_PATH)
    async def log_in(request: Request) -> JSONResponse:
        request.session.update(contenders.FLAT)
        return JSONResponse({})

    @app.get("/account")
    async def account(request: Request) -> JSONResponse:
        session = contenders.FLAT if name in WITHOUT_SESSION else request.session
        return JSONResponse({"user": session["user"], "visits": session["visits"]}, headers=vary)

    return app


def contender(app: str, name: str) -> ASGIApp:
    return WRAPS[name](Served(name) if app == RAW else _fastapi_app(name))


def app() -> ASGIApp:
    """The contender that granian serves."""
    return contender(RAW, os.environ[CONTENDER])


def serve(protocol: str, app: str, name: str) -> None:
    """Serve a contender by uvicorn on a free port, which is printed, until the process is ended."""
    # The protocol is named, because asyncio switches Nagle's algorithm off only then. Otherwise each answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2 * CONNECTIONS)  # before the port is published: an early client waits
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            contender(app, name),
            http="h11" if protocol == "h11" else "httptools",
            loop="asyncio" if protocol == "h11" else "uvloop",
            lifespan="off",
            access_log=False,
            log_level="critical",
        )
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _on_core(number: int) -> Iterator[None]:
    """Processes that start in this block stay on one core, if there are several and the system can do that."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(0, {cores[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Server(NamedTuple):
    """A server that runs."""

    pid: int
    port: int

    def processor_s(self) -> float:
        """Its processor time, with that of the processes that it has started; the time that has passed, where no system tells it."""
        try:
            return sum(map(_processor_ns, [self.pid, *_children(self.pid)])) / 1e9
        except FileNotFoundError:
            return time.perf_counter()


def _children(pid: int) -> list[int]:
    return [int(child) for threads in Path(f"/proc/{pid}/task").glob("*/children") for child in threads.read_text().split()]


def _processor_ns(pid: int) -> int:
    return sum(int(thread.read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"))


@contextmanager
def running(server: str, app: str, name: str) -> Iterator[Server]:
    """A server of its own process."""
    environ = os.environ | {CONTENDER: name}
    if server == GRANIAN:
        port = reserve_port()
        options = f"--interface asginl --factory --host 127.0.0.1 --port {port} --log-level error".split()
        command = [sys.executable, "-m", "granian", *options, f"{__package__}.served:app"]
    else:
        port = 0
        command = [sys.executable, "-m", f"{__package__}.served", SERVERS[server][1], app, name]
    with _on_core(SERVER_CORE):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    with process:
        try:
            assert process.stdout is not None
            yield Server(process.pid, _listening(port) if port else int(process.stdout.readline()))
        finally:
            process.terminate()
            try:
                process.wait(MAX_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _listening(port: int) -> int:
    """Return a port once its server listens."""
    gives_up_s = time.monotonic() + MAX_WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=MAX_WAIT_S).close()
        except OSError:
            if time.monotonic() > gives_up_s:
                raise
            time.sleep(0.05)
        else:
            return port


def installed() -> list[str]:
    """The servers whose packages are installed. The group ``bench`` has them all."""
    return [server for server, packages in SERVERS.items() if all(map(find_spec, packages))]


def requests_per_second(servers: Sequence[str], *, starts: int, rounds: int, seconds: int) -> Rates:
    """The rates of each contender with each app on each server, in each of the interleaved rounds.

    Each process has luck of its own, which lasts as long as it does: the same app has been up to a tenth faster in another process.

    Args:
        servers: to ask.
        starts: how often all processes start anew.
        rounds: how many there are after each start.
        seconds: for which each contender is asked in a round.

    Raises:
        MissingError: wrk is not installed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise MissingError("wrk is not installed, so nothing was measured under a server. Install it:  apt-get install -y wrk")
    found: dict[tuple[str, str, str], list[Rate]] = {}
    for app, names in FIELDS.items():
        for server in servers if app == RAW else [server for server in servers if server != GRANIAN]:
            found |= {(server, app, name): [] for name in names}
            for _ in range(starts):
                with ExitStack() as processes:
                    runs = {name: processes.enter_context(running(server, app, name)) for name in names}
                    cookies = _cookies({name: run.port for name, run in runs.items()})
                    for number in range(rounds + 1):
                        for name in sorted(runs, reverse=bool(number % 2)):  # so that no contender always has the same neighbour
                            rate = _under_wrk(wrk, runs[name], cookies[name], seconds)
                            if number:  # the first round warms up
                                found[server, app, name].append(rate)
    return found


def _cookies(ports: Mapping[str, int]) -> Mapping[str, str]:
    """The session cookie of each contender, seen to be read. One without a session gets that of ours, which its server parses, too."""
    cookies = {name: _log_in(port) for name, port in ports.items() if name not in WITHOUT_SESSION}
    cookies |= {name: cookies[contenders.WARM] for name in ports if name in WITHOUT_SESSION}
    answers = {name: _get(port, "/account", cookies[name]) for name, port in ports.items()}
    if any(answer.alike != answers[contenders.BARE].alike for answer in answers.values()):
        raise NotReadError(f"the contenders do not answer alike: {answers}")
    return cookies


def _log_in(port: int) -> str:
    """The session cookie of a contender, seen to be read."""
    cookie = _get(port, LOG_IN_PATH, "").cookie
    if cookie is None:
        raise NotReadError("no cookie was handed out")
    cookie = cookie.partition(";")[0]
    statuses = _get(port, "/account", cookie).status, _get(port, "/account", "").status
    if statuses != (200, 500):
        raise NotReadError(f"the session was not read: {statuses[0]} with the cookie, {statuses[1]} without")
    return cookie


@dataclass(frozen=True)
class _Answer:
    status: int
    cookie: str | None
    alike: tuple[bytes, Sequence[str]]
    """What the answers of all contenders have in common: the body, and the names of the fields."""


def _get(port: int, path: str, cookie: str) -> _Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_WAIT_S)
    try:
        connection.request("GET", path, headers={"Cookie": cookie})
        response = connection.getresponse()
        names = sorted(name.lower() for name, _ in response.getheaders())
        return _Answer(response.status, response.getheader("set-cookie"), (response.read(), names))
    finally:
        connection.close()


def _under_wrk(wrk: str, server: Server, cookie: str, seconds: int) -> Rate:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Cookie: {cookie}", f"http://127.0.0.1:{server.port}/account"]
    before_s = server.processor_s()
    with _on_core(WRK_CORE):
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + MAX_WAIT_S).stdout
    taken_s = server.processor_s() - before_s
    count, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec:\s*([\d.]+)", output)
    if count is None or rate is None or "Non-2xx" in output or "Socket errors" in output:
        raise NotReadError(f"not every request was answered by the app:\n{output}")
    return Rate(float(rate[1]), int(count[1]) / taken_s)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3])
