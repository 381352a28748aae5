"""``memory://``: the log of one process. Nothing survives a restart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from ..._core.cluster.view import FLOOR_MARGIN_MS, View
from ...abc import Clock, ClusterLog, Receipt
from ...models import Entry


class MemoryLog(ClusterLog):
    """The log of the only node. Each entry is merged into the only view before it is acknowledged, so the view is always fresh."""

    def __init__(self, view: View, clock: Clock, own: Heartbeat) -> None:
        self._view = view
        self._clock = clock
        self._absolute_ms = own.absolute_ms
        self._position = 0
        self.freshness_limit_s = own.freshness_limit_s
        self.trusted_ahead_ms = math.nan
        view.fresh_at = math.inf
        view.forgotten_cuts_end_ms = math.inf  # an unknown cut is from an earlier process, and is lost

    def apply(self, entries: Sequence[Entry]) -> None:
        self.tick()
        for entry in entries:
            self._view.merge(entry)

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        self._position += len(entries)
        return Receipt(self._position, self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        """Return at once: there is no other node to confirm anything."""

    async def wait_changed(self) -> None:
        """Return at once: no other node has news."""

    def tick(self) -> None:
        self._view.raise_floor(self._wall_ms() - FLOOR_MARGIN_MS)

    def trusts_clock(self) -> bool:
        self.trusted_ahead_ms = (self._clock.wall_s() - self._clock.boot_s()) * 1000
        return True  # there is no other clock to compare with

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
