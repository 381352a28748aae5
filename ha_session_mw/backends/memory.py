"""``memory://``: the log of one process. Nothing survives a restart; it is the reference of how the others behave."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._core.view import FLOOR_MARGIN_MS, View
from ..abc import Clock, ClusterLog, Receipt
from ..models import Entry, KeyId


class MemoryLog(ClusterLog):
    """Whatever is acknowledged has been merged into the only view there is, so that view is always fresh."""

    def __init__(self, view: View, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._position = 0
        view.fresh_at = math.inf

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.refresh()
        for entry in entries:
            self._view.merge(entry)
        self._position += len(entries)
        return Receipt(self._position, self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        """Nobody else is there to confirm anything."""

    def refresh(self) -> None:
        self._view.raise_floor(int(self._clock.wall_s() * 1000) - FLOOR_MARGIN_MS)

    def announced_kids(self) -> Sequence[frozenset[KeyId]]:
        return ()

    def why_not_ready(self) -> str | None:
        return None
