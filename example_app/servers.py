"""The demo's servers: uvicorn processes on loopback, started, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import secrets
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


class ServerError(Exception):
    """A server did not start. Carries the end of what it printed."""


class Server:
    """One node: a process that serves the example app.

    Args:
        name: its node id.
        directory: where its output goes.
        settings: its settings, without the prefix. Those of the caller's environment are not passed on.
    """

    def __init__(self, name: str, directory: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = directory / f"{name}.log"
        self._settings = {"NODE_ID": name, "PROTECT": "/private/*,/api/private/*"} | dict(settings)
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
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
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

    def terminate(self) -> None:
        """Ask the process to end, and do not wait for it."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def end(self) -> None:
        """Return when the process has ended, by itself or not."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

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


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_secret() -> str:
    return secrets.token_urlsafe(48)
