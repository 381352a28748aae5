"""The parts that all tasks of one process on etcd share: state machine, connection, clock and present troubles."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ..._core.cluster.freshness import Moment
from ..._core.ordered.log import Ordered
from ..._core.ordered.ready import Ready
from ...abc import Clock
from ..common.trouble import Troubles
from .gateway import EtcdGateway
from .keys import Keys

logger = logging.getLogger("ha_session_mw.etcd")

AGAIN_S = 0.2
"""Pause after a failed call, so that calls that fail at once do not load etcd."""


class EtcdTroubles:
    """The present failures of following, writing, taking heartbeats and tidying.

    Args:
        on_change: called after each report. It may look at :attr:`current`.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._troubles = Troubles(logger)
        self._on_change = on_change

    @property
    def current(self) -> Mapping[str, str]:
        """Why each of them fails, in words fit to follow "etcd "."""
        return self._troubles.current

    def failed(self, what: str, why: str) -> None:
        """Report that something fails; log it if this is news."""
        self._troubles.begin(what, why, "etcd %s (%s)", why, what)
        self._on_change()

    def works(self, what: str) -> None:
        """Report that something works; log it if it failed before."""
        self._troubles.end(what, "etcd is well again (%s)", what)
        self._on_change()


@dataclass(frozen=True, slots=True)
class Process:
    """One process, from its start until it leaves. A process that starts again is another one.

    Attributes:
        ordered: the state machine.
        gateway: calls etcd.
        keys: the names of all keys.
        clock: the two clocks.
        troubles: takes reports of what fails and what works again.
        obey: does what the state machine asks for.
        wake: wakes everything that waits for a change.
        wait_changed: waits for a change.
    """

    ordered: Ordered
    gateway: EtcdGateway
    keys: Keys
    clock: Clock
    troubles: EtcdTroubles
    obey: Callable[[Ready], None]
    wake: Callable[[], None]
    wait_changed: Callable[[], Awaitable[None]]

    def now(self) -> Moment:
        return Moment(self.clock.boot_s(), self.clock.wall_s() * 1000)

    @property
    def is_set_back(self) -> bool:
        """Whether the log in etcd is older than what this process has applied. An operator must decide then."""
        return self.ordered.rolled_back is not None

    @property
    def heartbeat_key(self) -> bytes:
        """The key that only this process writes."""
        return self.keys.slot(self.ordered.slot)
