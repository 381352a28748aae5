"""When a log-out in an ordered log is in force everywhere: no process can hold a lease from before it any more.

Each process derives this for itself, from what it has read in the log.
"""

from __future__ import annotations

import math

from ..cluster.freshness import fence_wait_s
from ..cluster.members import Members
from .leases import Leases
from .standstill import Standstill


class Fence:
    """The account of one process.

    Args:
        members: the other processes, with their limits.
        leases: what each of them has confirmed, and when its lease ends.
        standstill: the times in which silence proves nothing.
    """

    __slots__ = ("_leases", "_members", "_standstill")

    def __init__(self, members: Members, leases: Leases, standstill: Standstill) -> None:
        self._members = members
        self._leases = leases
        self._standstill = standstill

    @property
    def wait_s(self) -> float:
        """The length of the longest lease, with a margin."""
        _, longest_s = self._leases.limits(self._members.own.freshness_limit_s)
        return max(self._members.fence_wait_s, fence_wait_s(longest_s))

    def by(self, position: int, durable_s: float, *, has_read: bool) -> float:
        """Return the boot time from which every node refuses the requests that the entries up to this position deny.

        The time is in the past if that holds already.

        Args:
            position: where the entries were written, as the engine said.
            durable_s: the boot time at which this node knew that.
            has_read: whether this process can rely on having read the log up to there.

        Every lease that began before the entries were durable is over after a lease's length. The fence may come sooner. A node that has
        read the log up to the position knows all processes that may hold a lease. It waits only for those that have not confirmed.
        """
        least_s, _ = self._leases.limits(self._members.own.freshness_limit_s)
        latest_s = durable_s + self.wait_s
        if not has_read or self._standstill.may_stand(durable_s, least_s):
            return latest_s
        return min(latest_s, self._leases.lack_until(position, self.wait_s, self._standstill.lapsed_s))

    def confirmed(self, now_s: float) -> float:
        """The position up to which all others that may hold a lease have confirmed the log; infinity if there is no such process.

        Args:
            now_s: the boot-time clock.
        """
        until_s = now_s - self.wait_s
        return self._leases.confirmed(-math.inf if self._standstill.lapsed_s > until_s else until_s)
