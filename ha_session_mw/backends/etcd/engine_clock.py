"""How this machine's wall clock compares with etcd's."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from ..._core.cluster.freshness import Moment

READ_EVERY_S = 5.0
"""How often a date is read. Parsing it takes some microseconds, and a clock seldom changes."""
_RESOLUTION_MS = 1000.0


class EngineClock:
    """The clock of the etcd member that answered last, by the ``Date`` fields of its answers (RFC 9110, section 6.6.1).

    Such a field tells whole seconds, and an answer takes time. So the member's clock is known within bounds, and a difference that may be
    due to either is none.
    """

    def __init__(self) -> None:
        self._read_at_s = -READ_EVERY_S
        self._over_boot_ms: tuple[float, float] | None = None  # bounds of its lead over our boot-time clock, which is never set

    def read(self, headers: Mapping[str, str], sent_s: float, received_s: float) -> None:
        """Take the date of an answer. Both moments are readings of the boot-time clock."""
        if received_s - self._read_at_s < READ_EVERY_S or "date" not in headers:
            return
        self._read_at_s = received_s
        try:
            date_ms = parsedate_to_datetime(headers["date"]).timestamp() * 1000
        except (ValueError, OverflowError):  # a proxy's own idea of a date tells nothing
            return
        self._over_boot_ms = (date_ms - received_s * 1000, date_ms + _RESOLUTION_MS - sent_s * 1000)

    def ahead_s(self, now: Moment) -> float | None:
        """Return by how many seconds at least the member's clock is ahead of this machine's; None if that is not known."""
        if self._over_boot_ms is None:
            return None
        own_ms = now.wall_ms - now.boot_s * 1000
        earliest_ms, latest_ms = self._over_boot_ms
        return (max(earliest_ms - own_ms, 0.0) + min(latest_ms - own_ms, 0.0)) / 1000
