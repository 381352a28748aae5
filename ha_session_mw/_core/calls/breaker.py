"""A circuit breaker: stops calls to a peer for a while after several failures in a row. Reads no clock."""

from __future__ import annotations

import math

FAILURES = 3
"""Consecutive failures that open the breaker. One lost packet is normal; three in a row are a pattern."""

PAUSE_S = 1.0
"""The first pause, in seconds. Each failed attempt after a pause doubles it."""
MAX_PAUSE_S = 15.0
"""The longest pause, in seconds. A peer that recovers is called again within this time."""


class Breaker:
    """Opens after ``FAILURES`` failures in a row, and lets one attempt through after a pause. The pause doubles if the attempt fails."""

    __slots__ = ("_failures", "_open_until_s", "_pause_s", "_trying")

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until_s = -math.inf
        self._trying = False

    def allows(self, now_s: float) -> bool:
        """Return whether an attempt may be made now. The caller must report the result of each attempt."""
        if now_s < self._open_until_s:
            return False
        if self._failures >= FAILURES:
            self._trying = True
            self._open_until_s = now_s + self._pause_s  # other calls wait for the result of this attempt
        return True

    def succeeded(self) -> None:
        self._failures, self._pause_s, self._open_until_s, self._trying = 0, PAUSE_S, -math.inf, False

    def failed(self, now_s: float) -> None:
        self._failures += 1
        # Attempts that were in flight when the breaker opened carry no news.
        if self._failures == FAILURES or self._trying:
            self._trying = False
            self._open_until_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)
