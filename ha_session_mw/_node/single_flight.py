"""One question at a time for all callers that ask the same. An answer serves only callers that came before its question was sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

from .background import Background

MOST_FLIGHTS = 1024
"""Most questions under way or waiting: a bound on the memory and the calls that a flood of new tokens can cause."""

T = TypeVar("T")
Fly = Callable[[], Awaitable[T | None]]


class _Flight(Generic[T]):
    """One question, waiting or under way, and its answer."""

    __slots__ = ("answer", "landed", "previous")

    def __init__(self, previous: _Flight[T] | None) -> None:
        self.previous = previous
        self.answer: T | None = None
        self.landed = anyio.Event()


class SingleFlight(Generic[T]):
    """Asks questions, each once for all callers that wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Flight[T]] = {}
        self._flying: dict[Hashable, _Flight[T]] = {}
        self._background = Background()

    async def run(self) -> None:
        """Run the flights until cancelled. A caller that is cancelled does not cancel the others."""
        await self._background.run()

    def has_room(self) -> bool:
        """Whether there is room for a new question."""
        return self._background.is_running and len(self) < MOST_FLIGHTS

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    async def join(self, question: Hashable, fly: Fly[T]) -> T | None:
        """Return what ``fly`` returns: one call serves all callers that come before the question is sent.

        Args:
            question: tells equal questions from others.
            fly: asks the question.

        Returns:
            The answer; None, too, if there is no room.
        """
        flight = self._waiting.get(question)
        if flight is None:
            if not self.has_room():
                return None
            # A flight under way was sent before this caller came, so its answer proves nothing for this caller.
            flight = self._waiting[question] = _Flight(self._flying.get(question))
            self._background.start(self._carry, flight, question, fly)
        await flight.landed.wait()
        return flight.answer

    async def _carry(self, flight: _Flight[T], question: Hashable, fly: Fly[T]) -> None:
        try:
            if flight.previous is not None:
                await flight.previous.landed.wait()
                flight.previous = None
            self._flying[question] = flight
            del self._waiting[question]
            flight.answer = await fly()
        finally:
            if self._waiting.get(question) is flight:
                del self._waiting[question]
            if self._flying.get(question) is flight:
                del self._flying[question]
            flight.landed.set()
