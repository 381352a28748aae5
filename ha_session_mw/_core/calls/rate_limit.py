"""A rate limiter: allows a burst, and a steady rate in the long run. Reads no clock."""

from __future__ import annotations

import math


class RateLimiter:
    """A leaky bucket as one number: the generic cell rate algorithm (GCRA, ITU-T I.371).

    Args:
        per_s: the amount that refills per second.
        at_once: the size of the bucket. The bucket is full at first.
    """

    __slots__ = ("_even_at_s", "_full_s", "_per_s")

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s = per_s
        self._full_s = at_once / per_s
        self._even_at_s = -math.inf
        """The time at which the amount spent so far has refilled (GCRA's theoretical arrival time)."""

    def spend(self, amount: float, now_s: float, *, patience_s: float = math.inf) -> float | None:
        """Spend an amount, and return the seconds to wait for it; None, with nothing spent, if that is longer than ``patience_s``."""
        even_at_s = self._after(amount, now_s)
        wait_s = max(0.0, even_at_s - now_s)
        if wait_s > patience_s:
            return None
        self._even_at_s = even_at_s
        return wait_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return the seconds to wait for an amount, without spending it."""
        return max(0.0, self._after(amount, now_s) - now_s)

    def _after(self, amount: float, now_s: float) -> float:
        return max(self._even_at_s, now_s - self._full_s) + amount / self._per_s
