"""A load balancer in front of the demo's nodes: the real nginx or HAProxy, with the file that ``ha-session lb-config`` writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx2

from ha_session_mw import Settings
from ha_session_mw.cli import Kind, lb_config

from .no_tls import NO_TLS
from .ports import LOOPBACK, reserve_port, url_of
from .processes import Process

HERE: tuple[Kind, ...] = ("haproxy", "nginx")
"""What is looked for on this machine, in this order. HAProxy asks the nodes whether they are ready, and nginx does not."""
TITLES = {"haproxy": "HAProxy", "nginx": "nginx"}
HOW_TO_INSTALL = "apt-get install -y --no-install-recommends haproxy"
_SCRATCH = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""The folders of nginx that only root may use by default."""


def program(kind: Kind) -> str | None:
    """Return the path of a balancer's program; None if it is not installed."""
    return shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/usr/local/sbin")


def installed() -> Kind | None:
    """Return the first balancer that is installed; None if there is none."""
    return next((kind for kind in HERE if program(kind)), None)


def drain_settings() -> dict[str, str]:
    """Return the settings of nodes behind the balancer that is installed, for restarts that nobody sees."""
    match installed():
        case None:
            return {}
        case "nginx":  # it does not ask, and learns by refusals
            return {"DRAIN_DELAY": "2s", "DRAIN_REFUSE": "safe", "START_WAIT": "10s"}
        case _:  # it asks twice a second, and two checks must fail
            return {"DRAIN_DELAY": "2s"}


class Balancer(Process):
    """A balancer that listens on a port of loopback.

    Args:
        kind: the kind. Only nginx and HAProxy can be started by this class itself.
        settings: of the nodes.
        nodes: their URLs.
        directory: for its configuration and its output.
    """

    def __init__(self, kind: Kind, settings: Settings, nodes: Sequence[str], directory: Path) -> None:
        super().__init__(kind, directory / f"{kind}.log")
        self.kind = kind
        port = reserve_port()
        self.url = url_of(port)
        self.file = directory / f"{kind}.yaml"  # Envoy reads only files of such a name
        text = lb_config(kind, settings, listen=f"{LOOPBACK}:{port}", nodes=nodes)
        self.file.write_text(text.replace("http {\n", "http {\n" + _scratch(directory), 1) if kind == "nginx" else text)

    def start(self) -> None:
        self._run(self.command(), {**os.environ})

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground.

        Raises:
            FileNotFoundError: it is not installed.
        """
        path = program(self.kind)
        if path is None:
            raise FileNotFoundError(f"{self.kind} is not installed")
        if self.kind == "nginx":
            return [path, "-c", str(self.file), "-e", "stderr", "-g", f"daemon off; pid {self.file}.pid;"]
        return [path, "-db", "-f", str(self.file)]

    def is_ready(self) -> bool:
        """Return whether the balancer passes requests on."""
        try:
            return httpx2.get(f"{self.url}/-/session/livez", timeout=1, trust_env=False, verify=NO_TLS).status_code == 200
        except httpx2.TransportError:
            return False  # not listening yet


def _scratch(directory: Path) -> str:
    return "".join(f"    {name}_temp_path {directory}/nginx-{name};\n" for name in _SCRATCH)
