"""The wall clock of a node that has no other clocks to compare with: the boot-time clock, which never steps, vouches for it."""

from __future__ import annotations

import math

from ..._core.cluster.members import TRUSTED_SKEW_MS
from ...abc import Clock

NOT_TRUSTED = "the wall clock was set by more than 30 s, and is not trusted yet"
"""Why a node whose clock was set is not ready."""
PROVEN_AFTER_S = 60.0
"""How long a clock that was set must keep its new time before it is trusted: a mistake of seconds must end no session."""


class OwnClock:
    """Tells whether the wall clock still shows the time that it has shown since the start.

    A clock that moves by more than 30 s against the boot-time clock is not trusted. It is again once it is back, or has kept its new
    time for ``PROVEN_AFTER_S``. Smaller steps are within the leeway of tokens.

    Args:
        clock: the two clocks.
        seen_ms: a time that the wall clock of this machine has shown before, as far as is known.

    Attributes:
        ahead_ms: the lead of the wall clock over the boot-time clock, if it is trusted; else NaN.
    """

    def __init__(self, clock: Clock, *, seen_ms: float = -math.inf) -> None:
        self._clock = clock
        self.ahead_ms = math.nan
        self._proven_ms = self._new_ms = self._lead_ms()
        if seen_ms - clock.wall_s() * 1000 > TRUSTED_SKEW_MS:  # it was set back before this process began
            self._proven_ms = seen_ms - clock.boot_s() * 1000
        self._new_since_s = clock.boot_s()

    def _lead_ms(self) -> float:
        return (self._clock.wall_s() - self._clock.boot_s()) * 1000

    def is_trusted(self) -> bool:
        """Whether the wall clock is right, as far as this node can tell; sets ``ahead_ms``."""
        lead_ms, now_s = self._lead_ms(), self._clock.boot_s()
        if abs(lead_ms - self._new_ms) > TRUSTED_SKEW_MS:
            self._new_ms, self._new_since_s = lead_ms, now_s
        elif now_s - self._new_since_s >= PROVEN_AFTER_S:
            self._proven_ms = self._new_ms = lead_ms
            self._new_since_s = now_s
        trusted = abs(lead_ms - self._proven_ms) <= TRUSTED_SKEW_MS
        self.ahead_ms = lead_ms if trusted else math.nan
        return trusted
