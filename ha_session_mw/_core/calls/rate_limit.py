"""How fast somebody may go on: so much at once, and so much a second in the long run. Reads no clock."""

from __future__ import annotations

import math


class RateLimiter:
    """An allowance that is used up and refills (the generic cell rate algorithm, as one number).

    Args:
        per_s: how much of it refills in a second.
        at_once: how much there is at the most, and at first.
    """

    __slots__ = ("_even_at_s", "_full_s", "_per_s")

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s = per_s
        self._full_s = at_once / per_s
        self._even_at_s = -math.inf
        """When what was used will have been refilled up to nothing."""

    def spend(self, amount: float, now_s: float, *, patience_s: float = math.inf) -> float | None:
        """How long to wait until that much was to be had; None, and nothing is used, where that is longer than ``patience_s``."""
        even_at_s = max(self._even_at_s, now_s - self._full_s) + amount / self._per_s
        wait_s = max(0.0, even_at_s - now_s)
        if wait_s > patience_s:
            return None
        self._even_at_s = even_at_s
        return wait_s
