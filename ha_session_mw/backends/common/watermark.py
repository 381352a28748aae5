"""A position that only rises, and the tasks that wait until it is high enough. Each of them is woken once, and few at a time."""

from __future__ import annotations

from heapq import heappop, heappush

import anyio

AWAKE, AWAKE_SHARE = 8, 8
"""How many tasks may be awake that have not run yet: so many, or such a part of those that are due.

A fence can release hundreds of log-outs at once, and each has its answer to send. Other requests get their turn in between, and a busy
event loop still catches up."""


class Watermark:
    """The position up to which a log has come, in some respect.

    Attributes:
        position: that position.
    """

    __slots__ = ("_awake", "_due", "_heights", "_waiting", "position")

    def __init__(self) -> None:
        self.position = 0
        self._waiting: dict[int, dict[anyio.Event, None]] = {}
        self._heights: list[int] = []
        """A heap of the positions that tasks wait for."""
        self._due: dict[anyio.Event, None] = {}
        """The tasks whose position was reached, and which are not awake yet."""
        self._awake = 0

    def rise(self, position: int) -> None:
        """Set the position, unless it is higher already, and wake those that wait for it."""
        if position <= self.position:
            return
        self.position = position
        while self._heights and self._heights[0] <= position:
            self._due |= self._waiting.pop(heappop(self._heights))
        self._wake_some()

    async def reached(self, position: int) -> None:
        """Return once the position is that high."""
        if position <= self.position:
            return
        if (others := self._waiting.get(position)) is None:
            others = self._waiting[position] = {}
            heappush(self._heights, position)
        others[turn := anyio.Event()] = None
        try:
            await turn.wait()
        finally:
            self._awake -= turn.is_set()
            others.pop(turn, None)
            self._due.pop(turn, None)
            self._wake_some()

    def _wake_some(self) -> None:
        while self._due and self._awake < max(AWAKE, len(self._due) // AWAKE_SHARE):
            turn = next(iter(self._due))
            del self._due[turn]
            self._awake += 1
            turn.set()
