"""Items in the order of their ends: finds those whose time has come without a look at the others."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

SPARE = 64
"""How many removed items may wait in the order in any case, so that few items are not put in order again and again."""


class Deadlines(Generic[T]):
    """Items with an end each. Adding one and taking one out cost the logarithm of their number, and removing one costs nothing.

    A removed item leaves the order with its end, or once it holds more removed items than others.
    """

    def __init__(self) -> None:
        self._ends: dict[T, int] = {}
        self._order: list[tuple[int, int, T]] = []
        self._number = count()  # items of one end need not be comparable

    def add(self, item: T, end: int) -> None:
        """Add an item."""
        self._ends[item] = end
        heappush(self._order, (end, next(self._number), item))

    def discard(self, item: T) -> None:
        """Remove an item, if it is there."""
        if self._ends.pop(item, None) is not None and len(self._order) > 2 * len(self._ends) + SPARE:
            self._order = [entry for entry in self._order if entry[2] in self._ends]
            heapify(self._order)

    def take_due(self, now: float) -> Iterator[T]:
        """Remove the items whose ends have come, and return them, the earliest first."""
        while self._order and self._order[0][0] <= now:
            item = heappop(self._order)[2]
            if self._ends.pop(item, None) is not None:
                yield item

    def __len__(self) -> int:
        return len(self._ends)
