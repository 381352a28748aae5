"""Requests per second of real servers: processes on loopback, under wrk.

As a program, ``python -m tests.benchmarks.served h11 "bare app"`` serves one contender and prints its port.
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
from importlib.util import find_spec

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from example_app.ports import reserve_port

from . import contenders
from .contenders import NotReadError, Reader, Writer

LOG_IN_PATH = "/log-in"
CONNECTIONS = 16
"""Enough to keep one process busy all the time."""
MAX_WAIT_S = 20
CONTENDER = "BENCHMARKS_CONTENDER"
"""The variable that names the contender to granian's process."""
WRAPS: Mapping[str, contenders.Wrap] = {
    contenders.BARE: contenders.bare,
    contenders.EMPTY: contenders.empty,
    contenders.STARLETTE: contenders.starlettes,
    contenders.WARM: lambda app: contenders.ours_with(contenders.new_manager())(app),
}
SERVERS: Mapping[str, tuple[str, ...]] = {
    "uvicorn on h11": ("uvicorn", "h11"),
    "uvicorn on httptools and uvloop": ("uvicorn", "httptools", "uvloop"),
    "granian": ("granian",),
}
"""Each server, and the packages that it needs."""
WITHOUT_SESSION = frozenset((contenders.BARE, contenders.EMPTY))
Rates = Mapping[tuple[str, str], Sequence[float]]
"""The requests per second in each round, by server and contender."""


class WrkMissingError(Exception):
    """The load generator is not installed."""


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


def app() -> ASGIApp:
    """The contender that granian serves."""
    name = os.environ[CONTENDER]
    return WRAPS[name](Served(name))


def serve(protocol: str, name: str) -> None:
    """Serve a contender by uvicorn on a free port, which is printed, until the process is ended."""
    # The protocol is named, because asyncio switches Nagle's algorithm off only then. Otherwise each answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2 * CONNECTIONS)  # before the port is published: an early client waits
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            WRAPS[name](Served(name)),
            http="h11" if protocol == "h11" else "httptools",
            loop="asyncio" if protocol == "h11" else "uvloop",
            lifespan="off",
            access_log=False,
            log_level="critical",
        )
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def running(server: str, name: str) -> Iterator[int]:
    """A server of its own process; gives its port."""
    environ = os.environ | {CONTENDER: name}
    if server == "granian":
        port = reserve_port()
        options = f"--interface asginl --factory --host 127.0.0.1 --port {port} --log-level error".split()
        command = [sys.executable, "-m", "granian", *options, f"{__package__}.served:app"]
    else:
        port = 0
        command = [sys.executable, "-m", f"{__package__}.served", SERVERS[server][1], name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            yield _listening(port) if port else int(process.stdout.readline())
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


def requests_per_second(servers: Sequence[str], *, rounds: int, seconds: int) -> Rates:
    """The requests per second of each contender on each server, in each of the interleaved rounds.

    Raises:
        WrkMissingError: wrk is not installed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise WrkMissingError("wrk is not installed, so nothing was measured under a server. Install it:  apt-get install -y wrk")
    found: dict[tuple[str, str], list[float]] = {(server, name): [] for server in servers for name in WRAPS}
    for server in servers:
        with ExitStack() as processes:
            ports = {name: processes.enter_context(running(server, name)) for name in WRAPS}
            cookies = {name: _log_in(port) for name, port in ports.items() if name not in WITHOUT_SESSION}
            cookies |= dict.fromkeys(WITHOUT_SESSION, cookies[contenders.WARM])  # the server parses it in any case
            for number in range(rounds + 1):
                for name in sorted(ports, reverse=bool(number % 2)):  # so that no contender always has the same neighbour
                    rate = _under_wrk(wrk, ports[name], cookies[name], seconds)
                    if number:  # the first round warms up
                        found[server, name].append(rate)
    return found


def _log_in(port: int) -> str:
    """The session cookie of a contender, seen to be read."""
    _, cookie = _get(port, LOG_IN_PATH, "")
    if cookie is None:
        raise NotReadError("no cookie was handed out")
    cookie = cookie.partition(";")[0]
    with_it, _ = _get(port, "/account", cookie)
    without_it, _ = _get(port, "/account", "")
    if (with_it, without_it) != (200, 500):
        raise NotReadError(f"the session was not read: {with_it} with the cookie, {without_it} without")
    return cookie


def _get(port: int, path: str, cookie: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_WAIT_S)
    try:
        connection.request("GET", path, headers={"Cookie": cookie})
        response = connection.getresponse()
        return response.status, response.getheader("set-cookie")
    finally:
        connection.close()


def _under_wrk(wrk: str, port: int, cookie: str, seconds: int) -> float:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Cookie: {cookie}", f"http://127.0.0.1:{port}/account"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + MAX_WAIT_S).stdout
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    if rate is None or "Non-2xx" in output or "Socket errors" in output:
        raise NotReadError(f"not every request was answered by the app:\n{output}")
    return float(rate[1])


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
