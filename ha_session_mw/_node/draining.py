"""The way of a node out of service. It says so, and serves on until the balancers know. It leaves the cluster when its server stops."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..abc import Clock, ClusterLog

logger = logging.getLogger("ha_session_mw")

DRAINING = "draining: this node is about to stop"
"""Why a node is not ready that drains."""


class Draining:
    """Whether this node drains, and since when.

    Args:
        clock: measures the delay.
        delay_s: how long the node goes on before its server may stop: until each balancer has asked ``readyz`` often enough.
        log: returns the cluster's log.

    Attributes:
        begun: whether the node drains.
    """

    def __init__(self, clock: Clock, delay_s: float, log: Callable[[], ClusterLog]) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._log = log
        self._until_s = 0.0
        self._callbacks: list[Callable[[], None]] = []
        self.begun = False

    def on_begin(self, callback: Callable[[], None]) -> None:
        """Call a function when the node begins to drain."""
        self._callbacks.append(callback)

    def start_anew(self) -> None:
        """Begin as a node that does not drain: its server has started again."""
        self.begun = False

    def begin(self) -> None:
        """Drain from now on. Requests go on as before, but ``readyz`` and the heartbeats say that the node is about to stop."""
        if self.begun:
            return
        self.begun = True
        self._until_s = self._clock.boot_s() + self._delay_s
        logger.info("this node drains: it is about to stop")
        self._log().drain()
        for callback in self._callbacks:
            callback()

    async def drain(self) -> None:
        """Drain, and return once the server may stop: the delay has passed, and the others have what this node alone had."""
        self.begin()
        await self._clock.sleep(max(0.0, self._until_s - self._clock.boot_s()))
        await self._log().hand_over()
