"""Ask a running node, by calls that only a holder of the cluster's key can sign: the operator's side of :mod:`.administration`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import msgspec

from .._core.calls.faults import PeerFaults
from .._core.token.keys import KeyRing
from .._machine.tls import tls_context
from .._peering.client import PeerClient
from .._peering.signatures import ADMIN
from ..abc import Clock, PeerFailure
from ..clocks import SystemClock
from ..config import Settings
from .admin_messages import Answer, Failure, decode_answer, encode
from .key_source import KeySource

CALLER = "ha-session"
"""The name of a caller that is no member."""
CALL_LIMIT_S = 30.0
"""Time limit of a call. A log-out without a quorum takes some ten seconds."""
BUSY_S = 0.5
"""Pause after an answer that the node has too many such calls at present."""


class Refused(Exception):
    """The node understood the call, and did not do what it asked for.

    Attributes:
        failure: why.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Operator:
    """Calls the processes of a cluster as an operator, or as a node that shows an operator the others.

    Args:
        settings: with the secret and the audience of the nodes, the prefix of their endpoints, and the certificates of peers.
        http: carries the calls.
        but: the id of a key that is about to be revoked. It signs no call if there is another one: its answer could not be signed.
        ring: returns the present key ring of a node that asks; by default the keys are those of the settings, as they are now.
        clock: bounds each call.
    """

    def __init__(
        self,
        settings: Settings,
        http: httpx2.AsyncBaseTransport,
        *,
        but: str | None = None,
        ring: Callable[[], KeyRing] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock = clock or SystemClock()
        if ring is None:
            own = KeySource(settings, clock.boot_s()).ring
            usable = own if but is None else own.without({but})
            ring = partial(_same, usable)
        self._client = PeerClient(
            CALLER,
            os.urandom(16).hex(),
            ring,
            prefix=settings.endpoints,
            clock=clock,
            faults=PeerFaults(),
            http=lambda: http,
            purpose=ADMIN,
        )

    async def ask(self, url: str, name: str, request: msgspec.Struct, *, limit_s: float = CALL_LIMIT_S) -> Any:
        """Return the answer of the process at a URL.

        Args:
            url: any URL that reaches the process, without a path.
            name: of the call.
            request: what to do.
            limit_s: the time limit, in seconds.

        Raises:
            PeerFailure: the process did not answer in time, or not as a node of this cluster does.
            Refused: it answered that it did not do it.
        """
        body = encode(request)
        with self._clock.move_on_after(limit_s):
            while True:
                try:
                    answer: Answer = decode_answer(await self._client.call(url.rstrip("/"), name, body, timeout_s=limit_s))
                except PeerFailure as failure:
                    if str(failure) == "answered 400":
                        raise PeerFailure("does not know this call: it runs another release", "garbage") from None
                    if str(failure) != "answered 429":
                        raise
                    await anyio.sleep(BUSY_S)  # it has done nothing: many log-outs at once wait for each other
                    continue
                except msgspec.MsgspecError as exc:
                    raise PeerFailure("answered something that this release cannot read", "garbage") from exc
                if answer.error is not None:
                    raise Refused(answer.error)
                return answer.result
        raise PeerFailure("gives no answer in time", "stalled")


def _same(ring: KeyRing) -> KeyRing:
    return ring


@asynccontextmanager
async def operator(settings: Settings, *, tls: bool, but: str | None = None) -> AsyncIterator[Operator]:
    """An operator who calls over the network.

    Args:
        settings: as :class:`Operator` takes them.
        tls: whether some URL begins with https. To load the authorities takes longer than a call.
        but: as :class:`Operator` takes it.

    Raises:
        OSError: a certificate cannot be used.
    """
    verify = tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file) if tls else False
    # No proxy from the environment: it would send the cluster's traffic away.
    http = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)
    try:
        yield Operator(settings, http, but=but)
    finally:
        with anyio.move_on_after(5, shield=True):
            await http.aclose()
