"""Look-ups: ask other nodes about a token that this node alone cannot validate, and answer their questions.

The answer ``revoked`` is final. The answer ``yes`` serves the requests that waited when the question was sent, and is not kept:
a kept one would outlive the fence. ``unknown`` and silence prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from .._core.accept_rule import CannotTell
from .._core.calls.faults import PeerFaults
from .._core.token.tokens import PREFIX, Verified
from .._peering.asking import Asking, Call
from ..abc import Clock, PeerHandler
from ..exceptions import ClientFault, SessionRevoked, SessionSuperseded
from ..models import Claims, KeyId
from ..version import PROTOCOL
from .single_flight import SingleFlight


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Is the session of this token valid? The answer is of the same version, or ``unknown`` if the node does not read it."""

    version: int
    token: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A node's answer.

    Attributes:
        version: of the form.
        says: whether the session is valid.
        claims, kid: of the token; with ``yes``, for a node that lacks the token's key.
        superseded: with ``revoked``: whether the client got another token in place of this one. An earlier release does not read it.
    """

    version: int
    says: Literal["yes", "revoked", "unknown"]
    claims: Claims | None = None
    kid: KeyId | None = None
    superseded: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def _is_about(answer: Answer, question: bytes) -> bool:
    """Whether the claims in an answer, if any, can be those of the token in the question."""
    token = decode_question(question).token
    if answer.claims is None or not token.startswith(PREFIX):
        return True  # a cookie of Starlette's middleware names no session
    return token.startswith(PREFIX + answer.claims.sid.encode() + b".")


def answering(validate: Callable[[bytes], Verified | CannotTell]) -> PeerHandler:
    """Return the handler that answers peers' questions by this node's knowledge alone. It passes no question on."""

    def answer(question: Question) -> Answer:
        version = question.version
        if version not in PROTOCOL:
            return Answer(PROTOCOL.lowest, "unknown")
        try:
            outcome = validate(question.token)
        except SessionRevoked:
            return Answer(version, "revoked")
        except SessionSuperseded:
            return Answer(version, "revoked", superseded=True)
        except ClientFault:
            return Answer(version, "unknown")
        if isinstance(outcome, CannotTell):
            return Answer(version, "unknown")
        return Answer(version, "yes", outcome.claims, outcome.kid)

    async def handle(body: bytes) -> bytes:
        try:
            return encode(answer(decode_question(body)))
        except (ValueError, RecursionError) as exc:
            raise ValueError("no question") from exc

    return handle


class LookUps:
    """Asks peers about tokens. Requests with the same token share one question.

    Args:
        call: calls another member.
        clock: bounds the waiting.
        faults: counts the faults of peers.
        timeout_s: the limit for one look-up.
        version_for: returns the version of the protocol in which to ask a peer.
    """

    def __init__(self, call: Call, clock: Clock, faults: PeerFaults, *, timeout_s: float, version_for: Callable[[str], int]) -> None:
        self._asking = Asking(
            call, clock, faults, timeout_s=timeout_s, name="lookup", version_for=version_for, decode=decode_answer, is_about=_is_about
        )
        self._flights: SingleFlight[Answer] = SingleFlight()
        self.run = self._flights.run
        self.results, self.durations = self._asking.results, self._asking.durations

    async def ask(self, token: bytes, peers: Sequence[str]) -> Answer | None:
        """Return the first answer that is not ``unknown``; None if there is none in time, or too many look-ups are under way.

        Args:
            token: the token.
            peers: their URLs, in the order in which they are asked.
        """
        if not peers:
            return None
        return await self._flights.join(token, lambda: self._asking.ask(lambda version: encode(Question(version, token)), peers))
