"""One node's calls to the others and theirs to it, and the connections that carry them."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import anyio
import httpx2

from .._core.calls.faults import PeerFaults
from .._core.token.keys import KeyRing
from .._machine.tls import tls_context
from ..abc import Clock, PeerFailure, PeerHandler
from ..config import Settings
from ..exceptions import ConfigurationError
from .client import PeerClient
from .server import PeerServer


class Peering:
    """One node's side of all calls between nodes.

    Args:
        settings: the node's own URL, the members, and the certificates.
        life: the node's nonce: random, new for each process.
        ring: returns the present key ring.
        clock: bounds each call.
        transport: carries the calls; by default the network.

    Attributes:
        me: the node's own URL.
        faults: counts the faults of the other members.
        server: answers the calls of other members.

    Raises:
        ConfigurationError: a certificate cannot be used.
    """

    def __init__(
        self, settings: Settings, life: str, ring: Callable[[], KeyRing], clock: Clock, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.me = settings.advertise_url or ""
        self._settings = settings
        self._transport = transport
        self._tls = _tls(settings)
        self.faults = PeerFaults(tuple(dict.fromkeys((*settings.peers, *settings.peers_next))))
        self.server = PeerServer(self.me, life, ring, clock, self.faults)
        self._client = PeerClient(self.me, life, ring, prefix=settings.endpoints, clock=clock, faults=self.faults, http=self._open)
        self._http: httpx2.AsyncBaseTransport | None = None

    def _open(self) -> httpx2.AsyncBaseTransport:
        if self._http is None:
            raise PeerFailure("this node has not been started")
        return self._http

    def handle(self, name: str, handler: PeerHandler) -> None:
        """Have calls of this name answered by a handler."""
        self.server.handle(name, handler)

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        """Return the body of a peer's answer.

        Raises:
            PeerFailure: the peer did not answer in time, or not as a member of this cluster does; or this node does not run.
        """
        return await self._client.call(peer, name, body, timeout_s=timeout_s)

    async def run(self) -> None:
        """Keep the connections open until cancelled."""
        limits = httpx2.Limits(max_connections=128, max_keepalive_connections=64)
        # No proxy from the environment: it would send the cluster's traffic away.
        self._http = self._transport or httpx2.AsyncHTTPTransport(verify=self._tls, limits=limits, trust_env=False)
        try:
            await anyio.sleep_forever()
        finally:
            http, self._http = self._http, None
            with anyio.move_on_after(5, shield=True):
                await http.aclose()


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    if not any(url.startswith("https://") for url in (*settings.peers, *settings.peers_next, settings.advertise_url or "")):
        return False  # there is no certificate to check
    try:
        return tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file)
    except OSError as exc:
        raise ConfigurationError([f"HA_SESSION_PEER_CA_FILE, HA_SESSION_PEER_CERT_FILE, HA_SESSION_PEER_KEY_FILE: {exc}"]) from exc
