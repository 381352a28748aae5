"""Counts tokens, and picks the samples among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat, starmap
from operator import length_hint

SAMPLE_EVERY = 64
"""One of so many tokens is a sample: often enough for a histogram, and no request pays for the others."""


class CountedTokens:
    """Counts tokens. One turn of a loop over an iterator counts a token and reads the clock for it, and takes less than either.

    The first token is a sample, unless :meth:`begin` is called before.

    Args:
        wall_s: the wall clock.

    Attributes:
        readings: gives the time of a token. It ends where the next token is a sample: :meth:`begin` then, and read again.
        left: gives one item for each reading that is left. For a token whose time is known.
    """

    __slots__ = ("_before", "_wall_s", "left", "readings")

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._before = -SAMPLE_EVERY
        self.left = repeat((), 0)
        self.readings: Iterator[float] = iter(())

    def begin(self) -> None:
        """Begin anew, after a sample was due."""
        if length_hint(self.left):  # another thread has begun meanwhile
            return
        self._before += SAMPLE_EVERY
        self.left = repeat((), SAMPLE_EVERY)
        self.readings = starmap(self._wall_s, self.left)

    def take_back(self) -> None:
        """Do not count the token whose time was read last."""
        self._before -= 1

    def __len__(self) -> int:
        return self._before + SAMPLE_EVERY - length_hint(self.left)
