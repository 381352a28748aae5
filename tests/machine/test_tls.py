"""Messages about a server that shows the wrong certificate, asks for one, or speaks no TLS at all. Real handshakes, on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from threading import Thread

import httpx2
import pytest

from ha_session_mw._machine.tls import tls_context, unreachable

from ..engines import Certificates
from ..waiting import LIMIT_S

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None) -> Iterator[int]:
    """Answer one connection with bytes that mean nothing; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                (tls.wrap_socket(connection, server_side=True) if tls else connection).sendall(b"no TLS")

        thread = Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def server_with(certificates: Certificates, *, asks: bool = False) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca if asks else None)
    tls.load_cert_chain(certificates.cert, certificates.key)
    if asks:
        tls.verify_mode = ssl.CERT_REQUIRED
    return tls


def told(port: int, tls: ssl.SSLContext, host: str = "127.0.0.1") -> str:
    request = httpx2.Request("GET", f"https://127.0.0.1:{port}/", extensions={"sni_hostname": host})
    with httpx2.HTTPTransport(verify=tls, trust_env=False) as transport, pytest.raises((httpx2.HTTPError, OSError)) as caught:
        transport.handle_request(request)
    return unreachable(caught.value)


@pytest.mark.parametrize(
    ("trusts", "host", "why"),
    [
        (lambda _: tls_context(None, None, None), "127.0.0.1", "unable to get local issuer certificate"),
        (lambda own: tls_context(own.ca, None, None), "other.example", "it is another host's"),
        (lambda own: tls_context(own.ca, None, None), "10.9.8.7", "it is another host's"),
    ],
)
def test_a_rejected_certificate_is_reported_with_the_reason_and_no_address(
    certificates: Certificates, trusts: Callable[[Certificates], ssl.SSLContext], host: str, why: str
) -> None:
    with serving(server_with(certificates)) as port:
        assert told(port, trusts(certificates), host) == f"shows a certificate that is not accepted: {why}"


def test_a_server_that_gets_no_certificate_on_request_is_reported(certificates: Certificates) -> None:
    with serving(server_with(certificates, asks=True)) as port:
        assert told(port, tls_context(certificates.ca, None, None)).startswith("cannot be reached")


def test_a_server_without_tls_is_reported(certificates: Certificates) -> None:
    with serving(None) as port:
        assert told(port, tls_context(certificates.ca, None, None)) == "cannot be reached over TLS (WRONG_VERSION_NUMBER)"


def test_any_other_failure_is_reported_by_its_kind(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert told(port, tls_context(certificates.ca, None, None)) == "cannot be reached (ConnectError)"
