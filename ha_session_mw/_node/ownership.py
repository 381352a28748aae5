"""Where a session belongs: the member that owns it, and the node from which it came."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable

import msgspec

from .._core.calls.origins import origin_of
from .._core.cluster.members import Heartbeat
from .._core.cluster.routing import OwnerTable, reason_of_transfer, share_out
from .._core.request_fields import Header
from .._core.structured_fields import transfer_field
from ..abc import Backend, Clock, ClusterLog
from ..events import ClusterEvent, MemberDraining, MemberJoined, MemberLeft
from ..exceptions import NotSupported
from ..models import NodeId

logger = logging.getLogger("ha_session_mw")

MOST_UNREACHABLE = 64
"""How many members are remembered that cannot be sent requests. They may come and go under new names."""
LOOK_EVERY_S = 1.0
"""Seconds after which the members are compared again. The log reports those that come and go at once."""
LOOK_SOON_S = 0.05
"""The same while one of them is starting: the log does not report when it becomes ready, and owns sessions."""


class Ownership:
    """Finds the owner of a session. The cost is the same for any number of members, until the members change.

    Args:
        own: this node's own heartbeat. Its state is not used.
        backend: of this node.
        log: returns the log of this node.
        clock: the two clocks.

    Attributes:
        redirected: how many requests were redirected to the owner of their session.
        forwards: the requests that were forwarded, by their end. ``answered``: by the owner. ``fell_back``: by this node, because the
            owner did not take them. ``refused``: by neither. ``unknown``, ``cut_off`` in the answer, ``gone``: the client was.
        unreachable_owners: why members cannot be sent requests, by their names.
    """

    def __init__(self, own: Heartbeat, backend: Backend, log: Callable[[], ClusterLog], clock: Clock) -> None:
        self._own = own
        self._scheme = backend.scheme
        self._knows_others = knows_others(backend)
        self._log = log
        self._boot_s = clock.boot_s
        self._look_at_s = -math.inf
        self._table: OwnerTable | None = None
        self.redirected = 0
        self.forwards: Counter[str] = Counter()
        self.unreachable_owners: dict[str, str] = {}

    def on_event(self, event: ClusterEvent) -> None:
        """Look at the members again before the next answer, if they have changed."""
        if isinstance(event, MemberJoined | MemberLeft | MemberDraining):
            self._look_at_s = -math.inf

    def owner_of(self, session_id: str) -> NodeId:
        """Return the member that owns a session.

        Raises:
            NotSupported: several processes may share these settings, and do not hear of each other.
        """
        if not self._knows_others:
            raise NotSupported(f"nodes on {self._scheme}:// do not know each other, so a session has no owner")
        now_s = self._boot_s()
        table = self._table
        if table is None or now_s >= self._look_at_s:
            table = self._look(now_s)
        return NodeId(table.owner_of(session_id))

    def elsewhere(self, session_id: str) -> Heartbeat | None:
        """Return the member that owns a session; None if that is this node, or if the owner left a moment ago."""
        owner = self.owner_of(session_id)
        if owner == self._own.member:
            return None
        return next((one for one in self._log().members() if one.member == owner), None)

    def shares_its_url(self) -> bool:
        """Whether another member announces the URL of this node, as workers behind one port do: a request there may get to either."""
        own = origin_of(self._own.url)
        return own is not None and any(origin_of(member.url) == own for member in self._log().members())

    def note(self, member: str, why: str | None) -> None:
        """Note why a member cannot be sent requests; None if it can. Each reason is logged once."""
        if why is None:
            self.unreachable_owners.pop(member, None)
        elif self.unreachable_owners.get(member) != why:
            if len(self.unreachable_owners) >= MOST_UNREACHABLE:
                self.unreachable_owners.clear()
            self.unreachable_owners[member] = why
            logger.warning("requests for sessions of node %s are answered here: %s. Is its HA_SESSION_ADVERTISE_URL right?", member, why)

    def _look(self, now_s: float) -> OwnerTable:
        log = self._log()
        state = "draining" if log.is_draining() else "starting" if log.is_starting() else "ready"
        own = msgspec.structs.replace(self._own, state=state)
        members = (own, *log.members())
        self._look_at_s = now_s + (LOOK_SOON_S if any(one.state == "starting" for one in members) else LOOK_EVERY_S)
        weights = share_out(members) or {own.member: own.weight}
        if self._table is None or self._table.weights != weights:
            self._table = OwnerTable(weights)
        return self._table

    def transfer_field(self, issuer: NodeId) -> Header | None:
        """Return the header field that says from which node a session came; None if this node issued its token.

        The reason is left out where nodes do not hear of each other.
        """
        node = self._own.member
        if issuer == node:
            return None
        return transfer_field(issuer, node, reason_of_transfer(issuer, self._log().members()) if self._knows_others else None)


def knows_others(backend: Backend) -> bool:
    """Whether a node knows all other nodes: it hears of them, or there are none."""
    return backend.hears_others or not backend.takes_workers
