"""The demo's nodes: uvicorn processes that serve the example app."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from .no_tls import NO_TLS
from .ports import reserve_port, url_of
from .processes import Process


class Server(Process):
    """A node: a uvicorn process that serves the example app.

    Args:
        name: the node id.
        directory: the folder of the log file.
        settings: settings without their prefix. ``HA_SESSION_*`` variables of the caller are not passed on.
        port: by default one that is reserved for this node.
        workers: the number of processes that share the port.
    """

    def __init__(self, name: str, directory: Path, settings: Mapping[str, str], *, port: int | None = None, workers: int = 1) -> None:
        super().__init__(name, directory / f"{name}.log")
        self.port = port or reserve_port()
        self.url = url_of(self.port)
        self._settings = {"NODE_ID": name, "PROTECT": "/private/*,/api/private/*"} | dict(settings)
        self._workers = workers

    @property
    def ui_password(self) -> str | None:
        """The password of the node's page for operators; None if it has none."""
        return self._settings.get("UI_PASSWORD")

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        environment |= {f"HA_SESSION_{name}": value for name, value in self._settings.items()}
        command = [sys.executable, "-m", "uvicorn", "example_app.app:app", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "1"]
        if self._workers > 1:
            command += ["--workers", str(self._workers)]
        self._run(command, environment, own_session=self._workers > 1)  # kill() ends the whole group

    def is_ready(self) -> bool:
        """Return whether the node's readiness probe answers 200."""
        try:
            return httpx2.get(f"{self.url}/-/session/readyz", timeout=1, trust_env=False, verify=NO_TLS).status_code == 200
        except httpx2.TransportError:
            return False  # not listening yet

    def kill(self) -> None:
        """End the node and its workers without notice, as a crash does."""
        if self._workers > 1 and self.pid is not None:
            os.killpg(self.pid, signal.SIGKILL)
        super().kill()


def cluster(names: str, directory: Path, settings: Mapping[str, str]) -> list[Server]:
    """Return the nodes of one ``peers://`` cluster, not started yet.

    Args:
        names: one letter per node.
        directory: for log files and the nodes' ``STATE_DIR``.
        settings: settings that all nodes share.
    """
    ports = {name: reserve_port() for name in names}
    common = {**settings, "CLUSTER": "peers://", "PEERS": ",".join(map(url_of, ports.values()))}
    common |= {"OWNED": "/private/room", "ROUTING": "forward"}  # its handlers keep something in the memory of a node
    return [
        Server(name, directory, {**common, "ADVERTISE_URL": url_of(port), "STATE_DIR": str(directory / name)}, port=port)
        for name, port in ports.items()
    ]


def cluster_on_etcd(ways: Mapping[str, Sequence[int]], directory: Path, settings: Mapping[str, str]) -> list[Server]:
    """Return nodes that share an etcd on loopback, not started yet.

    Args:
        ways: for each node name, the ports through which that node reaches the etcd members.
        directory: for log files and the nodes' ``STATE_DIR``.
        settings: settings that all nodes share.
    """

    def engine(ports: Sequence[int]) -> str:
        return "etcd://" + ",".join(f"127.0.0.1:{port}" for port in ports)

    return [
        Server(name, directory, {**settings, "CLUSTER": engine(ports), "STATE_DIR": str(directory / name)}) for name, ports in ways.items()
    ]


def new_secret() -> str:
    """Return a random secret key."""
    return secrets.token_urlsafe(48)
