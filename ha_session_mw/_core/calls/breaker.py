"""A circuit breaker: whom not to ask for a while, because asking has failed several times in a row."""

from __future__ import annotations

import math

FAILURES = 3
"""One lost packet is nothing, and three in a row are a pattern."""

PAUSE_S = 1.0
MAX_PAUSE_S = 15.0
"""A peer that comes back is asked again within this time, whatever it was before."""


class Breaker:
    """Opens after some failures in a row, lets one attempt through after a pause, and pauses twice as long if that fails."""

    __slots__ = ("_failures", "_open_until_s", "_pause_s", "_trying")

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until_s = -math.inf
        self._trying = False

    def allows(self, now_s: float) -> bool:
        """Whether an attempt may be made now. One that is made must be reported."""
        if now_s < self._open_until_s:
            return False
        if self._failures >= FAILURES:
            self._trying = True
            self._open_until_s = now_s + self._pause_s  # others wait for what comes of this attempt
        return True

    def succeeded(self) -> None:
        self._failures, self._pause_s, self._open_until_s, self._trying = 0, PAUSE_S, -math.inf, False

    def failed(self, now_s: float) -> None:
        self._failures += 1
        # Attempts that were under way when it opened say nothing new.
        if self._failures == FAILURES or self._trying:
            self._trying = False
            self._open_until_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)
