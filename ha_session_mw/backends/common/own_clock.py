"""The wall clock of a node that has no other clocks to compare with: the boot-time clock, which never steps, vouches for it."""

from __future__ import annotations

import math

from ..._core.cluster.proven_lead import TRUSTED_SKEW_MS, ProvenLead
from ...abc import Clock

NOT_TRUSTED = "the wall clock was set by more than 30 s, and is not trusted yet"
"""Why a node whose clock was set is not ready."""


class OwnClock:
    """Tells whether the wall clock still shows the time that it has shown since the start; see :class:`.ProvenLead`.

    Args:
        clock: the two clocks.
        seen_ms: a time that the wall clock of this machine has shown before, as far as is known.

    Attributes:
        ahead_ms: the lead of the wall clock over the boot-time clock, if it is trusted; else NaN.
    """

    def __init__(self, clock: Clock, *, seen_ms: float = -math.inf) -> None:
        self._clock = clock
        self.ahead_ms = math.nan
        self._lead = ProvenLead(self._lead_ms(), clock.boot_s())
        if seen_ms - clock.wall_s() * 1000 > TRUSTED_SKEW_MS:  # it was set back before this process began
            self._lead.proven_ms = seen_ms - clock.boot_s() * 1000

    def _lead_ms(self) -> float:
        return (self._clock.wall_s() - self._clock.boot_s()) * 1000

    def is_trusted(self) -> bool:
        """Whether the wall clock is right, as far as this node can tell; sets ``ahead_ms``."""
        lead_ms = self._lead_ms()
        trusted = self._lead.is_kept(lead_ms, self._clock.boot_s())
        self.ahead_ms = lead_ms if trusted else math.nan
        return trusted
