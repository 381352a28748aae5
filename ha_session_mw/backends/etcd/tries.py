"""Hedged calls: endpoints are asked in turn, the next one without waiting for a slow one, and the first answer counts.

While a leader is elected, a request that a member has already accepted may be lost, and a new request is served. Asking again soon is
therefore better than waiting. Each endpoint serves at most one try of a call at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Generic, TypeVar

import anyio

from ...abc import Clock
from .api import TOO_LATE, EtcdError, EtcdFull, EtcdUnavailable

FAR = 4
"""Time limit of a try, in typical answers."""
AVERAGED = 8
"""Over so many answers the typical time is averaged."""
LATE_IN_A_ROW = 4
"""Tries in a row without any answer in time, after which the time limit doubles: a frozen member alone is no reason."""
ROUND_PAUSE_S = 0.05
"""Pause between two rounds through all endpoints, so that endpoints that fail at once are not flooded."""

T = TypeVar("T")


class Rotation:
    """The endpoints, and which of them is asked next.

    Args:
        endpoints: URLs, in the order in which they are asked.

    Attributes:
        turn: a counter; the endpoint to ask next is the one at this index, modulo their number.
    """

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self._endpoints = endpoints
        self.turn = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def endpoint(self, turn: int) -> str:
        """Return the URL of a turn."""
        return self._endpoints[turn % len(self._endpoints)]

    def move_on(self, turn: int) -> None:
        """Ask the next endpoint from now on. Of several calls that fail in the same turn, only the first has this effect."""
        if self.turn == turn:
            self.turn = turn + 1


class Patience:
    """How long one try may take: longer where all answers take long, because etcd is far away.

    Args:
        most_s: the longest time limit.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._typical_s = 0.0
        self._late = 0

    def limit_s(self, least_s: float) -> float:
        """Return the time limit of a try that begins now.

        Args:
            least_s: the time limit for an etcd that is near.
        """
        # Each few tries in a row that all came too late double it: nothing shorter would ever get an answer.
        return min(max(least_s, FAR * self._typical_s) * 2.0 ** (self._late // LATE_IN_A_ROW), self._most_s)

    def answered(self, took_s: float) -> None:
        """Take in how long an answer took."""
        self._late = 0
        self._typical_s += (took_s - self._typical_s) / AVERAGED

    def too_late(self) -> None:
        """Take in that there was no answer in time."""
        self._late = min(self._late + 1, 8 * LATE_IN_A_ROW)


class _Tries(Generic[T]):
    """The tries of one call.

    Attributes:
        running: how many tries have no outcome yet.
        latest: set when the latest try has failed, or the outcome of the call is known.
    """

    def __init__(self) -> None:
        self.running = 0
        self.latest = anyio.Event()
        self._answers: list[T] = []
        self._failure: EtcdError = EtcdUnavailable(TOO_LATE)

    def begin(self) -> anyio.Event:
        """Begin to wait for another try, or for the end of a pause."""
        self.latest = anyio.Event()
        return self.latest

    async def run(self, ask: Callable[[], Awaitable[T]], failed: anyio.Event) -> None:
        self.running += 1
        try:
            self._answers.append(await ask())
        except EtcdError as exc:
            if not self.are_over():
                self._failure = exc
        self.running -= 1
        (self.latest if self.are_over() else failed).set()

    def are_over(self) -> bool:
        """Return whether there is an answer, or a failure that every endpoint would repeat."""
        return bool(self._answers) or not isinstance(self._failure, EtcdUnavailable) or isinstance(self._failure, EtcdFull)

    def outcome(self) -> T:
        if self._answers:
            return self._answers[0]
        raise self._failure


async def first_answer(clock: Clock, rotation: Rotation, ask: Callable[[int], Awaitable[T]], *, try_s: float, within_s: float) -> T:
    """Return the first answer of the endpoints.

    Args:
        clock: bounds the tries.
        rotation: the endpoints.
        ask: asks the endpoint of a turn, and returns or fails within ``try_s``.
        try_s: the time limit of one try. The next endpoint is asked after this time divided by the number of endpoints.
        within_s: the time limit of all tries.

    Raises:
        EtcdError: every endpoint would repeat this failure, or there was no answer in time.
    """

    async def wait(seconds: float) -> None:
        with clock.move_on_after(seconds):
            await tries.latest.wait()

    tries = _Tries[T]()
    with clock.move_on_after(within_s):
        async with anyio.create_task_group() as tasks:
            for number in count(1):
                turn = rotation.turn
                tasks.start_soon(tries.run, partial(ask, turn), tries.begin())
                await wait(try_s / len(rotation))
                if not tries.are_over():
                    rotation.move_on(turn)
                    if number % len(rotation) == 0:
                        tries.begin()
                        await wait(ROUND_PAUSE_S)
                if tries.are_over():
                    break
            if tries.running:
                tasks.cancel_scope.cancel()
    return tries.outcome()
