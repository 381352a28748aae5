"""Ask peers one question: hedged, bounded in time and number, and with a breaker for each peer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import anyio

from .._core.calls.breaker import Breaker
from .._core.calls.faults import Fault, PeerFaults
from .._core.tally import FAST_S, Tally
from ..abc import Clock, PeerFailure

MOST_AT_ONCE = 8
"""Calls under way to one peer. More would only queue up at the peer; and calls to a stalled peer must not take all connections."""

Call = Callable[[str, str, bytes, float], Awaitable[bytes]]
Question = Callable[[int], bytes]


class _Peer:
    """Whether one peer may be asked, and how many calls to it are under way."""

    __slots__ = ("breaker", "limit")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.limit = anyio.CapacityLimiter(MOST_AT_ONCE)


class Verdict(Protocol):
    """A peer's answer.

    Attributes:
        version: of the answer's form.
        says: the verdict; ``unknown`` means that another peer is asked.
    """

    @property
    def version(self) -> int: ...

    @property
    def says(self) -> str: ...


A = TypeVar("A", bound=Verdict)


class Asking(Generic[A]):
    """Asks peers one kind of question.

    Args:
        call: calls another member.
        clock: bounds the waiting.
        faults: counts wrong answers; the calls themselves count their failures.
        timeout_s: the time limit of one question, for all peers together.
        name: of the call.
        version_for: returns the version of the protocol in which to ask a peer. An answer in another one counts as garbage.
        decode: reads an answer, or raises ValueError.
        is_about: whether an answer can belong to that question.

    Attributes:
        results: how often each result came.
        durations: the seconds that each call took.
    """

    def __init__(
        self,
        call: Call,
        clock: Clock,
        faults: PeerFaults,
        *,
        timeout_s: float,
        name: str,
        version_for: Callable[[str], int],
        decode: Callable[[bytes], A],
        is_about: Callable[[A, bytes], bool] = lambda *_: True,
    ) -> None:
        self._call = call
        self._clock = clock
        self._faults = faults
        self._timeout_s = timeout_s
        self._name = name
        self._version_for = version_for
        self._decode = decode
        self._is_about = is_about
        self._peers: defaultdict[str, _Peer] = defaultdict(_Peer)
        self.results: Counter[str] = Counter()
        self.durations = Tally(FAST_S)

    async def ask(self, question: Question, peers: Sequence[str]) -> A | None:
        """Return the first answer that is not ``unknown``; None if there is none in time.

        The next peer is asked when the last one has answered ``unknown`` or failed, or its share of the time is over.

        Args:
            question: returns the body of the call in a version.
            peers: their URLs, in the order in which they are asked.
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

    async def _ask_one(self, peer: str, question: Question, found: list[A], scope: anyio.CancelScope, done: anyio.Event) -> None:
        about = self._peers[peer]
        async with about.limit:
            answer = await self._answer_of(peer, question, about.breaker)
        if answer is not None and answer.says != "unknown" and not found:
            found.append(answer)
            scope.cancel()
        done.set()

    async def _answer_of(self, peer: str, question: Question, breaker: Breaker) -> A | None:
        begun_s = self._clock.boot_s()
        if not breaker.allows(begun_s):
            self.results["breaker_open"] += 1
            return None
        answer, result = None, "failed"
        version = self._version_for(peer)
        body = question(version)
        try:
            answer = self._decode(await self._call(peer, self._name, body, self._timeout_s))
        except PeerFailure:
            pass
        except (ValueError, RecursionError):
            result = self._blame(peer, "garbage")
        except anyio.get_cancelled_exc_class():
            # Either the time was over, and the peer has stalled; or another peer was faster, which is no fault of this one.
            stalled = self._clock.boot_s() - begun_s >= self._timeout_s / 2
            if stalled:
                self._blame(peer, "stalled")
            result = "failed" if stalled else "outrun"
            raise
        else:
            if answer.version != version and answer.says != "unknown":  # which a peer says that could not read the question
                result = self._blame(peer, "garbage")
            else:
                result = answer.says if self._is_about(answer, body) else self._blame(peer, "lied")
        finally:
            self.durations.observe(self._clock.boot_s() - begun_s)
            self._count(result, breaker)
        return answer if result not in ("failed", "garbage", "lied") else None

    def _blame(self, peer: str, fault: Fault) -> str:
        self._faults.note(peer, fault)
        return fault

    def _count(self, result: str, breaker: Breaker) -> None:
        self.results[result] += 1
        if result in ("failed", "garbage", "lied"):
            breaker.failed(self._clock.boot_s())
        elif result != "outrun":
            breaker.succeeded()
