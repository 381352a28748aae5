"""Brings a change of the member list forward: decides when this node seals the old list, and when the new one stands alone."""

from __future__ import annotations

from collections.abc import Mapping

from ...models import Deny
from ..cluster.freshness import Moment
from .fence import Fence
from .membership import MARK_LIFE_MS, OPEN, SEALED, Change, Membership
from .peer import Peers, lists_heard_since


class Changing:
    """One node's part in a change of the list.

    Args:
        membership: its lists.
        started_s: when the process was started (boot-time clock).
    """

    __slots__ = ("_membership", "_seal_position", "_sealed_s", "_started_s")

    def __init__(self, membership: Membership, started_s: float) -> None:
        self._membership = membership
        self._started_s = started_s
        self._seal_position = 0
        self._sealed_s: float | None = None

    def note(self, id: str, position: int) -> bool:
        """Take note of an id that was denied; return whether this node now stands differently.

        Args:
            id: the id.
            position: the newest position of the own sequence, which has the entry.
        """
        if not self._membership.note(id):
            return False
        self._seal_position, self._sealed_s = position, None
        return True

    def next_act(self, peers: Peers, fence: Fence, fresh_s: float, now: Moment, *, wait_s: float, limit_s: float) -> Deny | None:
        """Return the entry by which this node brings the change forward now; None if it is not its turn.

        Args:
            peers: the other members.
            fence: of the own sequence.
            fresh_s: as of when this node knows all that a majority of each list knows (boot-time clock).
            now: the present moment.
            wait_s: how long a member counts as live after it was heard.
            limit_s: how old the knowledge of a node with a quorum is at most.
        """
        if not self._membership.is_joint:
            return None
        if self._membership.stage == OPEN and now.boot_s - fresh_s <= limit_s:
            heard = lists_heard_since(peers, now.boot_s - wait_s)
            # A process that has just started has not heard all live nodes yet.
            knows_all = len(heard) == len(peers) or now.boot_s - self._started_s > wait_s
            return self._entry(self._membership.seal(), now) if knows_all and self._is_due(heard) else None
        if self._membership.stage == SEALED:
            if self._sealed_s is None and fence.fenced >= self._seal_position:
                self._sealed_s = now.boot_s
            # Read after the seal was fenced: nothing is acknowledged under the old list any more, and this node knows all that ever was.
            if self._sealed_s is not None and fresh_s > self._sealed_s:
                return self._entry(self._membership.move(), now)
        return None

    def _is_due(self, heard: Mapping[str, tuple[str, ...]]) -> bool:
        """Return whether the old list may be sealed: no live node has it alone, as such a node would lose its quorum.

        The new list must be complete. If it is not, because a member is dead, an operator decides: by giving a node the new list alone.
        """
        old, new = self._membership.digests
        if (old,) in heard.values():
            return False
        is_complete = all(heard.get(member) == (old, new) for member in self._membership.lists[1] - {self._membership.me})
        return is_complete or (new,) in heard.values()

    @staticmethod
    def _entry(change: Change, now: Moment) -> Deny:
        return Deny(change.id, int(now.wall_ms) + MARK_LIFE_MS)
