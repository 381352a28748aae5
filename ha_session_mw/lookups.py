"""Asking other nodes about a token whose standing this node cannot tell. Only ever after its own knowledge was not enough.

A peer's "revoked" is final. Its yes serves the requests that were waiting when the question was sent, and is not kept: a
kept one would outlive the fence. "Never heard of it" and silence are no answers.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import anyio
import anyio.abc
import msgspec

from ._core.breaker import Breaker
from ._core.conduct import Conduct, Deed
from ._core.tokens import PREFIX
from .abc import Clock
from .models import Claims, KeyId
from .peering import PeerFailure

logger = logging.getLogger("ha_session_mw.lookups")

VERSION = 1
MOST_AT_ONCE = 8
"""Calls under way to one peer. More would only queue up there; and one that stalls must not hold the connections of the others."""
MOST_FLIGHTS = 1024
"""Questions under way or about to be. A request beyond that is told to retry elsewhere."""


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


_SAYINGS = ("yes", "revoked", "unknown")


def _is_about(answer: Answer, question: Question) -> bool:
    """Whether the claims in an answer, if there are any, can be those of the token that was asked about."""
    if answer.claims is None or not question.token.startswith(PREFIX):
        return True  # a cookie of Starlette's middleware names no session
    return question.token.startswith(PREFIX + answer.claims.sid.encode() + b".")


class _Flight:
    """One question under way, or about to be, and what comes of it."""

    __slots__ = ("answer", "landed", "previous")

    def __init__(self, previous: _Flight | None) -> None:
        self.previous = previous
        self.answer: Answer | None = None
        self.landed = anyio.Event()


class _Peer:
    """What there is to know of one peer before it is asked."""

    __slots__ = ("breaker", "limit")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.limit = anyio.CapacityLimiter(MOST_AT_ONCE)


class LookUps:
    """Asks peers, with one flight a question, hedged, bounded, and with a breaker for each peer.

    Args:
        call: calls another member.
        clock: bounds the waiting.
        conduct: counts what peers do wrong, beside what the calls themselves count.
        timeout_s: of one look-up as a whole.
    """

    def __init__(self, call: Call, clock: Clock, conduct: Conduct, *, timeout_s: float) -> None:
        self._call = call
        self._clock = clock
        self._conduct = conduct
        self._timeout_s = timeout_s
        self._waiting: dict[bytes, _Flight] = {}
        self._flying: dict[bytes, _Flight] = {}
        self._peers: defaultdict[str, _Peer] = defaultdict(_Peer)
        self._tasks: anyio.abc.TaskGroup | None = None
        self.results: Counter[str] = Counter()

    async def run(self) -> None:
        """Carries the flights, so that a caller who is cancelled does not cancel the others."""
        async with anyio.create_task_group() as self._tasks:
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    async def ask(self, token: bytes, peers: Sequence[str]) -> Answer | None:
        """What the first peer says that can say anything; None if none can in time.

        Args:
            token: the question.
            peers: whom to ask, in this order.
        """
        flight = self._waiting.get(token)
        if flight is None:
            if self._tasks is None or not peers or len(self._waiting) + len(self._flying) >= MOST_FLIGHTS:
                return None
            # The question of a flight that is under way was sent before this request came, and so proves nothing for it.
            flight = self._waiting[token] = _Flight(self._flying.get(token))
            self._tasks.start_soon(self._fly, flight, token, peers)
        await flight.landed.wait()
        return flight.answer

    async def _fly(self, flight: _Flight, token: bytes, peers: Sequence[str]) -> None:
        try:
            if flight.previous is not None:
                await flight.previous.landed.wait()
                flight.previous = None
            self._flying[token] = flight
            del self._waiting[token]
            flight.answer = await self._ask_in_turn(Question(VERSION, token), peers)
        finally:
            if self._waiting.get(token) is flight:
                del self._waiting[token]
            if self._flying.get(token) is flight:
                del self._flying[token]
            flight.landed.set()

    async def _ask_in_turn(self, question: Question, peers: Sequence[str]) -> Answer | None:
        """Ask one after the other without waiting for the slow: the next is asked when its turn comes, or the last has failed."""
        found: list[Answer] = []
        turn_s = self._timeout_s / (len(peers) + 1)
        with self._clock.move_on_after(self._timeout_s):
            async with anyio.create_task_group() as tasks:
                for peer in peers:
                    done = anyio.Event()
                    tasks.start_soon(self._ask_one, peer, question, found, tasks.cancel_scope, done)
                    with self._clock.move_on_after(turn_s):
                        await done.wait()
        return found[0] if found else None

    async def _ask_one(self, peer: str, question: Question, found: list[Answer], scope: anyio.CancelScope, done: anyio.Event) -> None:
        about = self._peers[peer]
        async with about.limit:
            answer = await self._answer_of(peer, question, about.breaker)
        if answer is not None and answer.says != "unknown" and not found:
            found.append(answer)
            scope.cancel()
        done.set()

    async def _answer_of(self, peer: str, question: Question, breaker: Breaker) -> Answer | None:
        begun_s = self._clock.boot_s()
        if not breaker.allows(begun_s):
            self.results["breaker_open"] += 1
            return None
        answer, result = None, "failed"
        try:
            answer = decode_answer(await self._call(peer, "lookup", encode(question), self._timeout_s))
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
                result = answer.says if _is_about(answer, question) else self._note(peer, "lied")
        finally:
            self._count(result, breaker)
        return answer if result in _SAYINGS else None

    def _note(self, peer: str, deed: Deed) -> str:
        self._conduct.note(peer, deed)
        return deed

    def _count(self, result: str, breaker: Breaker) -> None:
        self.results[result] += 1
        if result in ("failed", "garbage", "lied"):
            breaker.failed(self._clock.boot_s())
        elif result != "outrun":
            breaker.succeeded()
