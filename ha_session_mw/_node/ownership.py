"""Which member owns a session, as this node sees the cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .._core.cluster.members import Heartbeat
from .._core.cluster.routing import OwnerTable, share_out
from ..abc import Clock
from ..events import ClusterEvent, MemberDraining, MemberJoined, MemberLeft
from ..models import NodeId

LOOK_EVERY_S = 1.0
"""Seconds after which the members are compared again. The log reports those that come and go at once, but not those that become ready."""


class Ownership:
    """Finds the owner of a session. The cost is the same for any number of members, until the members change.

    Args:
        own: returns this node's own heartbeat.
        others: returns those of the other live members.
        clock: the two clocks.
    """

    def __init__(self, own: Callable[[], Heartbeat], others: Callable[[], Iterable[Heartbeat]], clock: Clock) -> None:
        self._own = own
        self._others = others
        self._boot_s = clock.boot_s
        self._look_at_s = -math.inf
        self._table: OwnerTable | None = None

    def on_event(self, event: ClusterEvent) -> None:
        """Look at the members again before the next answer, if they have changed."""
        if isinstance(event, MemberJoined | MemberLeft | MemberDraining):
            self._look_at_s = -math.inf

    def owner_of(self, session_id: str) -> NodeId:
        """Return the member that owns a session."""
        now_s = self._boot_s()
        table = self._table
        if table is None or now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            table = self._look()
        return NodeId(table.owner_of(session_id))

    def _look(self) -> OwnerTable:
        own = self._own()
        weights = share_out((own, *self._others())) or {own.member: own.weight}
        if self._table is None or self._table.weights != weights:
            self._table = OwnerTable(weights)
        return self._table
