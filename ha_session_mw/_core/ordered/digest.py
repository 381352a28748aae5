"""A short sum of the entries that live in an ordered log, which any two nodes can compare at one position.

It is a function of the log at that position, and of nothing else: of the order in which entries came it knows nothing, nor of what
a node has known besides. Two nodes that have read the same log have the same digest, and one that has missed something has not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise

from ..cluster.invariants import ensure

_SIZE = 16
_ALL = (1 << 8 * _SIZE) - 1
_MOST_MARKS = 1024
"""How far back the beat of another node may lie that is compared: so many changes. One that lags further is compared by a later beat."""


def _number(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=_SIZE).digest())


def sum_of(keys: Iterable[str]) -> int:
    """What some entries add to the sum of all."""
    return sum(map(_number, keys))


class Digest:
    """The sum now, and what it was at the latest positions."""

    __slots__ = ("_positions", "_sum", "_sums")

    def __init__(self) -> None:
        self.begin(0, 0)

    def begin(self, position: int, total: int) -> None:
        """The log was read as a whole: that is the sum of all of its entries at that position."""
        self._sum = total & _ALL
        self._positions = [position]
        self._sums = [self._sum]

    def add(self, key: str) -> None:
        """An entry that was not there has come."""
        self._sum = self._sum + _number(key) & _ALL

    def remove(self, key: str) -> None:
        """An entry that was there has gone."""
        self._sum = self._sum - _number(key) & _ALL

    def mark(self, position: int) -> None:
        """All changes up to that position have been told."""
        if self._sum != self._sums[-1]:
            self._positions.append(position)
            self._sums.append(self._sum)
            if len(self._sums) > 2 * _MOST_MARKS:
                del self._positions[:_MOST_MARKS], self._sums[:_MOST_MARKS]

    @property
    def last(self) -> bytes:
        """What it was at the last position that was marked."""
        return self._sums[-1].to_bytes(_SIZE)

    def at(self, position: int) -> bytes | None:
        """What it was at a position that has been marked, or passed; None where that is too long ago to tell."""
        found = bisect_right(self._positions, position)
        return self._sums[found - 1].to_bytes(_SIZE) if found else None

    def check(self, position: int) -> None:
        """Check what must hold once all changes up to a position are marked.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(all(one < other for one, other in pairwise(self._positions)), "marked positions go forward")
        ensure(self._positions[-1] <= position, "no position is marked that was not applied")
        ensure(self._sums[-1] == self._sum, "every change is marked")
        ensure(len(self._positions) == len(self._sums) <= 2 * _MOST_MARKS, "as many positions as sums are kept, and not too many")
