"""``memory://``: the log of one process. Nothing survives a restart; it is the reference of how the others behave."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._core.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from .._core.view import FLOOR_MARGIN_MS, View
from ..abc import Clock, ClusterLog, Receipt
from ..models import Entry


class MemoryLog(ClusterLog):
    """Whatever is acknowledged has been merged into the only view there is, so that view is always fresh."""

    def __init__(self, view: View, clock: Clock, own: Heartbeat) -> None:
        self._view = view
        self._clock = clock
        self._absolute_ms = own.absolute_ms
        self._position = 0
        self.freshness_limit_s = own.freshness_limit_s
        self.trusted_ahead_ms = math.nan
        view.fresh_at = math.inf
        view.forgotten_cuts_end_ms = math.inf  # unknown ones are those of an earlier process, and nobody can tell of them

    def apply(self, entries: Sequence[Entry]) -> None:
        self.refresh()
        for entry in entries:
            self._view.merge(entry)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        self._position += len(entries)
        return Receipt(self._position, self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        """Nobody else is there to confirm anything."""

    async def changed(self) -> None:
        """Nothing is on its way from anywhere."""

    def refresh(self) -> None:
        self._view.raise_floor(self._wall_ms() - FLOOR_MARGIN_MS)

    def trusts_clock(self) -> bool:
        self.trusted_ahead_ms = (self._clock.wall_s() - self._clock.boot_s()) * 1000
        return True  # there is no other to compare with

    def is_starting(self) -> bool:
        return False

    def members(self) -> Sequence[Heartbeat]:
        return ()

    def unknown_end_ms(self) -> int:
        return self._wall_ms() + self._absolute_ms + UNKNOWN_END_MARGIN_MS

    def why_not_ready(self) -> str | None:
        return None

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)
