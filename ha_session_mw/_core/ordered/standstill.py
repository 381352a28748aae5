"""How a process stays fresh while the log takes no writes, and what other processes' fences must therefore wait for.

A full engine refuses heartbeats, and no heartbeat is read back. It still answers reads. If a read shows nothing that a process has not
applied, the process knows all that was logged before it asked. So it is fresh as of the *asking*. But no other process learns of
such a lease. A fence counts a process as gone if its last heartbeat is a lease's length old. So two rules belong together:

* A process counts such reads only while the log stands still: none of its reads has seen a write, of any process, for
  :func:`must_stand_s`. And its own heartbeat is still in the log, so that the others know of it.
* A process may find that its own heartbeats were read back further apart than :func:`may_stand_s`. Then the log may have stood still in
  between. Until the end of that gap, silence proves nothing, and each silent process is waited for from there.

The first time is longer than the second, on any two clocks. So a process that fences has seen a gap that covers every such lease. Suppose
that a lease rests on a read at time *s*, and an entry is logged later. The reads have seen no write for longer than the gap, up to *s*.
So none of the fencing process's heartbeats was written in that time. It reads back one from before and one from after, or none after.
"""

from __future__ import annotations

import math

from ..cluster.freshness import DRIFT


def must_stand_s(own_limit_s: float) -> float:
    """Return for how long a process must have seen no write before its reads count, by the freshness limit that it announces."""
    return own_limit_s / 2


def may_stand_s(least_limit_s: float) -> float:
    """Return the time between two own heartbeats in which the log may have stood still for another process, by the least limit known.

    It is shorter than :func:`must_stand_s` by more than clocks drift against each other.
    """
    return must_stand_s(least_limit_s) / DRIFT**2


class Standstill:
    """The times in which the log took no writes, as far as one process knows them.

    Attributes:
        beaten_s: when the newest own heartbeat was sent that has been read back; negative infinity if none has.
        lapsed_s: the end of the last time in which the log may have stood still; negative infinity if there was none.
        since_s: since when no read has seen a write; infinity if the log does not stand still, or nobody has looked.
    """

    __slots__ = ("beaten_s", "lapsed_s", "since_s")

    def __init__(self) -> None:
        self.beaten_s = -math.inf
        self.lapsed_s = -math.inf
        self.since_s = math.inf

    def read_back(self, sent_s: float, now_s: float, least_limit_s: float) -> None:
        """Take in that the own heartbeat that was sent then has been read back now."""
        if sent_s <= self.beaten_s:
            return
        if self.may_stand(now_s, least_limit_s):
            self.lapsed_s = now_s
        self.beaten_s = sent_s
        self.since_s = math.inf

    def may_stand(self, now_s: float, least_limit_s: float) -> bool:
        """Return whether the log may have stood still for another process since the last own heartbeat that was read back."""
        return now_s - self.beaten_s >= may_stand_s(least_limit_s)

    def write_seen(self) -> None:
        """Take in that somebody has written, or may have."""
        self.since_s = math.inf

    def looked(self, sent_s: float, now_s: float, own_limit_s: float) -> bool:
        """Take in that a read that was sent then has seen no write; return whether it counts."""
        if self.since_s == math.inf:
            self.since_s = now_s
            return False
        return sent_s >= self.counts_from_s(own_limit_s)

    def counts_from_s(self, own_limit_s: float) -> float:
        """Return the boot time from which reads count, if they see no write until then."""
        return self.since_s + must_stand_s(own_limit_s)
