"""One question at a time for many who ask the same: each is served by a question that was sent after it came, and no earlier one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio
import anyio.abc

MOST_FLIGHTS = 1024
"""Questions under way or about to be."""

T = TypeVar("T")
Fly = Callable[[], Awaitable[T | None]]


class _Flight(Generic[T]):
    """One question under way, or about to be, and what comes of it."""

    __slots__ = ("answer", "landed", "previous")

    def __init__(self, previous: _Flight[T] | None) -> None:
        self.previous = previous
        self.answer: T | None = None
        self.landed = anyio.Event()


class SingleFlight(Generic[T]):
    """Carries questions, each for all that wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Flight[T]] = {}
        self._flying: dict[Hashable, _Flight[T]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Carries the flights, so that a caller who is cancelled does not cancel the others."""
        async with anyio.create_task_group() as self._tasks:
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    def has_room(self) -> bool:
        """Whether a question that nobody has asked can be taken along."""
        return self._tasks is not None and len(self) < MOST_FLIGHTS

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    async def join(self, question: Hashable, fly: Fly[T]) -> T | None:
        """What ``fly`` returns, called by this one or by another who came while the question had not been sent yet.

        None, too, where there is no room.
        """
        flight = self._waiting.get(question)
        if flight is None:
            if self._tasks is None or not self.has_room():
                return None
            # The question of a flight that is under way was sent before this request came, and so proves nothing for it.
            flight = self._waiting[question] = _Flight(self._flying.get(question))
            self._tasks.start_soon(self._carry, flight, question, fly)
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
