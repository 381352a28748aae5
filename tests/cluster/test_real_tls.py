"""Peers that show each other certificates (mTLS), as processes on loopback."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from example_app.ports import reserve_port

from ..engines import CA_USE, KEY_OF_CA
from ..waiting import LIMIT_S, until
from .test_real import APP, Served

pytestmark = pytest.mark.real


class Authority:
    """Signs certificates for loopback, by the ``openssl`` command."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self._openssl(
            "req", "-x509", *self._new_key(self.key), *CA_USE, "-subj", f"/CN={name}", "-days", "2", "-out", str(self.certificate)
        )

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate, good for servers and clients, and its key."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        certificate, key = self.folder / f"{self.name}-{name}.pem", self.folder / f"{self.name}-{name}.key"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n" + KEY_OF_CA)
        self._openssl("req", *self._new_key(key), "-subj", f"/CN={name}", "-out", str(request))
        signing = ("-CA", str(self.certificate), "-CAkey", str(self.key), "-CAcreateserial", "-days", "2")
        self._openssl("x509", "-req", "-in", str(request), *signing, "-extfile", str(extensions), "-out", str(certificate))
        return certificate, key

    @staticmethod
    def _new_key(path: Path) -> tuple[str, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=LIMIT_S)


class SecurelyServed(Served):
    """A node that refuses peers without a certificate of the cluster's authority."""

    def __init__(self, name: str, port: int, folder: Path, settings: dict[str, str], authority: Authority) -> None:
        super().__init__(name, port, folder, settings)
        self.url = f"https://127.0.0.1:{port}"
        self._authority = authority
        certificate, key = map(str, authority.sign(name))
        self.shows(certificate, key)
        self.settings |= {"ADVERTISE_URL": self.url, "PEER_CA_FILE": str(authority.certificate)}
        ca, required = str(authority.certificate), str(int(ssl.CERT_REQUIRED))
        self._options = {
            "uvicorn": f"--port {port} --ssl-certfile {certificate} --ssl-keyfile {key} --ssl-ca-certs {ca} --ssl-cert-reqs {required}",
            "hypercorn": f"--bind 127.0.0.1:{port} --certfile {certificate} --keyfile {key} --ca-certs {ca} --verify-mode CERT_REQUIRED",
            "granian": f"--interface asgi --port {port} --ssl-certificate {certificate} --ssl-keyfile {key} --ssl-ca {ca} "
            "--ssl-client-verify",
        }
        self.context = ssl.create_default_context(cafile=str(authority.certificate))
        self.context.load_cert_chain(certificate, key)

    def shows(self, certificate: str, key: str) -> None:
        """Set the certificate that it presents to its peers from its next start on."""
        self.settings |= {"PEER_CERT_FILE": certificate, "PEER_KEY_FILE": key}

    def serve(self, server: str = "uvicorn") -> None:
        self.start(server=server, options=tuple(self._options[server].split()))

    def request(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.request(method, self.url + path, headers=headers, timeout=LIMIT_S, verify=self.context)

    def readiness(self) -> str:
        try:
            answer = self.request("GET", "/-/session/readyz")
        except httpx2.TransportError as exc:
            return type(exc).__name__
        return str(answer.json().get("output", ""))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[SecurelyServed]]:
    (tmp_path / "served.py").write_text(APP)
    ports, authority = [reserve_port() for _ in range(3)], Authority(tmp_path, "ours")
    peers = ",".join(f"https://127.0.0.1:{port}" for port in ports)
    settings = {"CLUSTER": "peers://", "PEERS": peers, "PROTECT": "/private*", "HEARTBEAT": "300ms"}
    nodes = [SecurelyServed(name, port, tmp_path, settings, authority) for name, port in zip("abc", ports, strict=True)]
    try:
        for node in nodes:
            node.serve()
        for node in nodes:
            until(lambda node=node: not node.readiness(), "ready")  # type: ignore[misc]
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def test_members_with_certificates_are_a_cluster_and_one_that_shows_a_foreign_one_is_not_of_it(
    nodes: list[SecurelyServed], tmp_path: Path
) -> None:
    a, b, c = nodes
    token, staying = a.log_in(), b.log_in("bob")
    assert [node.status(token) for node in nodes] == [200] * 3
    assert b.request("POST", "/logout", token).headers["session-revocation"] == "fenced"
    assert [node.status(token) for node in nodes] == [401] * 3
    with pytest.raises(httpx2.TransportError):
        httpx2.get(a.url + "/-/session/readyz", verify=ssl.create_default_context(cafile=str(tmp_path / "ours.pem")))

    c.kill()
    c.shows(*map(str, Authority(tmp_path, "foreign").sign("c")))
    c.serve()

    def is_up() -> bool:
        return c.readiness() not in ("", "ConnectError")

    until(is_up, "c listens")
    assert c.status(staying) == 503
    until(lambda: "member 1 of HA_SESSION_PEERS: cannot be reached" in c.told, "told")
    assert [node.status(staying) for node in (a, b)] == [200, 200]
