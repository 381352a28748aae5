"""Real etcd servers for tests: on reserved ports of loopback, each with a folder of its own, ended by process id."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from example_app.ports import reserve_port

from .waiting import LIMIT_S, stands_still, until

_MEMORY = Path("/dev/shm")
ASK_S = 2.0
"""How long a member has to tell whether it is well. One that has not is asked again."""


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process wait for etcd as long as a busy machine may take. A test in which etcd fails must not be so patient."""
    for limit in ("log.DURABLE_LIMIT_S", "store.LIMIT_S", "store.LIMIT_IN_TROUBLE_S", "locks.LEAST_S"):
        monkeypatch.setattr(f"ha_session_mw.backends.etcd.{limit}", LIMIT_S)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder that goes when the context ends; in memory where possible, because etcd syncs each write."""
    with tempfile.TemporaryDirectory(prefix="ha-session-etcd-", dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        yield Path(name)


# Python asks for both from 3.13 on, as RFC 5280 does.
CA_USE = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
KEY_OF_CA = "authorityKeyIdentifier=keyid\n"


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate of 127.0.0.1 for servers and clients alike, without a name: the gateway refuses those with one."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def made(cls, folder: Path, *, name: str = "") -> Certificates:
        """New ones, in a folder; ``name`` is the certificate's CN."""
        found = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        ca_key, request, extensions = folder / "ca.key", folder / "cert.csr", folder / "extensions"
        # The gateway calls etcd by the server's own certificate, so it has to be one for clients, too.
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n" + KEY_OF_CA
        )
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        _openssl("req", "-x509", *new_key, *CA_USE, "-subj", "/O=authority", "-days", "2", "-keyout", ca_key, "-out", found.ca)
        subject = f"/O=cluster/CN={name}" if name else "/O=cluster"
        _openssl("req", *new_key, "-subj", subject, "-keyout", found.key, "-out", request)
        signing = ("-CA", found.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signing, "-out", found.cert)
        return found

    def context(self) -> ssl.SSLContext:
        """For a client that shows the certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.cert, self.key)
        return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=LIMIT_S)


class EtcdMember:
    """One etcd process. It may be ended, frozen and started again; its folder stays."""

    def __init__(self, name: str, client_port: int, peer_port: int, folder: Path, *, scheme: str, flags: Sequence[str]) -> None:
        self.name = name
        self.client_port = client_port
        self.peer_port = peer_port
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self.url = f"{scheme}://127.0.0.1:{client_port}"
        self.peer_url = f"http://127.0.0.1:{peer_port}"
        self._flags = [*flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        """Start it; ``cluster`` is etcd's ``--initial-cluster``."""
        command = ["etcd", "--name", self.name, "--data-dir", str(self.data), "--logger", "zap", "--initial-cluster", cluster]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url, *self._flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Keep its connections and answer nothing, like a machine that swaps."""
        self.signal(signal.SIGSTOP)
        process = self._process
        if process is not None:
            until(lambda: stands_still(process.pid), "etcd stands still")

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(LIMIT_S)

    @property
    def is_running(self) -> bool:
        return self._process is not None


class Etcd:
    """A cluster of etcd members.

    Args:
        folder: for their data and logs.
        members: how many.
        flags: more options for each.
        certificates: has them speak TLS with clients, and ask those for a certificate, should ``flags`` say so.
    """

    def __init__(self, folder: Path, members: int = 1, *, flags: Sequence[str] = (), certificates: Certificates | None = None) -> None:
        self.certificates = certificates
        self._flags = [*flags]
        scheme = "http"
        if certificates is not None:
            scheme = "https"
            self._flags += ["--cert-file", str(certificates.cert), "--key-file", str(certificates.key)]
            self._flags += ["--trusted-ca-file", str(certificates.ca)]
        self._http = httpx2.Client(verify=certificates.context() if certificates else False, timeout=ASK_S, trust_env=False)
        self.members = [
            EtcdMember(f"n{number}", reserve_port(), reserve_port(), folder, scheme=scheme, flags=self._flags) for number in range(members)
        ]

    @property
    def _cluster(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    @property
    def endpoints(self) -> list[str]:
        return [member.url for member in self.members]

    def cluster(self, prefix: str = "") -> str:
        """Return the value for ``HA_SESSION_CLUSTER``; ``prefix`` separates tests that share a server."""
        scheme = "etcd" if self.certificates is None else "etcds"
        hosts = ",".join(url.partition("://")[2] for url in self.endpoints)
        return f"{scheme}://{hosts}" + (f"/{prefix}" if prefix else "")

    def start(self) -> None:
        """Start the members that do not run, and return when the cluster has a leader."""
        for member in self.members:
            if not member.is_running:
                member.start(self._cluster)
        until(lambda: all(self.is_healthy(member) for member in self.members), "etcd has a leader")

    def start_member(self, member: EtcdMember) -> None:
        """Start one again, and return when it has caught up."""
        member.start(self._cluster)
        until(lambda: self.is_healthy(member), "the member is back")

    def stop(self) -> None:
        self._http.close()
        for member in self.members:
            member.kill()

    def is_healthy(self, member: EtcdMember) -> bool:
        """Whether it can write."""
        try:
            return bool(self._http.get(member.url + "/health").json().get("health") == "true")
        except (httpx2.TransportError, ValueError):
            return False

    def leader(self) -> EtcdMember:
        """Return the leader; asks until there is one."""
        found: list[EtcdMember] = []

        def ask() -> bool:
            for member in self.members:
                try:
                    status = self.post("/v3/maintenance/status", {}, at=member, limit_s=ASK_S)
                except (httpx2.TransportError, ValueError):
                    continue
                if status.get("leader", "0") == status.get("header", {}).get("member_id"):
                    found.append(member)
            return bool(found)

        until(ask, "etcd has a leader")
        return found[0]

    def post(self, path: str, body: Mapping[str, Any], *, at: EtcdMember | None = None, limit_s: float = LIMIT_S) -> Any:
        """Call the JSON gateway."""
        return self._http.post((at or self.members[0]).url + path, json=body, timeout=limit_s).json()

    def ctl(self, *arguments: str, **environ: str) -> str:
        """Call ``etcdctl``; return its output."""
        command = ["etcdctl", "--endpoints", ",".join(self.endpoints), *arguments]
        if self.certificates is not None:
            tls = self.certificates
            command += ["--cacert", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key)]
        done = subprocess.run(command, env={"ETCDCTL_API": "3", **environ}, check=True, capture_output=True, timeout=LIMIT_S)
        return done.stdout.decode()

    def require_users(self, password: str) -> None:
        """Require the password of ``root`` for every request from now on."""
        self.ctl("user", "add", f"root:{password}")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("auth", "enable")

    def revision(self) -> int:
        """Where the whole store stands."""
        return int(self.post("/v3/kv/range", {"key": "eA=="})["header"]["revision"])


@contextmanager
def etcd(members: int = 1, *flags: str, tls: bool = False, name: str = "") -> Iterator[Etcd]:
    """A running etcd of 1 or 3 members that is gone when the context ends.

    Args:
        flags: more options for each member.
        tls: has them speak TLS with clients.
        name: the CN of the one certificate that all have then.
    """
    if shutil.which("etcd") is None:
        pytest.skip("needs etcd: apt-get install -y --no-install-recommends etcd-server etcd-client")
    with ExitStack() as held:
        folder = held.enter_context(memory_folder())
        server = Etcd(folder, members, flags=flags, certificates=Certificates.made(folder, name=name) if tls else None)
        held.callback(server.stop)
        server.start()
        yield server
