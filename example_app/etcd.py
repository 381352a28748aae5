"""The demo's own etcd: three member processes on loopback, each with a data folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2

from .no_tls import NO_TLS
from .ports import reserve_port, url_of
from .processes import Process, ServerError

MEMBERS = ("n1", "n2", "n3")
HOW_TO_INSTALL = "apt-get install -y --no-install-recommends etcd-server"
_LEADER_WITHIN_S = 30.0
_POLL_S = 0.05


def is_installed() -> bool:
    return shutil.which("etcd") is not None


class Member(Process):
    """A member of an etcd cluster. The member keeps its data when it is started again.

    Args:
        name: the member's name in the cluster.
        directory: for the data folder and the log file.
        peer_ports: the port of each member for the other members, by name.
    """

    def __init__(self, name: str, directory: Path, peer_ports: dict[str, int]) -> None:
        super().__init__(name, directory / f"{name}.log")
        self.port = reserve_port()
        self.url = url_of(self.port)
        self._peer_url = url_of(peer_ports[name])
        self._cluster = ",".join(f"{each}={url_of(port)}" for each, port in peer_ports.items())
        self._data = directory / f"{name}.etcd"

    def start(self) -> None:
        command = ["etcd", "--name", self.name, "--data-dir", str(self._data), "--logger", "zap", "--log-level", "error"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self._peer_url, "--initial-advertise-peer-urls", self._peer_url]
        command += ["--initial-cluster", self._cluster]
        self._run(command, {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")})

    def terminate(self) -> None:
        """End the member at once. On SIGTERM it would first hand over to other members, which are ending, too."""
        self.kill()

    def is_ready(self) -> bool:
        """Return whether the member can write, which takes a majority."""
        try:
            answer = httpx2.get(f"{self.url}/health", timeout=1, trust_env=False, verify=NO_TLS)
        except httpx2.TransportError:
            return False  # not listening yet
        return answer.status_code == 200 and answer.json().get("health") == "true"

    def leads(self) -> bool:
        """Return whether this member is the leader."""
        try:
            answer = httpx2.post(f"{self.url}/v3/maintenance/status", json={}, timeout=1, trust_env=False, verify=NO_TLS)
        except httpx2.TransportError:
            return False
        status = answer.json()
        return "leader" in status and status["leader"] == status["header"]["member_id"]


def members(directory: Path) -> list[Member]:
    """Return the members of a new cluster, not started yet."""
    peer_ports = {name: reserve_port() for name in MEMBERS}
    return [Member(name, directory, peer_ports) for name in MEMBERS]


def leader(among: Sequence[Member]) -> Member:
    """Return the leader.

    Raises:
        ServerError: there is no leader within 30 s.
    """
    deadline = time.monotonic() + _LEADER_WITHIN_S
    while time.monotonic() < deadline:
        for member in among:
            if member.leads():
                return member
        time.sleep(_POLL_S)
    raise ServerError(f"etcd has had no leader for {_LEADER_WITHIN_S:g} s")
