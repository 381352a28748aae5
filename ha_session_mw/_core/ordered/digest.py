"""A sum over the entries of an ordered log, which two nodes compare at one position to find out whether one has missed a change.

The sum depends on the keys in the log at that position alone, neither on their order nor on entries that a node knows besides.
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
"""Fewest changes for which earlier sums are kept. A node that lags further is compared by a later heartbeat."""


def _number(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=_SIZE).digest())


def sum_of(keys: Iterable[str]) -> int:
    """Return the amount that entries with these keys add to the sum."""
    return sum(map(_number, keys))


class Digest:
    """The present sum, and the sums at the latest positions."""

    __slots__ = ("_positions", "_sum", "_sums")

    def __init__(self) -> None:
        self.begin(0, 0)

    def begin(self, position: int, total: int) -> None:
        """Begin with a log that was read as a whole at a position."""
        self._sum = total & _ALL
        self._positions = [position]
        self._sums = [self._sum]

    def add(self, key: str) -> None:
        """Add the key of a new entry."""
        self._sum = self._sum + _number(key) & _ALL

    def remove(self, key: str) -> None:
        """Remove the key of a deleted entry."""
        self._sum = self._sum - _number(key) & _ALL

    def mark(self, position: int) -> None:
        """Keep the sum at a position, once all changes up to it are known."""
        if self._sum != self._sums[-1]:
            self._positions.append(position)
            self._sums.append(self._sum)
            if len(self._sums) > 2 * _MOST_MARKS:
                del self._positions[:_MOST_MARKS], self._sums[:_MOST_MARKS]

    @property
    def last(self) -> bytes:
        """The sum at the last marked position."""
        return self._sums[-1].to_bytes(_SIZE)

    def at(self, position: int) -> bytes | None:
        """Return the sum at an earlier position; None if that position is too old."""
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
