"""Requests that other nodes send on: the callee's side. Each becomes a request of this node, as if its client had sent it here.

The call is verified like all calls between nodes. So a request counts as forwarded only if a member has signed it.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._core.calls.faults import PeerFaults
from .._core.cluster.owned import FORWARDED
from .._core.request_fields import Header, last_value
from .._core.token.keys import KeyRing
from ..abc import Clock, PeerFailure
from .forward import ANSWERED, REFUSED, REQUEST, Facts
from .server import PeerServer
from .signatures import FACTS_HEADER, FORWARD, HEADER, LENGTH_HEADER, MAX_FIELD_LENGTH, answer_field, answer_text, digest_of

MAX_FACTS_LENGTH = 64 * 1024
"""How many characters of the field with the facts are read. The path of a request is the most of them."""


class ForwardServer(PeerServer):
    """Answers requests of other members.

    Args:
        me: this node's advertised URL.
        nonce: random, new for each process.
        ring: returns the present key ring.
        clock: measures the waiting of calls that are too many.
        faults: counts the faults of callers.
        on_unsigned: is called for each call that no member signed.
        may_answer: returns whether this node is ready, and goes on.
    """

    def __init__(
        self,
        me: str,
        nonce: str,
        ring: Callable[[], KeyRing],
        clock: Clock,
        faults: PeerFaults,
        *,
        on_unsigned: Callable[[], None],
        may_answer: Callable[[], bool],
    ) -> None:
        super().__init__(me, nonce, ring, clock, faults, purpose=FORWARD, on_unsigned=on_unsigned)
        self._may_answer = may_answer

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have an app answer the request that a call carries."""
        found = self._verified(REQUEST, last_value(scope["headers"], HEADER.encode(), MAX_FIELD_LENGTH))
        if found is None or scope["method"] != "POST":
            self.refused += 1
            self._on_unsigned()
            await self._not_found(send)
            return
        envelope, kid, call = found
        packed = last_value(scope["headers"], FACTS_HEADER.encode(), MAX_FACTS_LENGTH)
        facts = _facts(packed) if digest_of(packed.encode()) == envelope.digest else None
        if envelope.callee_nonce != self.nonce:
            await self._decline(send, 409, kid, call)
        elif not self._first_use(envelope):
            await self._refuse(send, envelope, "replayed")
        elif facts is None:
            await self._decline(send, 400, kid, call)
        elif envelope.caller == self.me:
            await self._decline(send, 508, kid, call)
        elif not self._may_answer():
            await self._decline(send, 503, kid, call)
        else:
            await app(_scope(scope, facts), receive, self._signing(_without_body(send) if facts.method == "HEAD" else send, kid, call))

    async def _decline(self, send: Send, status: int, kid: str, call: str) -> None:
        """Say that nothing was done."""
        headers = [(b"content-length", b"0"), *self._signature(status, REFUSED, kid, call)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _signing(self, send: Send, kid: str, call: str) -> Send:
        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                signature = self._signature(message["status"], ANSWERED, kid, call)
                message = {**message, "headers": [*(message.get("headers") or ()), *signature]}
            await send(message)

        return send_signed

    def _signature(self, status: int, outcome: bytes, kid: str, call: str) -> list[Header]:
        try:
            signature = self._signatures.sign(kid, answer_text(call, status, self.nonce, outcome))
        except PeerFailure:  # the key was removed meanwhile, so the caller cannot tell whose answer it is
            return []
        return [(HEADER.encode(), answer_field(self.nonce, signature).encode())]


def _without_body(send: Send) -> Send:
    """Return a ``send`` for the answer to a ``HEAD``, within the answer to a call, which is a ``POST``."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [
                (LENGTH_HEADER.encode() if name == b"content-length" else name, value) for name, value in message.get("headers") or ()
            ]
            await send({**message, "headers": headers})
        elif not message.get("more_body"):
            await send({"type": "http.response.body", "body": b""})

    return send_head


def _facts(packed: str) -> Facts | None:
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(packed), type=Facts)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        return None


def _scope(scope: Scope, facts: Facts) -> Scope:
    """Return the scope of the request in a call."""
    dropped = {HEADER.encode(), FACTS_HEADER.encode(), b"host", *(() if facts.has_length else (b"content-length", b"transfer-encoding"))}
    headers = [(b"host", value) for value in facts.host] + [field for field in scope["headers"] if field[0] not in dropped]
    return {
        **scope,
        **{name: value for name, value in msgspec.structs.asdict(facts).items() if name not in ("host", "has_length")},
        "headers": headers,
        "extensions": {name: value for name, value in (scope.get("extensions") or {}).items() if name != "http.response.trailers"},
        FORWARDED: True,
    }
