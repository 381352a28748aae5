"""Tell another process to drain, by a call that only a holder of the cluster's key can sign: ``ha-session drain URL --wait``."""

from __future__ import annotations

import os

import httpx2

from .._core.calls.faults import PeerFaults
from .._machine.tls import tls_context
from .._peering.client import PeerClient
from .._peering.server import DRAIN
from ..clocks import SystemClock
from ..config import Settings
from .draining import WAIT
from .key_source import KeySource

CALLER = "ha-session"
"""The name of a caller that is no member."""
CALL_LIMIT_S = 10.0
"""Time limit of the call, besides the delay of the node."""


async def ask_to_drain(url: str, settings: Settings, *, wait: bool) -> None:
    """Have the node at a URL drain; with ``wait``, return once its server may stop.

    Args:
        url: where the node answers: any URL that reaches this very process, without a path.
        settings: with the secret, the prefix of the endpoints and the drain delay of the node.
        wait: whether to wait for the delay, and until the other nodes have what this node alone had.

    Raises:
        PeerFailure: the node did not answer in time, or not as a node of this cluster does.
    """
    clock = SystemClock()
    keys = KeySource(settings, clock.boot_s())
    verify = tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file) if url.startswith("https:") else False
    transport = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)
    client = PeerClient(
        CALLER,
        os.urandom(16).hex(),
        lambda: keys.ring,
        prefix=settings.endpoints,
        clock=clock,
        faults=PeerFaults(),
        http=lambda: transport,
    )
    try:
        await client.call(url.rstrip("/"), DRAIN, WAIT if wait else b"", timeout_s=CALL_LIMIT_S + settings.drain_delay * wait)
    finally:
        await transport.aclose()
