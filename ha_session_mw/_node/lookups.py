"""Asking other nodes about a token whose standing this node cannot tell. Only ever after its own knowledge was not enough.

A peer's "revoked" is final. Its yes serves the requests that were waiting when the question was sent, and is not kept: a
kept one would outlive the fence. "Never heard of it" and silence are no answers.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import anyio
import msgspec

from .._core.calls.breaker import Breaker
from .._core.calls.faults import Fault, PeerFaults
from .._core.token.tokens import PREFIX
from ..abc import Clock, PeerFailure
from ..models import Claims, KeyId
from .single_flight import SingleFlight

logger = logging.getLogger("ha_session_mw.lookups")

VERSION = 1
MOST_AT_ONCE = 8
"""Calls under way to one peer. More would only queue up there; and one that stalls must not hold the connections of the others."""


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Does the session of this token stand?"""

    version: int
    token: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a node can say. ``claims`` and ``kid`` go with a yes, for an asker that lacks the token's key."""

    version: int
    says: Literal["yes", "revoked", "unknown"]
    claims: Claims | None = None
    kid: KeyId | None = None


encode = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode

Call = Callable[[str, str, bytes, float], Awaitable[bytes]]


def _is_about(answer: Answer, question: bytes) -> bool:
    """Whether the claims in an answer, if there are any, can be those of the token that was asked about."""
    token = decode_question(question).token
    if answer.claims is None or not token.startswith(PREFIX):
        return True  # a cookie of Starlette's middleware names no session
    return token.startswith(PREFIX + answer.claims.sid.encode() + b".")


class _Peer:
    """What there is to know of one peer before it is asked."""

    __slots__ = ("breaker", "limit")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.limit = anyio.CapacityLimiter(MOST_AT_ONCE)


class Verdict(Protocol):
    """An answer of a peer.

    Attributes:
        version: of its form.
        says: what; ``unknown`` is no answer.
    """

    @property
    def version(self) -> int: ...

    @property
    def says(self) -> str: ...


A = TypeVar("A", bound=Verdict)


class Asking(Generic[A]):
    """Asks peers, hedged, bounded, and with a breaker for each peer.

    Args:
        call: calls another member.
        clock: bounds the waiting.
        faults: counts what peers do wrong, beside what the calls themselves count.
        timeout_s: of one question as a whole.
        name: of the call.
        decode: reads an answer, or raises ValueError.
        is_about: whether an answer can be one to that question.
    """

    def __init__(
        self,
        call: Call,
        clock: Clock,
        faults: PeerFaults,
        *,
        timeout_s: float,
        name: str,
        decode: Callable[[bytes], A],
        is_about: Callable[[A, bytes], bool] = lambda *_: True,
    ) -> None:
        self._call = call
        self._clock = clock
        self._faults = faults
        self._timeout_s = timeout_s
        self._name = name
        self._decode = decode
        self._is_about = is_about
        self._peers: defaultdict[str, _Peer] = defaultdict(_Peer)
        self.results: Counter[str] = Counter()

    async def ask(self, question: bytes, peers: Sequence[str]) -> A | None:
        """What the first peer says that can say anything; None if none can in time.

        One is asked after the other without waiting for the slow: the next when its turn comes, or the last has failed.

        Args:
            question: the body of the call.
            peers: whom to ask, in this order.
        """
        found: list[A] = []
        turn_s = self._timeout_s / (len(peers) + 1)
        with self._clock.move_on_after(self._timeout_s):
            async with anyio.create_task_group() as tasks:
                for peer in peers:
                    done = anyio.Event()
                    tasks.start_soon(self._ask_one, peer, question, found, tasks.cancel_scope, done)
                    with self._clock.move_on_after(turn_s):
                        await done.wait()
        return found[0] if found else None

    async def _ask_one(self, peer: str, question: bytes, found: list[A], scope: anyio.CancelScope, done: anyio.Event) -> None:
        about = self._peers[peer]
        async with about.limit:
            answer = await self._answer_of(peer, question, about.breaker)
        if answer is not None and answer.says != "unknown" and not found:
            found.append(answer)
            scope.cancel()
        done.set()

    async def _answer_of(self, peer: str, question: bytes, breaker: Breaker) -> A | None:
        begun_s = self._clock.boot_s()
        if not breaker.allows(begun_s):
            self.results["breaker_open"] += 1
            return None
        answer, result = None, "failed"
        try:
            answer = self._decode(await self._call(peer, self._name, question, self._timeout_s))
        except PeerFailure:
            pass
        except (ValueError, RecursionError):
            result = self._note(peer, "garbage")
        except anyio.get_cancelled_exc_class():
            # Its time was over: a peer that stalls is as good as none. Or another one was faster, which is no fault of its.
            stalled = self._clock.boot_s() - begun_s >= self._timeout_s / 2
            if stalled:
                self._note(peer, "stalled")
            result = "failed" if stalled else "outrun"
            raise
        else:
            if answer.version != VERSION:
                result = self._note(peer, "garbage")
            else:
                result = answer.says if self._is_about(answer, question) else self._note(peer, "lied")
        finally:
            self._count(result, breaker)
        return answer if result not in ("failed", "garbage", "lied") else None

    def _note(self, peer: str, fault: Fault) -> str:
        self._faults.note(peer, fault)
        return fault

    def _count(self, result: str, breaker: Breaker) -> None:
        self.results[result] += 1
        if result in ("failed", "garbage", "lied"):
            breaker.failed(self._clock.boot_s())
        elif result != "outrun":
            breaker.succeeded()


class LookUps:
    """Asks peers about tokens, with one flight a token.

    Args:
        call: calls another member.
        clock: bounds the waiting.
        faults: counts what peers do wrong.
        timeout_s: of one look-up as a whole.
    """

    def __init__(self, call: Call, clock: Clock, faults: PeerFaults, *, timeout_s: float) -> None:
        self._asking = Asking(call, clock, faults, timeout_s=timeout_s, name="lookup", decode=decode_answer, is_about=_is_about)
        self._flights: SingleFlight[Answer] = SingleFlight()
        self.run = self._flights.run
        self.results = self._asking.results

    async def ask(self, token: bytes, peers: Sequence[str]) -> Answer | None:
        """What the first peer says that can say anything; None if none can in time, or too many are asked about at once.

        Args:
            token: the question.
            peers: whom to ask, in this order.
        """
        if not peers:
            return None
        return await self._flights.join(token, lambda: self._asking.ask(encode(Question(VERSION, token)), peers))
