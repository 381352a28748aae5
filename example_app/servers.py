"""The demo's servers: uvicorn processes on loopback, started, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

READY_WITHIN_S = 30.0
"""A start takes half a second; a busy machine may take many times that."""
END_WITHIN_S = 5.0
_POLL_S = 0.02
_PORTS = range(20_000, 32_000)
"""Below those that systems give to outgoing connections: one of these could take a node's port while the node is down."""


class ServerError(Exception):
    """A server did not start. Carries the end of what it printed."""


class Server:
    """One node: a process that serves the example app.

    Args:
        name: its node id.
        directory: where its output goes.
        settings: its settings, without the prefix. Those of the caller's environment are not passed on.
        port: where it listens; by default one that is free.
        workers: how many processes answer there.
    """

    def __init__(self, name: str, directory: Path, settings: Mapping[str, str], *, port: int | None = None, workers: int = 1) -> None:
        self.name = name
        self.port = port or free_port()
        self.url = url_of(self.port)
        self._output = directory / f"{name}.log"
        self._settings = {"NODE_ID": name, "PROTECT": "/private/*,/api/private/*"} | dict(settings)
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running process; None where there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        environment |= {f"HA_SESSION_{name}": value for name, value in self._settings.items()}
        command = [sys.executable, "-m", "uvicorn", "example_app.app:app", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "1"]
        if self._workers > 1:
            command += ["--workers", str(self._workers)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=self._workers > 1,  # so that all can be killed at once
            )

    def wait_until_ready(self) -> None:
        """Return when the node says that it can judge sessions.

        Raises:
            ServerError: it ended, or did not become ready in time.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        with httpx2.Client(trust_env=False, timeout=1) as client:
            while time.monotonic() < deadline:
                if self.pid is None:
                    raise ServerError(f"node {self.name} ended before it was ready:\n{self.output()}")
                try:
                    if client.get(f"{self.url}/-/session/readyz").status_code == 200:
                        return
                except httpx2.TransportError:
                    pass  # not listening yet
                time.sleep(_POLL_S)
        raise ServerError(f"node {self.name} was not ready after {READY_WITHIN_S:g} s:\n{self.output()}")

    def kill(self) -> None:
        """End the process as a crash does, with its workers: it can do nothing more, not even say so."""
        if self._process:
            if self._workers > 1 and self.pid is not None:
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the process in the middle of whatever it does. Its connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on, as if nothing had happened."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask the process to end, frozen or not, and do not wait for it."""
        self._signal(signal.SIGTERM)
        self.thaw()

    def end(self) -> None:
        """Return when the process has ended, by itself or not."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def output(self) -> str:
        """The end of what the process printed."""
        return self._output.read_text(errors="replace")[-4000:] if self._output.exists() else ""


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start these servers side by side, and end them all afterwards."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready()
        yield
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.end()


def cluster(names: str, directory: Path, settings: Mapping[str, str]) -> list[Server]:
    """Nodes that share their log-outs by themselves: the members of one ``peers://`` cluster.

    Args:
        names: a letter for each node.
        directory: where each keeps its output, and a folder of its own for log-outs made without a majority.
        settings: what they have in common.
    """
    ports = {name: free_port() for name in names}
    common = {**settings, "CLUSTER": "peers://", "PEERS": ",".join(map(url_of, ports.values()))}
    return [
        Server(name, directory, {**common, "ADVERTISE_URL": url_of(port), "STATE_DIR": str(directory / name)}, port=port)
        for name, port in ports.items()
    ]


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A loopback port that nobody listens on.

    Raises:
        ServerError: none was found.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # taken
            return port
    raise ServerError(f"no port between {_PORTS.start} and {_PORTS.stop} seems to be free")


def new_secret() -> str:
    return secrets.token_urlsafe(48)
