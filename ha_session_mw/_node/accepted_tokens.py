"""Counts the accepted tokens, and picks the samples among them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat, starmap
from operator import length_hint

SAMPLE_EVERY = 64
"""One of so many accepted tokens is a sample: often enough for a histogram, and no request pays for the others."""


class AcceptedTokens:
    """Counts accepted tokens. One turn of a loop over an iterator counts a token and reads the clock for it, and takes less than either.

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
        self.begin()

    def begin(self) -> None:
        """Begin anew, after a sample was due."""
        self._before += SAMPLE_EVERY
        self.left = repeat((), SAMPLE_EVERY)
        self.readings = starmap(self._wall_s, self.left)

    def take_back(self) -> None:
        """The token whose time was read last was not accepted."""
        self._before -= 1

    def __len__(self) -> int:
        return self._before + SAMPLE_EVERY - length_hint(self.left)
