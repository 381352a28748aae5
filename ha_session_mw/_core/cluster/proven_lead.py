"""Hold a wall clock, which may be set at any time, against the boot-time clock, which never steps. Reads no clock."""

from __future__ import annotations

TRUSTED_SKEW_MS = 30_000
"""Largest distance of a trusted clock from the median of the members', and largest step of a clock that stays trusted.

It is half of the leeway of not-before, and half of the margin of the floor."""

PROVEN_AFTER_S = 60.0
"""How long a clock that was set must keep its new time before it is trusted: a mistake of seconds must end no session."""


class ProvenLead:
    """The lead of a wall clock over the boot-time clock, as it has proved to be.

    A lead that changes by more than 30 s is not trusted. It is again once it is back, or has stayed the same for ``PROVEN_AFTER_S``.
    Smaller steps are within the leeway of tokens.

    Args:
        lead_ms: the lead at present, which is taken for right.
        now_s: the boot-time clock.

    Attributes:
        proven_ms: the lead that counts.
    """

    __slots__ = ("_new_ms", "_new_since_s", "proven_ms")

    def __init__(self, lead_ms: float, now_s: float) -> None:
        self.proven_ms = self._new_ms = lead_ms
        self._new_since_s = now_s

    def is_kept(self, lead_ms: float, now_s: float) -> bool:
        """Take in the lead at present; return whether it is still the proven one."""
        if abs(lead_ms - self._new_ms) > TRUSTED_SKEW_MS:
            self._new_ms, self._new_since_s = lead_ms, now_s
        elif now_s - self._new_since_s >= PROVEN_AFTER_S:
            self.proven_ms = self._new_ms = lead_ms
            self._new_since_s = now_s
        return abs(lead_ms - self.proven_ms) <= TRUSTED_SKEW_MS
