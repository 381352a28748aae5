"""``memory://``: the log of one process. Nothing survives a restart."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from ..._core.cluster.members import UNKNOWN_END_MARGIN_MS, Heartbeat
from ..._core.cluster.view import FLOOR_MARGIN_MS, View
from ..._machine.siblings import siblings
from ...abc import Clock, ClusterLog, Receipt
from ...exceptions import QuorumLost
from ...models import Cut, Entry
from ..common.own_clock import NOT_TRUSTED, OwnClock

logger = logging.getLogger("ha_session_mw")

LOOK_EVERY_S = 1.0
"""Interval at which the process looks for others that serve the same port. Each log-out looks, too."""
NEWS_EVERY_S = 0.1
"""How long a caller that waits for news waits for nothing. Without a wait, a clock that is not trusted would stop the process."""
SHARED = (
    "other worker processes serve the same port, and with memory:// each knows only its own log-outs; "
    "set HA_SESSION_CLUSTER=sqlite:///path/of/a/file, or run one worker"
)


class MemoryLog(ClusterLog):
    """The log of the only node. Each entry is merged into the only view before it is acknowledged, so the view is always fresh.

    A clock that is not trusted makes it stale, because each request then asks for the clock.

    Args:
        view: the only view.
        clock: the two clocks.
        own: the constant parts of the node's heartbeat.
        has_siblings: whether other processes serve the same port. No log-out is fenced then, because they do not know of it.
    """

    is_alone = True

    def __init__(self, view: View, clock: Clock, own: Heartbeat, *, has_siblings: Callable[[], bool] = siblings.found) -> None:
        self._view = view
        self._clock = clock
        self._own_clock = OwnClock(clock)
        self._doubted = False
        self._absolute_ms = own.absolute_ms
        self._position = 0
        self._find_siblings = has_siblings
        self._has_siblings = False
        self._look_at_s = -math.inf
        self._has_reported = False
        self.freshness_limit_s = own.freshness_limit_s
        self.trusted_ahead_ms = math.nan
        view.fresh_at = math.inf
        view.forgotten_cuts_end_ms = math.inf  # an unknown cut is from an earlier process, and is lost

    def apply(self, entries: Sequence[Entry]) -> None:
        self.tick()
        for entry in entries:
            self._view.merge(entry)

    async def confirm(self) -> None:
        """Return at once: an entry is durable as soon as it is merged."""

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        self._position += len(entries)
        return Receipt(self._position, self._clock.boot_s())

    def may_lose(self, cut: Cut) -> bool:  # noqa: ARG002 - it is lost with the process alone, and the next one waits for no cut
        return False

    async def fence(self, receipt: Receipt) -> None:  # noqa: ARG002 - all entries are in the one view
        """Return at once: there is no other node to confirm anything.

        Raises:
            QuorumLost: other processes serve the same port, and do not know of the entries.
        """
        self._look_for_siblings()
        if self._has_siblings:
            raise QuorumLost(SHARED)

    async def wait_changed(self) -> None:
        """Return after a moment. No other node has news, but callers ask in a loop while the view is stale."""
        await self._clock.sleep(NEWS_EVERY_S)

    def tick(self) -> None:
        wall_ms = self._wall_ms()  # before the verdict: a clock that is set in between vouches for nothing
        if self.trusts_clock():
            self._view.raise_floor(wall_ms - FLOOR_MARGIN_MS)
        if self._clock.boot_s() >= self._look_at_s:
            self._look_for_siblings()

    def _look_for_siblings(self) -> None:
        self._look_at_s = self._clock.boot_s() + LOOK_EVERY_S
        self._has_siblings = self._find_siblings()
        if self._has_siblings and not self._has_reported:
            self._has_reported = True
            logger.error("HA_SESSION_CLUSTER: %s", SHARED)

    def trusts_clock(self) -> bool:
        trusted = self._own_clock.is_trusted()
        self.trusted_ahead_ms = self._own_clock.ahead_ms
        if trusted == self._doubted:  # a view that is not fresh makes each request ask for the clock
            self._view.fresh_at = math.inf if trusted else -math.inf
            self._doubted = not trusted
        return trusted

    def is_starting(self) -> bool:
        return False

    def members(self) -> Sequence[Heartbeat]:
        return ()

    def hears_all_kids(self) -> bool:
        return not self._has_siblings

    def position(self) -> int:
        return self._position

    def unknown_end_ms(self) -> int:
        return self._wall_ms() + self._absolute_ms + UNKNOWN_END_MARGIN_MS

    def why_not_ready(self) -> str | None:
        self._look_for_siblings()
        if self._has_siblings:
            return SHARED
        return None if self.trusts_clock() else NOT_TRUSTED

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)
