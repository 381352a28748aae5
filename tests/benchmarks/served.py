"""Requests per second of real servers: uvicorn processes on loopback, under wrk.

As a program, ``python -m tests.benchmarks.served bare`` serves one contender and prints its port.
"""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from . import contenders
from .contenders import App, NotReadError, Reader, Writer

LOG_IN_PATH = "/log-in"
CONNECTIONS = 16
"""Enough to keep one process busy all the time."""
MAX_WAIT_S = 20
WRAPS: Mapping[str, contenders.Wrap] = {
    contenders.BARE: contenders.bare,
    contenders.STARLETTE: contenders.starlettes,
    contenders.WARM: lambda app: contenders.ours_with(contenders.new_manager())(app),
}


class WrkMissingError(Exception):
    """The load generator is not installed."""


class Served:
    """Hands out a session at one path and reads it at all others. A value that differs from the written one is a 500."""

    def __init__(self, name: str) -> None:
        self._log_in = Writer(contenders.FLAT)
        self._account: ASGIApp = App() if name == contenders.BARE else Reader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._log_in if scope["path"] == LOG_IN_PATH else self._account)(scope, receive, send)


def serve(name: str) -> None:
    """Serve a contender on a free port, which is printed, until the process is ended."""
    # The protocol is named, because asyncio switches Nagle's algorithm off only then. Otherwise each answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2 * CONNECTIONS)  # before the port is published: an early client waits
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(WRAPS[name](Served(name)), lifespan="off", access_log=False, log_level="critical")
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def running(name: str) -> Iterator[int]:
    """A server of its own process; gives its port."""
    command = [sys.executable, "-m", f"{__package__}.served", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            try:
                process.wait(MAX_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def requests_per_second(*, rounds: int, seconds: int) -> dict[str, tuple[float, ...]]:
    """The requests per second of each contender in each of the interleaved rounds, by name.

    Raises:
        WrkMissingError: wrk is not installed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise WrkMissingError("wrk is not installed, so nothing was measured under a server. Install it:  apt-get install -y wrk")
    found: dict[str, list[float]] = {name: [] for name in WRAPS}
    with ExitStack() as servers:
        ports = {name: servers.enter_context(running(name)) for name in WRAPS}
        cookies = {name: _log_in(port) for name, port in ports.items() if name != contenders.BARE}
        cookies[contenders.BARE] = cookies[contenders.WARM]  # the server parses it in any case
        for number in range(rounds + 1):
            for name, port in ports.items():
                rate = _under_wrk(wrk, port, cookies[name], seconds)
                if number:  # the first round warms up
                    found[name].append(rate)
    return {name: tuple(rates) for name, rates in found.items()}


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
    serve(sys.argv[1])
