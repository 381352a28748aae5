"""One node's calls to the others and theirs to it, and the connections that carry them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import anyio
import httpx2

from .._core.calls.faults import Fault, PeerFaults
from .._core.token.keys import KeyRing
from .._machine.call_transport import KEEP_IDLE_S, CallTransport
from .._machine.tls import tls_context
from ..abc import Clock, PeerFailure, PeerHandler
from ..config import Settings
from ..exceptions import ConfigurationError
from .client import PeerClient
from .forward import ForwardClient
from .forwarded import ForwardServer
from .server import PeerServer

MOST_CALLS = 128
"""Calls of this node to the others at once."""


class Peering:
    """One node's side of all calls between nodes.

    Args:
        settings: the node's own URL, the members, and the certificates.
        life: the node's nonce: random, new for each process.
        ring: returns the present key ring.
        clock: bounds each call.
        on_fault: is called with the name of a member, and each of its faults.
        on_unsigned: is called for each call that no member signed.
        may_answer: returns whether this node answers requests that others send on.
        transport: carries the calls; by default the network.

    Attributes:
        me: the node's own URL.
        faults: counts the faults of the other members.
        server: answers the calls of other members.
        forwarding: sends requests to other members; None unless ``HA_SESSION_ROUTING=forward``.
        forwarded: answers such requests; None likewise.

    Raises:
        ConfigurationError: a certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        life: str,
        ring: Callable[[], KeyRing],
        clock: Clock,
        *,
        on_fault: Callable[[str, Fault], None],
        on_unsigned: Callable[[], None],
        may_answer: Callable[[], bool],
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.me = settings.advertise_url or ""
        self._settings = settings
        self._transport = transport
        self._tls = _tls(settings)
        self.faults = PeerFaults(tuple(dict.fromkeys((*settings.peers, *settings.peers_next))), on_fault=on_fault)
        self.server = PeerServer(self.me, life, ring, clock, self.faults, on_unsigned=on_unsigned)
        self._client = PeerClient(self.me, life, ring, prefix=settings.endpoints, clock=clock, faults=self.faults, http=self._open)
        self._http: httpx2.AsyncBaseTransport | None = None
        self._http_of_forwards: httpx2.AsyncBaseTransport | None = None
        self.forwarding: ForwardClient | None = None
        self.forwarded: ForwardServer | None = None
        if settings.routing == "forward":
            self.forwarding = ForwardClient(
                self.me, life, ring, prefix=settings.endpoints, clock=clock, faults=self.faults, http=self._open_for_forwards
            )
            self.forwarded = ForwardServer(self.me, life, ring, clock, self.faults, on_unsigned=on_unsigned, may_answer=may_answer)

    def _open_for_forwards(self) -> httpx2.AsyncBaseTransport:
        if self._http_of_forwards is None:
            raise PeerFailure("this node has not been started")
        return self._http_of_forwards

    def _open(self) -> httpx2.AsyncBaseTransport:
        if self._http is None:
            raise PeerFailure("this node has not been started")
        return self._http

    def _transport_of_forwards(self) -> httpx2.AsyncBaseTransport:
        """Return connections for requests, so that downloads leave room for the calls between nodes."""
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=64, keepalive_expiry=KEEP_IDLE_S)
        dead_hosts = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        return httpx2.AsyncHTTPTransport(verify=self._tls or False, limits=limits, trust_env=False, socket_options=dead_hosts)

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
        self._http = self._transport or CallTransport(self._tls, most=MOST_CALLS)
        if self.forwarding is not None:
            self._http_of_forwards = self._transport or self._transport_of_forwards()
        try:
            await anyio.sleep_forever()
        finally:
            opened, self._http, self._http_of_forwards = (self._http, self._http_of_forwards), None, None
            with anyio.move_on_after(5, shield=True):
                for http in opened:
                    if http is not None:
                        await http.aclose()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not any(url.startswith("https://") for url in (*settings.peers, *settings.peers_next, settings.advertise_url or "")):
        return None  # there is no certificate to check
    try:
        return tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file)
    except OSError as exc:
        raise ConfigurationError([f"HA_SESSION_PEER_CA_FILE, HA_SESSION_PEER_CERT_FILE, HA_SESSION_PEER_KEY_FILE: {exc}"]) from exc
