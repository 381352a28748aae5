"""The generated configurations in front of a node with https, with the real nginx, HAProxy and Envoy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from example_app.ports import LOOPBACK, reserve_port, url_of
from ha_session_mw.cli import KINDS, Kind, lb_config
from ha_session_mw.config import Settings
from ha_session_mw.testing import SECRET

from ..cluster.test_real import APP, Served
from ..engines import Certificates
from ..thinning import thinned
from ..waiting import end, until
from .test_real_balancers import command_of

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of ``localhost``."""
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "served.py").write_text(APP)
    node = Served("a", reserve_port(), folder, {"CLUSTER": "memory://"})
    del node.settings["ADVERTISE_URL"]
    node.url = f"https://{LOOPBACK}:{node.port}"
    tls = ("--ssl-certfile", str(certificates.cert), "--ssl-keyfile", str(certificates.key))
    node.start(options=("--port", str(node.port), *tls))
    try:
        until(lambda: not node.readiness(), "ready")
        yield node
    finally:
        node.kill()


class Started:
    """A balancer as a process, ended by its id."""

    def __init__(self, kind: Kind, text: str, port: int, folder: Path) -> None:
        self.url = url_of(port)
        file = folder / f"{port}.yaml"
        file.write_text(text)
        self._log = (folder / f"{port}.log").open("wb")
        self._process = subprocess.Popen(command_of(kind, file), stdout=self._log, stderr=self._log)

    def status(self) -> int:
        try:
            return httpx2.get(self.url, timeout=5, trust_env=False, verify=NO_TLS).status_code
        except httpx2.TransportError:
            return 0

    def close(self) -> None:
        end(self._process)  # a killed nginx would leave its workers behind
        self._log.close()


def started(kind: Kind, node: Served, folder: Path, name: str, authorities: Path) -> Started:
    port = reserve_port()
    settings = Settings(secret_key=SECRET)
    text = lb_config(kind, settings, listen=f"{LOOPBACK}:{port}", nodes=[node.url], server_name=name, ca_file=str(authorities))
    return Started(kind, text, port, folder)


@pytest.mark.parametrize("kind", thinned(KINDS, kept=("nginx", "haproxy")))
def test_a_node_with_https_is_called_only_if_its_certificate_is_right(
    kind: Kind, node: Served, certificates: Certificates, tmp_path: Path
) -> None:
    stranger = Certificates.made(tmp_path).ca
    with ExitStack() as held:
        of_another_name = held.enter_context(closing(started(kind, node, tmp_path, "elsewhere.test", certificates.ca)))
        of_another_authority = held.enter_context(closing(started(kind, node, tmp_path, "localhost", stranger)))
        right = held.enter_context(closing(started(kind, node, tmp_path, "localhost", certificates.ca)))
        until(lambda: right.status() == 200, "the node is called")
        until(lambda: of_another_name.status() and of_another_authority.status(), "the others listen, too")
        for _ in range(3):
            assert right.status() == 200
            assert of_another_name.status() in (502, 503)
            assert of_another_authority.status() in (502, 503)
